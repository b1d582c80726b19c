"""The model files that conformance cases name: committed ones, and broken or foreign ones made from them
here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.vectors import quant_models

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "tests" / "vectors"
DEMO = ROOT / "demo_model" / "realm-demo.gguf"


def path(name: str, folder: Path) -> Path:
    """The file behind a case's model name; files that must be made are made in folder."""
    if name == "demo":
        return DEMO
    if name in MADE:
        target = folder / f"{name}.gguf"
        return target if target.exists() else MADE[name](target)
    return VECTORS / f"{name}.gguf"


def missing(target: Path) -> Path:
    return target


def directory(target: Path) -> Path:
    target.mkdir()
    return target


def written(data: Callable[[], bytes]) -> Callable[[Path], Path]:
    def make(target: Path) -> Path:
        target.write_bytes(data())
        return target

    return make


def chain() -> bytes:
    return (VECTORS / "model-chain.gguf").read_bytes()


MADE: dict[str, Callable[[Path], Path]] = {
    "missing": missing,
    "directory": directory,
    "empty": written(lambda: b""),
    "text": written(lambda: b"This is no model.\n" * 100),
    "truncated-header": written(lambda: chain()[:1000]),
    "truncated-weights": written(lambda: chain()[:-1000]),
    "version-9": written(lambda: chain()[:4] + b"\x09\x00\x00\x00" + chain()[8:]),
    "other-architecture": written(lambda: chain().replace(b"llama", b"mamba", 1)),
    "other-tensor-type": lambda target: quant_models.build("Q5_1", target.parent).rename(target),
    "quant-q8_0": lambda target: quant_models.build("Q8_0", target.parent).rename(target),
}
