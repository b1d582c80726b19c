"""The core's sampler against the definitions of make_samplers.py: what may be drawn, and how often it is.

Draws are counter-based, so a fixed seed makes the statistics here exact repeats: no run is luckier than
another.
"""

from __future__ import annotations

import functools
import json
import math
import re
from pathlib import Path
from typing import Any

import cffi
import pytest

from realm_build import ctest
from realm_build.paths import ROOT, sources
from tests.reference import reference
from tests.unit import clib, engine
from tests.vectors import make_samplers

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "samplers.json").read_text(encoding="utf-8")
)
DRAWS = 2000
SEED = 7
PLAIN_SETTINGS = ["temperature", "top_k", "top_p", "min_p", "penalty_window"]
PLAIN_SETTINGS += ["repetition_penalty", "frequency_penalty", "presence_penalty"]


@functools.cache
def sampler() -> tuple[Any, Any]:
    """(ffi, lib) of core/sample.c alone."""
    header = (ROOT / "core" / "include" / "realm.h").read_text(encoding="utf-8")
    structs = re.findall(r"typedef struct realm_(?:sampling|token) \{.*?\} \w+;", header, re.S)
    assert len(structs) == 2
    ffi = cffi.FFI()
    ffi.cdef("typedef int realm_status;")
    ffi.cdef("typedef struct realm_error { int32_t code; char message[256]; } realm_error;")
    ffi.cdef(re.sub(r"/\*.*?\*/", "", "".join(structs), flags=re.S))
    ffi.cdef(clib.declarations(ROOT / "core" / "sample.h"))
    return ffi, ffi.dlopen(str(ctest.visible_library("sample", sources("core/sample.c", "core/base.c"))))


def draws(case: dict[str, Any], count: int) -> list[int]:
    """The first `count` tokens drawn with the case's settings."""
    ffi, lib = sampler()
    bias = case["settings"]["bias"]
    ids, values = ffi.new("uint32_t[]", [int(key) for key in bias]), ffi.new("float[]", list(bias.values()))
    params = ffi.new("realm_sampling *", {name: case["settings"][name] for name in PLAIN_SETTINGS})
    params.seed, params.bias_count, params.bias_ids, params.bias_values = SEED, len(bias), ids, values
    logits, history = ffi.new("float[]", case["logits"]), ffi.new("uint32_t[]", case["history"])
    scratch, error = ffi.new("sample_scratch *"), ffi.new("realm_error *")
    token, logprob = ffi.new("uint32_t *"), ffi.new("float *")
    logprobs = log_softmax(case["logits"])
    made = []
    for index in range(count):
        status = lib.sample_token(
            logits, len(case["logits"]), history, len(case["history"]), params, index,
            ffi.NULL, 0, scratch, token, logprob, error,
        )  # fmt: skip
        assert status == 0, ffi.string(error.message)
        assert abs(logprob[0] - logprobs[token[0]]) < 1e-4
        made.append(int(token[0]))
    lib.sample_scratch_free(scratch)
    return made


def log_softmax(logits: list[float]) -> list[float]:
    largest = max(logits)
    total = math.log(sum(math.exp(value - largest) for value in logits))
    return [value - largest - total for value in logits]


def chi_square_excess(counts: dict[int, int], expected: dict[int, float]) -> float:
    """How many standard deviations chi-square lies above its mean; rare tokens are counted as one."""
    bins, rare_count, rare_expected = [], 0, 0.0
    for token, value in expected.items():
        if value >= 5:
            bins.append((counts.get(token, 0), value))
        else:
            rare_count, rare_expected = rare_count + counts.get(token, 0), rare_expected + value
    if rare_expected >= 5:
        bins.append((rare_count, rare_expected))
    freedom = len(bins) - 1
    if freedom < 1:
        return 0.0
    chi_square = sum((count - value) ** 2 / value for count, value in bins)
    return (chi_square - freedom) / math.sqrt(2 * freedom)


def named(case: dict[str, Any]) -> str:
    changed = {key: value for key, value in case["settings"].items() if value not in (0, 1, {})}
    return " ".join(f"{key}={value}" for key, value in changed.items()) or "plain"


@pytest.mark.parametrize("case", CASES, ids=named)
def test_draws_follow_the_definition(case: dict[str, Any]) -> None:
    made = draws(case, DRAWS)
    assert set(made) <= set(case["kept"])
    expected = dict(zip(case["kept"], (DRAWS * value for value in case["probabilities"]), strict=True))
    counts = {token: made.count(token) for token in set(made)}
    assert chi_square_excess(counts, expected) < 5
    certain = {token for token, value in expected.items() if value > 20}  # absent with a chance of 2e-9
    assert certain <= set(made)


def test_same_seed_same_draws() -> None:
    case = CASES[0]
    assert draws(case, 50) == draws(case, 50)


def test_vectors_cover_every_setting() -> None:
    """Each setting must matter somewhere: switched off, it would keep other tokens or other probabilities."""
    for name in PLAIN_SETTINGS:
        assert len({case["settings"][name] for case in CASES}) >= 3
    assert any(len(case["kept"]) == 1 for case in CASES)
    assert any(case["settings"]["bias"] for case in CASES)


@pytest.mark.parametrize("mode", ["granular", "whole"])
def test_first_tokens_of_many_seeds(mode: str) -> None:
    """Through the guest: settings arrive at the sampler, and neighbouring seeds are independent draws."""
    settings: dict[str, Any] = {"temperature": 1.5, "top_k": 8, "top_p": 0.9, "min_p": 0.02}
    path, prompt, count = engine.VECTORS / "model-qwen2.gguf", "The capital", 600
    with engine.open_realm(path) as opened:
        ids = opened.tokenize(prompt, add_special=True)
        settings["ignore_end"] = True
        results = [opened.generate(prompt, max_tokens=1, mode=mode, seed=n, **settings) for n in range(count)]
    made = [result.tokens[0] for result in results]
    logits = reference.logits(reference.load(path), ids)[-1].tolist()
    kept, probabilities = make_samplers.keep(logits, ids, {**make_samplers.OFF, **settings})
    assert set(made) <= set(kept)
    expected = dict(zip(kept, (count * value for value in probabilities), strict=True))
    assert chi_square_excess({token: made.count(token) for token in made}, expected) < 5
