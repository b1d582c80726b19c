"""Real and synthetic models against llama.cpp and an independent float64 forward pass (REALM_ASSETS)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.reference import reference
from tests.unit import engine

pytestmark = engine.needs_assets

F32_BOUND, HALF_BOUND = 1e-3, 2e-2
LLAMA_CPP_FACTOR = 2.0  # a quantized file may be off by at most this times what llama.cpp is
GELU_TABLE_ERROR = 0.1  # llama.cpp's own: its GELU is a table of half floats, and gemma2 is full of it

CHUNKS = [0, 1]  # all ids in one forward pass, or one by one
SYNTH = {"llama": "synth-llama", "llama3-ropefreqs": "synth-llama3-ropefreqs", "qwen2": "synth-qwen2"}
TRAINED_F32 = ["stories260K-f32", "stories260K-ggml-org", "babyllama-tok105-f32"]
TRAINED_QUANTIZED = ["stories260K-q4_0", "stories260K-q8_0", "babyllama-tok105-q8_0"]
LLAMA256_QUANTIZED = ["q4_0", "q8_0", "q4_k_m", "q5_k_m", "q6_k"]
UNSUPPORTED_TYPES = ["q4_1", "q5_0", "q5_1", "q2_k", "q3_k_m", "iq4_nl", "iq4_xs"]
UNSUPPORTED_ARCHITECTURES = ["synth-phi3", "synth-gpt2", "synth-qwen3"]


def model(name: str) -> Path:
    return engine.assets() / "models" / f"{name}.gguf"


def arrays(name: str) -> Any:
    return np.load(engine.assets() / "reference" / f"{name}.npz")


def facts(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (engine.assets() / "reference" / f"{name}.json").read_text(encoding="utf-8")
    )
    return found


@pytest.mark.parametrize("isa", engine.KERNELS)
@pytest.mark.parametrize("key", SYNTH)
def test_synthetic_f32(key: str, isa: str) -> None:
    stored = arrays("synth_logits")
    made = engine.logits(model(SYNTH[key]), stored["ids"].tolist(), isa)
    assert np.abs(made - stored[key]).max() < F32_BOUND


@pytest.mark.parametrize("isa", engine.KERNELS)
def test_synthetic_gemma2(isa: str) -> None:
    stored = arrays("synth_logits")
    ids = stored["ids"].tolist()
    made = engine.logits(model("synth-gemma2"), ids, isa)
    exact = reference.logits(reference.load(model("synth-gemma2")), ids)
    assert np.abs(made - exact).max() < F32_BOUND
    assert np.abs(made - stored["gemma2"]).max() < GELU_TABLE_ERROR


@pytest.mark.parametrize("isa", engine.KERNELS)
@pytest.mark.parametrize("name", [*SYNTH.values(), "synth-gemma2"])
def test_synthetic_greedy(name: str, isa: str) -> None:
    entry = next(item for item in facts("synth")["models"] if item["model"] == f"{name}.gguf")
    expected = entry["greedy_after_ids"]
    assert engine.greedy_after_ids(model(name), facts("synth")["ids"], len(expected), isa) == expected


@pytest.mark.parametrize("isa", engine.KERNELS)
@pytest.mark.parametrize("name", TRAINED_F32)
def test_trained_f32(name: str, isa: str) -> None:
    stored, prompts = arrays(name), facts(name)["prompts"]
    with engine.open_realm(model(name), isa) as opened:
        for index, prompt in enumerate(prompts):
            assert opened.tokenize(prompt["prompt"], add_special=True) == prompt["prompt_ids"]
            made = opened.logits(prompt["prompt_ids"])[-1]
            assert np.abs(made - stored[f"p{index}_last_numpy64"]).max() < F32_BOUND
    for prompt in prompts:
        expected = prompt["greedy_ids"]
        assert engine.greedy(model(name), prompt["prompt"], len(expected), isa, ignore_end=True) == expected


@pytest.mark.parametrize("isa", engine.KERNELS)
@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("name", TRAINED_QUANTIZED)
def test_trained_quantized(name: str, chunk: int, isa: str) -> None:
    """The file's largest error over all prompts, beside llama.cpp's largest over the same."""
    stored, errors, peer_errors = arrays(name), [], []
    for index in range(len(facts(name)["prompts"])):
        made = engine.logits(model(name), stored[f"p{index}_ids"].tolist(), isa, chunk)[-1]
        exact, peer = stored[f"p{index}_last_numpy64"], stored[f"p{index}_last_llamacpp"]
        errors.append(np.abs(made - exact).max())
        peer_errors.append(np.abs(peer - exact).max())
    assert max(errors) <= LLAMA_CPP_FACTOR * max(peer_errors)


@pytest.mark.parametrize("isa", engine.KERNELS)
@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("key", ["f32", "f16", "bf16", *LLAMA256_QUANTIZED])
def test_llama256(key: str, chunk: int, isa: str) -> None:
    stored = arrays("synth_llama256_quants")
    name = "synth-llama256" if key == "f32" else f"synth-llama256-{key}"
    made = engine.logits(model(name), stored["ids"].tolist(), isa, chunk)
    error = np.abs(made - stored[f"{key}_numpy64"]).max()
    peer = np.abs(stored[f"{key}_llamacpp"] - stored[f"{key}_numpy64"]).max()
    assert error < {"f32": F32_BOUND, "f16": HALF_BOUND, "bf16": HALF_BOUND}.get(key, LLAMA_CPP_FACTOR * peer)


@pytest.mark.parametrize("key", UNSUPPORTED_TYPES)
def test_other_block_types_are_refused(key: str) -> None:
    assert engine.load_error(model(f"synth-llama256-{key}")).code == "unsupported-tensor-type"


def test_the_refusal_names_type_and_tensor() -> None:
    message = engine.load_error(model("babyllama-tok105-q5_1")).message
    assert "Q5_1" in message
    assert ".weight" in message


@pytest.mark.parametrize("name", UNSUPPORTED_ARCHITECTURES)
def test_other_architectures_are_refused(name: str) -> None:
    assert engine.load_error(model(name)).code == "unsupported-architecture"


def test_mixtures_of_experts_are_refused() -> None:
    """A llama file with experts: no plan for it yet, and never half-loaded as a plain llama."""
    assert engine.load_error(model("synth-mixtral")).code in (
        "unsupported-architecture",
        "unsupported",
        "invalid-model",
    )


def test_a_vocabulary_without_bytes_and_a_character_it_lacks() -> None:
    """This model's 105 pieces have no newline and no byte tokens: <unk> or a clean error, never a crash."""
    with engine.open_realm(model("babyllama-tok105-f32")) as opened:
        unknown = opened.tokenize("\n")
        assert 0 in unknown
