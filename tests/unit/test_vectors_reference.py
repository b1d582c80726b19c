"""The NumPy reference against transformers: what checks the engine is checked itself, without the engine."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.reference import reference
from tests.vectors import make_chain

VECTORS = make_chain.PATH.parent
NAMES = ["llama3", "llama-linear", "mistral", "qwen2", "gemma2"]
BOUND = 1e-4  # transformers computes in float32


@pytest.mark.parametrize("name", NAMES)
def test_reference_agrees_with_transformers(name: str) -> None:
    vector = json.loads((VECTORS / f"model-{name}.json").read_text())
    made = reference.logits(reference.load(VECTORS / f"model-{name}.gguf"), vector["ids"])
    for position, text in vector["logits"].items():
        assert np.abs(made[int(position)] - np.frombuffer(bytes.fromhex(text), "<f4")).max() < BOUND


# What each model is there to catch, and the metadata or weight that turns it off.
FEATURES = {
    "llama3": "rope_freqs.weight",
    "llama-linear": "llama.rope.scaling.type",
    "qwen2": "blk.0.attn_q.bias",
    "gemma2": "gemma2.attn_logit_softcapping",
}


@pytest.mark.parametrize("name", FEATURES)
def test_vectors_notice_a_missing_feature(name: str) -> None:
    assert error_without(name, FEATURES[name]) > 100 * BOUND


@pytest.mark.parametrize("key", ["gemma2.final_logit_softcapping", "gemma2.attention.sliding_window"])
def test_gemma2_vectors_notice_missing_cap_and_window(key: str) -> None:
    assert error_without("gemma2", key) > 100 * BOUND


def error_without(name: str, key: str) -> float:
    model = reference.load(VECTORS / f"model-{name}.gguf")
    meta = {other: value for other, value in model.meta.items() if other != key}
    weights = {other: value for other, value in model.weights.items() if other != key}
    ids = json.loads((VECTORS / f"model-{name}.json").read_text())["ids"]
    lacking = reference.logits(replace(model, meta=meta, weights=weights), ids)
    return float(np.abs(lacking - reference.logits(model, ids)).max())


@pytest.mark.parametrize("kv", ["f32", "f16"])
def test_rounding_the_cache_moves_logits_a_little(kv: str) -> None:
    vector = json.loads((VECTORS / "model-qwen2.json").read_text())
    model = reference.load(VECTORS / "model-qwen2.gguf")
    change = np.abs(
        reference.logits(replace(model, kv=kv), vector["ids"]) - reference.logits(model, vector["ids"])
    )
    assert 0 < change.max() < {"f32": 1e-4, "f16": 2e-2}[kv]


@pytest.mark.parametrize("first", list(make_chain.CHAINS))
def test_the_chain_model_is_what_its_maker_says(first: str) -> None:
    tokens, _ = make_chain.vocabulary()
    ids = [tokens.index(piece.replace(" ", "▁")) for piece in [first, *make_chain.CHAINS[first]]]
    made, gaps = reference.greedy(reference.load(make_chain.PATH), [1, ids[0]], len(ids) - 1)
    assert made == ids[1:]
    assert min(gaps) > 10
