"""The one place where the tests of vectors and assets touch the engine: its Python package.

KERNELS are the kernel sets this machine can run; EXACT those that compute quantized products with float
activations.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import realm
from numpy.typing import NDArray
from realm._host_session import HostSession
from realm._library import library
from realm._model import Model, ModelOptions
from realm._options import CPU_FEATURES as BITS

VECTORS = Path(__file__).parents[1] / "vectors"
CPU_FEATURES = {  # REALM_CPU_... of realm.h; each set needs those before it
    "portable": ["portable"],
    "avx2": ["portable", "avx2"],
    "avxvnni": ["portable", "avx2", "avxvnni"],
    "avx512": ["portable", "avx2", "avx512"],
    "amx": ["portable", "avx2", "avx512", "amx"],
}
KERNELS = [
    name
    for name, needed in CPU_FEATURES.items()
    if all(library().realm_cpu_features() & BITS[feature] for feature in needed)
]
KV_F32 = 1  # REALM_KV_F32
EXACT = {"portable"}

needs_assets = pytest.mark.skipif("REALM_ASSETS" not in os.environ, reason="skipped: REALM_ASSETS not set")


def assets() -> Path:
    return Path(os.environ.get("REALM_ASSETS", "assets-not-set"))


@contextmanager
def open_realm(path: Path, isa: str | None = None, mode: str = "full") -> Iterator[realm.Realm]:
    """A realm on one model, with an f32 KV cache; mode "vocab" reads no weights."""
    features = CPU_FEATURES[isa] if isa else None
    with realm.Realm(cpu_features=features, threads=2) as opened:
        opened.load_model(Model.load(opened._engine, path, ModelOptions(mode=mode, kv_type="f32")))
        assert isa is None or opened.stats()["kernels"] == isa
        yield opened


def logits(path: Path, ids: list[int], isa: str | None = None, chunk: int = 0) -> NDArray[np.float32]:
    """(number of ids, vocabulary); in one forward pass, or in passes of `chunk` ids each."""
    with open_realm(path, isa) as opened:
        if not chunk:
            return opened.logits(ids)
        model, size = opened.model.shared(), opened.model.info.vocab_size
        with HostSession(opened._engine, model, KV_F32) as session:
            parts = [session.logits(ids[at : at + chunk], size) for at in range(0, len(ids), chunk)]
        return np.concatenate(parts)


def greedy(path: Path, prompt: str, count: int, isa: str | None = None, **settings: Any) -> list[int]:
    """What the guest generates after the prompt: at most `count` ids."""
    with open_realm(path, isa) as opened:
        made = opened.generate(prompt, max_tokens=count, temperature=0, **settings)
    return list(made.tokens)


def greedy_after_ids(path: Path, ids: list[int], count: int, isa: str | None = None) -> list[int]:
    """The same from ids that no text gives, one forward pass for each."""
    made = list(ids)
    with open_realm(path, isa) as opened:
        for _ in range(count):
            made.append(int(opened.logits(made)[-1].argmax()))
    return made[len(ids) :]


def detokenized(opened: realm.Realm, ids: list[int], special: bool = False, text_start: bool = True) -> bytes:
    return opened.model.detokenize_bytes(ids, special=special, text_start=text_start)


def load_error(path: Path, mode: str = "full") -> realm.RealmError:
    """The error that loading the file must end in."""
    with pytest.raises(realm.RealmError) as caught, open_realm(path, mode=mode):
        pass
    return caught.value


def assert_greedy(made: list[int], expected: list[int], gaps: list[float], bound: float) -> None:
    """Equal ids as far as the best logit was ahead of the second by more than the bound."""
    sure = next((index for index, gap in enumerate(gaps) if gap <= bound), len(expected))
    assert made[:sure] == expected[:sure]
