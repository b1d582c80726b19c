"""Whole models against their oracles: transformers for the architectures, the float64 reference for block
types.

Bounds are of the largest difference in any logit; logits of these models spread by one to three units.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.unit import engine
from tests.vectors import make_chain, quant_models

F32_BOUND = 1e-3  # float32 arithmetic throughout
HALF_BOUND = (
    2e-2  # F16 and BF16 weights: kernels may round activations to half precision too; also an f16 KV cache
)
INT8_SLACK = 2.0  # times the error that rounding activations to int8 makes in the reference itself

# Ids in one forward pass: all, as a prompt is; one by one, as generation is; a few, as joined realms are.
CHUNKS = [0, 1, 3]
ARCHITECTURES = ["llama3", "llama-linear", "mistral", "qwen2", "gemma2"]
QUANTS: dict[str, Any] = json.loads((engine.VECTORS / "quant_models.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("isa", engine.KERNELS)
@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architecture_logits(name: str, chunk: int, isa: str) -> None:
    vector = load(name)
    made = engine.logits(engine.VECTORS / f"model-{name}.gguf", vector["ids"], isa, chunk)
    for position, text in vector["logits"].items():
        assert difference(made[int(position)], text) < F32_BOUND, f"position {position}"


@pytest.mark.parametrize("isa", engine.KERNELS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architecture_greedy(name: str, isa: str) -> None:
    """Through the guest and an f16 KV cache, from the text of the prompt."""
    vector = load(name)
    path = engine.VECTORS / f"model-{name}.gguf"
    made = engine.greedy(path, vector["prompt"], len(vector["greedy"]), isa)
    engine.assert_greedy(made, vector["greedy"], vector["gaps"], HALF_BOUND)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_prompt_ids(name: str) -> None:
    vector = load(name)
    with engine.open_realm(engine.VECTORS / f"model-{name}.gguf") as opened:
        assert opened.tokenize(vector["prompt"], add_special=True) == vector["ids"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quant_models")


@pytest.mark.parametrize("name", quant_models.TYPES)
def test_weights_are_those_of_the_vectors(name: str) -> None:
    assert quant_models.weights_hash(name) == QUANTS["models"][name]["weights_sha256"]


@pytest.mark.parametrize("isa", engine.KERNELS)
@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("name", quant_models.TYPES)
def test_block_type_logits(name: str, chunk: int, isa: str, folder: Path) -> None:
    vector = QUANTS["models"][name]
    made = engine.logits(quant_models.build(name, folder), QUANTS["ids"], isa, chunk)
    bound = block_type_bound(name, isa)
    assert difference(made[QUANTS["middle"]], vector["middle"]) < bound
    assert difference(made[-1], vector["last"]) < bound


def block_type_bound(name: str, isa: str) -> float:
    if name == "F32" or isa in engine.EXACT:
        return F32_BOUND
    int8_error: float | None = QUANTS["models"][name].get("int8_error")
    return HALF_BOUND if int8_error is None else INT8_SLACK * int8_error


@pytest.mark.parametrize("isa", engine.KERNELS)
@pytest.mark.parametrize("first", ["1", "2", "3", "<|assistant|>"])
def test_chain(first: str, isa: str) -> None:
    """Every greedy token of this model is known by construction."""
    tokens, _ = make_chain.vocabulary()
    ids = [tokens.index(piece.replace(" ", "▁")) for piece in [first, *make_chain.CHAINS[first]]]
    made = engine.logits(make_chain.PATH, ids[:-1], isa)
    assert made.argmax(axis=1).tolist() == ids[1:]


def load(name: str) -> dict[str, Any]:
    vector: dict[str, Any] = json.loads((engine.VECTORS / f"model-{name}.json").read_text(encoding="utf-8"))
    return vector


def difference(made: NDArray[np.float32], text: str) -> float:
    return float(np.abs(made - np.frombuffer(bytes.fromhex(text), "<f4")).max())


@pytest.mark.parametrize("name", ["Q8_0", "Q4_K"])
def test_portable_logits_do_not_depend_on_the_batch(name: str, folder: Path) -> None:
    path = quant_models.build(name, folder)
    whole = engine.logits(path, QUANTS["ids"], "portable")
    for chunk in (1, 3, 7):
        np.testing.assert_array_equal(engine.logits(path, QUANTS["ids"], "portable", chunk), whole)
