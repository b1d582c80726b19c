"""core/sample.c against its written definition: a NumPy model in float64 that sorts the whole vocabulary,
chi-square over many draws, the random numbers again in Python integers, and the same code as WebAssembly."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cffi
import numpy as np
import pytest
import wasmtime

from realm_build import ctest
from realm_build.paths import ROOT, sources
from realm_build.toolchain import INCLUDES
from tests.unit import clib

SOURCES = sources("core/sample.c", "core/base.c")
CONTRACT = "-ffp-contract=off"  # as the build tool compiles the core
OK, INVALID_ARGUMENT, INVALID_MODEL = 0, 1, 11  # error codes of realm.wit
MASK = (1 << 64) - 1
NAN, INF = math.nan, math.inf


@dataclasses.dataclass(frozen=True)
class Sampling:
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition: float = 1.0
    frequency: float = 0.0
    presence: float = 0.0
    window: int = 0
    seed: int = 0
    biases: tuple[tuple[int, float], ...] = ()


@functools.cache
def library() -> tuple[Any, Any]:
    ffi = cffi.FFI()
    public = re.sub(r"/\*.*?\*/", "", (ROOT / "core" / "include" / "realm.h").read_text(), flags=re.S)
    records = re.findall(r"typedef struct realm_(?:sampling|token) \{.*?\} \w+;", public, flags=re.S)
    assert len(records) == 2
    ffi.cdef("typedef int realm_status;")
    ffi.cdef("typedef struct realm_error { int32_t code; char message[256]; } realm_error;")
    ffi.cdef("".join(records))
    ffi.cdef(clib.declarations(ROOT / "core" / "sample.h"))
    return ffi, ffi.dlopen(str(ctest.visible_library("sample", SOURCES)))


class Sampler:
    """One scratch, reused, so that a smaller vocabulary follows a larger one."""

    def __init__(self) -> None:
        self.ffi, self.lib = library()
        self.scratch = self.ffi.new("sample_scratch *")

    def record(self, s: Sampling) -> Any:
        ids, values = [id for id, _ in s.biases], [value for _, value in s.biases]
        self.kept = (self.ffi.new("uint32_t[]", ids), self.ffi.new("float[]", values))  # owned here
        return self.ffi.new("realm_sampling *", (
            s.temperature, s.top_k, s.top_p, s.min_p, s.repetition, s.frequency, s.presence, s.window, s.seed,
            len(ids), 0, *self.kept,
        ))  # fmt: skip

    def check(self, s: Sampling, vocab: int) -> tuple[int, str]:
        error = self.ffi.new("realm_error *")
        status = self.lib.sample_check(self.record(s), vocab, error)
        assert status == error.code
        return status, self.ffi.string(error.message).decode()

    def try_draw(
        self,
        logits: np.ndarray,
        s: Sampling,
        index: int = 0,
        history: Sequence[int] = (),
        banned: Sequence[int] = (),
    ) -> tuple[int, int, float]:
        assert self.check(s, len(logits))[0] == OK
        before = logits.copy()
        token, logprob = self.ffi.new("uint32_t *"), self.ffi.new("float *")
        status = self.lib.sample_token(
            self.ffi.from_buffer("float[]", logits), len(logits), list(history), len(history), self.record(s),
            index, list(banned), len(banned), self.scratch, token, logprob, self.ffi.NULL,
        )  # fmt: skip
        assert logits.tobytes() == before.tobytes(), "the logits were modified"
        return status, token[0], logprob[0]

    def draw(self, *arguments: Any, **named: Any) -> int:
        status, token, _ = self.try_draw(*arguments, **named)
        assert status == OK
        return token


@pytest.fixture(scope="module")
def sampler() -> Any:
    made = Sampler()
    yield made
    made.lib.sample_scratch_free(made.scratch)


# ---- the likeliest ----


@pytest.mark.parametrize("vocab, count", [(1, 0), (1, 1), (5, 5), (300, 1), (300, 20), (4099, 32)])
def test_the_likeliest_are_a_stable_sort_of_the_logits(sampler: Sampler, vocab: int, count: int) -> None:
    rng = np.random.default_rng(vocab + count)
    rising = np.arange(vocab) / 9
    for values in (rng.normal(size=vocab), rng.integers(0, 4, vocab), rising, -rising):
        logits = values.astype(np.float32)
        logits[rng.random(vocab) < 0.1] = rng.choice([NAN, -INF])
        exact = np.where(np.isnan(logits), -INF, logits).astype(np.float64)
        if np.isinf(exact).all():
            continue
        total = exact.max() + np.log(np.exp(exact - exact.max()).sum())
        wanted = np.argsort(-exact, kind="stable")[:count]
        out = sampler.ffi.new("realm_token[]", count)
        sampler.lib.sample_likeliest(sampler.ffi.from_buffer("float[]", logits), vocab, total, out, count)
        assert [token.id for token in out] == list(wanted)
        assert [token.logprob for token in out] == pytest.approx(exact[wanted] - total, abs=1e-5, rel=1e-6)


# ---- the model: the definition in float64, by sorting everything ----


def adjusted(
    logits: np.ndarray, s: Sampling, history: Sequence[int] = (), banned: Sequence[int] = ()
) -> np.ndarray:
    x = np.where(np.isnan(logits), -INF, logits).astype(np.float64)
    for id, value in s.biases:
        x[id] += value
    recent = list(history)[-(s.window or 64) :]
    for id in set(recent):
        x[id] = x[id] / s.repetition if x[id] > 0 else x[id] * s.repetition
        x[id] -= recent.count(id) * s.frequency + s.presence
    x[list(banned)] = -INF
    return x


def probabilities(x: np.ndarray, s: Sampling) -> np.ndarray:
    """What each token's chance is after temperature, top-k, top-p and min-p."""
    weights = np.exp((x - x.max()) / s.temperature)
    ranking = np.lexsort((np.arange(len(x)), -x))
    if s.top_k:
        ranking = ranking[: s.top_k]
    share = np.cumsum(weights[ranking]) / weights[ranking].sum()
    if s.top_p < 1:
        ranking = ranking[: int(np.searchsorted(share, s.top_p)) + 1]
    ranking = ranking[weights[ranking] >= s.min_p * weights.max()]
    kept = np.zeros(len(x))
    kept[ranking] = weights[ranking] / weights[ranking].sum()
    return kept


def mixed(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def random_unit(seed: int, index: int) -> float:
    gamma = 0x9E3779B97F4A7C15
    return (mixed((mixed((seed + gamma) & MASK) + (index + 1) * gamma) & MASK) >> 11) / 2**53


def some_logits(seed: int, vocab: int, spread: float = 2.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(vocab) * spread).astype(np.float32)


# ---- distributions ----

SETTINGS = [
    Sampling(),
    Sampling(temperature=0.5),
    Sampling(temperature=3.0),
    Sampling(top_k=5),
    Sampling(top_k=1),
    Sampling(top_p=0.7),
    Sampling(top_p=0.05),
    Sampling(min_p=0.1),
    Sampling(temperature=1.7, top_k=12, top_p=0.8),
    Sampling(temperature=1.7, top_k=20, top_p=0.9, min_p=0.15),
    Sampling(temperature=0.8, min_p=0.02, repetition=1.3, frequency=0.4, presence=-0.7),
    Sampling(top_k=10, biases=((3, 4.0), (7, -INF), (8, -1.5))),
]


@pytest.mark.parametrize("s", SETTINGS, ids=lambda s: f"{SETTINGS.index(s)}")
@pytest.mark.parametrize("by_index", [True, False], ids=["index", "seed"])
def test_draws_follow_the_distribution(sampler: Sampler, s: Sampling, by_index: bool) -> None:
    """Chi-square over draws of one seed (by index) and of many seeds; what was filtered out never comes."""
    vocab, draws, history = 40, 4000, [3, 5, 3, 39, 3, 11]
    logits = some_logits(1, vocab)
    expected = probabilities(adjusted(logits, s, history), s) * draws
    counts = np.zeros(vocab)
    for n in range(draws):
        seeded = dataclasses.replace(s, seed=77 if by_index else n)
        counts[sampler.draw(logits, seeded, n if by_index else 0, history)] += 1
    assert not counts[expected == 0].any()
    common = expected >= 5
    cells = np.append(expected[common], max(expected[~common].sum(), 1e-9))
    seen = np.append(counts[common], counts[~common].sum())
    freedom = len(cells) - 1
    assert ((seen - cells) ** 2 / cells).sum() < freedom + 5 * math.sqrt(2 * max(freedom, 1))


def test_every_draw_is_the_one_the_definition_gives(sampler: Sampler) -> None:
    """The exact token: candidates by id, the first whose cumulative share exceeds the random number."""
    rng = np.random.default_rng(5)
    compared = 0
    for n in range(3000):
        s = Sampling(
            temperature=float(rng.choice([0.3, 1.0, 2.5])),
            top_k=int(rng.choice([0, 1, 7, 60, 5000])),
            top_p=float(rng.choice([0.2, 0.9, 1.0])),
            min_p=float(rng.choice([0, 0.03])),
            seed=int(rng.integers(0, MASK, dtype=np.uint64)),
        )
        logits = some_logits(n, int(rng.integers(1, 300)))
        chances = probabilities(logits.astype(np.float64), s)
        walked, unit = np.cumsum(chances), random_unit(s.seed, n)
        if np.abs(walked - unit).min() < 1e-5:
            continue  # on a border float32 weights and float64 ones may differ
        if sampler.draw(logits, s, n) != int(np.searchsorted(walked, unit)):
            ranked = np.sort(logits.astype(np.float64))[::-1]
            share = np.cumsum(np.exp((ranked - ranked[0]) / s.temperature)[: s.top_k or None])
            assert np.abs(share / share[-1] - s.top_p).min() < 1e-5, (n, s)  # the cut itself was on a border
            continue
        compared += 1
    assert compared > 2900


def test_large_vocabulary_keeps_exactly_the_nucleus(sampler: Sampler) -> None:
    logits = some_logits(9, 32_000, 3.0)
    settings = [Sampling(top_p=0.3), Sampling(top_k=1000, top_p=0.5)]
    settings += [Sampling(temperature=50.0, top_k=k) for k in (1, 3, 40, 499, 500, 501)]  # around n / 64
    for s in settings:
        allowed = set(np.flatnonzero(probabilities(logits.astype(np.float64), s)).tolist())
        assert {sampler.draw(logits, s, n) for n in range(300)} <= allowed
    for k in (1, 2, 5, 40):  # hot: every survivor comes up
        s = Sampling(temperature=50.0, top_k=k)
        allowed = set(np.flatnonzero(probabilities(logits.astype(np.float64), s)).tolist())
        assert {sampler.draw(logits, s, n) for n in range(600)} == allowed


def test_ties_in_a_large_vocabulary(sampler: Sampler) -> None:
    logits = np.zeros(10_007, np.float32)
    assert {sampler.draw(logits, Sampling(top_k=20), n) for n in range(500)} == set(range(20))
    logits[::64] = 1
    logits[-1] = 2  # behind the last whole chunk
    expected = {10_006, *range(0, 64 * 19, 64)}
    assert {sampler.draw(logits, Sampling(top_k=20), n) for n in range(500)} == expected


def test_same_seed_repeats_and_other_seeds_differ(sampler: Sampler) -> None:
    logits = np.zeros(1000, np.float32)
    sequences = [[sampler.draw(logits, Sampling(seed=s), n) for n in range(50)] for s in (1, 2, 3, 1, MASK)]
    assert sequences[0] == sequences[3]
    assert len({tuple(sequence) for sequence in sequences}) == 4
    shifted = {tuple(sequence[lag : 20 + lag]) for sequence in sequences[:3] for lag in range(10)}
    assert len(shifted) == 30, "neighbouring seeds give shifted copies of one sequence"


# ---- greedy, penalties, bias, bans ----


def test_greedy_takes_the_largest_adjusted_logit(sampler: Sampler) -> None:
    rng = np.random.default_rng(11)
    changed = 0
    for n in range(1500):
        vocab = int(rng.integers(2, 60))
        logits = some_logits(n, vocab)
        history = rng.integers(0, vocab, int(rng.integers(0, 150))).tolist()
        s = Sampling(
            temperature=0,
            repetition=float(rng.choice([1.0, 0.7, 1.5])),
            frequency=float(rng.choice([0, 0.3, -0.2, 2])),
            presence=float(rng.choice([0, 1.0, -2])),
            window=int(rng.choice([0, 1, 10, 100, 2**32 - 1])),
            biases=tuple((int(rng.integers(0, vocab)), float(rng.normal())) for _ in range(vocab // 3)),
        )
        banned = rng.integers(0, vocab, vocab // 4).tolist()
        x = adjusted(logits, s, history, banned)
        ranked = np.sort(x)
        if ranked[-1] - ranked[-2] < 1e-4:
            continue
        assert sampler.draw(logits, s, 0, history, banned) == int(x.argmax()), (n, s)
        changed += int(x.argmax()) != int(logits.argmax())
    assert changed > 500


def test_ties_go_to_the_lower_id(sampler: Sampler) -> None:
    logits = np.array([0, 5, 5, 5, -0.0, 5], np.float32)
    assert sampler.draw(logits, Sampling(temperature=0)) == 1
    assert {sampler.draw(logits, Sampling(top_k=2), n) for n in range(100)} == {1, 2}
    assert {sampler.draw(logits, Sampling(top_p=0.6), n) for n in range(100)} == {1, 2, 3}
    assert {sampler.draw(logits, Sampling(min_p=1), n) for n in range(100)} == {1, 2, 3, 5}
    zeros = np.array([-0.0, 0.0, -1], np.float32)
    assert sampler.draw(zeros, Sampling(top_k=1)) == 0
    assert sampler.draw(zeros, Sampling(temperature=0)) == 0


def test_penalty_window_counts_from_the_end(sampler: Sampler) -> None:
    logits = np.array([1.0, 0.9, 0.0], np.float32)
    history = [0] + [2] * 64
    assert sampler.draw(logits, Sampling(temperature=0, presence=1), 0, history) == 0  # 0 is 65 tokens back
    assert sampler.draw(logits, Sampling(temperature=0, presence=1), 0, history[:64]) == 1
    assert sampler.draw(logits, Sampling(temperature=0, presence=1, window=65), 0, history) == 1
    foreign = [0, 4_000_000_000]
    assert sampler.draw(logits, Sampling(temperature=0, presence=1), 0, foreign) == 1


def test_bans_hold_against_any_bias(sampler: Sampler) -> None:
    logits = np.array([9, 1, 2], np.float32)
    assert sampler.draw(logits, Sampling(temperature=0, biases=((0, 100.0),)), banned=[0, 99]) == 2
    banned_by_bias = Sampling(biases=((0, -INF), (0, 50.0)))
    assert 0 not in {sampler.draw(logits, banned_by_bias, n) for n in range(200)}


# ---- hostile values ----


@pytest.mark.parametrize("s", [Sampling(temperature=0), *SETTINGS[:10]], ids=lambda s: f"{hash(s) % 1000}")
def test_nan_and_infinities(sampler: Sampler, s: Sampling) -> None:
    s = dataclasses.replace(s, biases=())
    assert sampler.draw(np.array([NAN, 1, -INF, NAN], np.float32), s) == 1
    assert sampler.draw(np.array([NAN, 1, INF, -INF], np.float32), s) == 2
    assert sampler.draw(np.array([-3e38, 3.4e38, -INF], np.float32), s) == 1
    for hopeless in ([NAN] * 5, [-INF] * 5, [NAN, -INF]):
        assert sampler.try_draw(np.array(hopeless, np.float32), s)[0] == INVALID_MODEL
    assert sampler.try_draw(np.zeros(3, np.float32), s, banned=[0, 1, 2])[0] == INVALID_ARGUMENT


@pytest.mark.parametrize("temperature", [1e-45, 1e-38, 1e-3, 3.4e38])
def test_extreme_temperatures(sampler: Sampler, temperature: float) -> None:
    logits = np.array([-50, 0.5, 0.25, -3e38], np.float32)
    drawn = {sampler.draw(logits, Sampling(temperature=temperature), n) for n in range(200)}
    assert drawn == ({1} if temperature < 1 else {0, 1, 2, 3})


def test_penalties_cannot_overflow_into_nan(sampler: Sampler) -> None:
    logits = np.array([3e38, -3e38, 1], np.float32)
    for repetition in (1e-38, 3e38):
        s = Sampling(repetition=repetition, biases=((0, 3e38), (1, -3e38)))
        assert sampler.draw(logits, s, 0, [0, 1, 2]) in (0, 2)


@pytest.mark.parametrize("vocab", range(1, 20))
def test_small_vocabularies(sampler: Sampler, vocab: int) -> None:
    logits = some_logits(vocab, vocab)
    for s in SETTINGS[:10]:
        assert sampler.draw(logits, s) < vocab


BAD: list[tuple[str, dict[str, Any]]] = [
    *[("temperature", {"temperature": v}) for v in (NAN, INF, -0.1, -INF)],
    *[("top_p", {"top_p": v}) for v in (NAN, 0.0, -1.0, 1.5, INF)],
    *[("min_p", {"min_p": v}) for v in (NAN, -0.1, 1.1)],
    *[("repetition_penalty", {"repetition": v}) for v in (NAN, 0.0, -1.0, INF)],
    *[("frequency_penalty", {"frequency": v}) for v in (NAN, -2.1, 2.1)],
    *[("presence_penalty", {"presence": v}) for v in (NAN, -2.1, 2.1)],
    ("bias_ids[1]", {"biases": ((0, 1.0), (10, 1.0))}),
    *[("bias_values[0]", {"biases": ((0, v),)}) for v in (NAN, INF)],
    ("bias_count", {"biases": ((0, 1.0),) * 11}),
]


@pytest.mark.parametrize(("field", "values"), BAD, ids=[f"{field}-{n}" for n, (field, _) in enumerate(BAD)])
def test_check_names_the_field(sampler: Sampler, field: str, values: dict[str, Any]) -> None:
    status, message = sampler.check(Sampling(**values), 10)
    assert status == INVALID_ARGUMENT
    assert message.startswith(field)


def test_check_accepts_the_ends_of_the_ranges(sampler: Sampler) -> None:
    s = Sampling(0.0, 2**32 - 1, 1.0, 1.0, 1e-30, 2, -2, 2**32 - 1, MASK, ((9, -INF),))
    assert sampler.check(s, 10) == (OK, "")
    assert sampler.check(Sampling(), 0)[0] == INVALID_ARGUMENT
    params = sampler.record(Sampling())
    params.bias_count, params.bias_ids = 1, sampler.ffi.NULL
    assert sampler.lib.sample_check(params, 10, sampler.ffi.NULL) == INVALID_ARGUMENT


# ---- logprob ----


def test_logprob_is_the_log_softmax_of_the_unmodified_logits(sampler: Sampler) -> None:
    for vocab, spread in ((1, 1.0), (7, 1.0), (1000, 5.0), (32_000, 3.0), (300, 200.0)):
        logits = some_logits(vocab, vocab, spread)
        s = Sampling(temperature=2.0, top_k=50, biases=((0, 3.0),))
        _, token, logprob = sampler.try_draw(logits, s, 3)
        x = logits.astype(np.float64)
        exact = x[token] - x.max() - math.log(np.exp(x - x.max()).sum())
        assert logprob == pytest.approx(exact, rel=1e-6, abs=2e-6)


# ---- the same token on every host ----


class WasmSampler:
    """The same two files as WebAssembly, called through a flat memory."""

    def __init__(self, folder: Path) -> None:
        module = folder / "sample.wasm"
        exports = [f"-Wl,--export={name}" for name in ("sample_token", "malloc")]
        command = [
            sys.executable, "-m", "ziglang", "cc", "-target", "wasm32-wasi", "-mexec-model=reactor",
            "-mcpu=generic+simd128", "-std=c11", "-O2", CONTRACT, *INCLUDES, *map(str, SOURCES),
            *exports, "-o", str(module),
        ]  # fmt: skip
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        engine = wasmtime.Engine()
        linker = wasmtime.Linker(engine)
        linker.define_wasi()
        self.store = wasmtime.Store(engine)
        self.store.set_wasi(wasmtime.WasiConfig())
        compiled = wasmtime.Module.from_file(engine, str(module))
        self.exports = linker.instantiate(self.store, compiled).exports(self.store)
        self.scratch = self.place(bytes(8))

    def call(self, name: str, *arguments: Any) -> Any:
        function = self.exports[name]
        assert isinstance(function, wasmtime.Func)
        return function(self.store, *arguments)

    def memory(self) -> wasmtime.Memory:
        memory = self.exports["memory"]
        assert isinstance(memory, wasmtime.Memory)
        return memory

    def place(self, data: bytes) -> int:
        address = int(self.call("malloc", len(data)))
        self.memory().write(self.store, data, address)
        return address

    def draw(self, logits: np.ndarray, s: Sampling, indices: Sequence[int]) -> list[tuple[int, bytes]]:
        """(token, bits of logprob) for each index."""
        floats = [s.temperature, 0, s.top_p, s.min_p, s.repetition, s.frequency, s.presence]
        words = np.array(floats, np.float32).view(np.uint32).tolist()
        words[1] = s.top_k
        record = np.array([*words, s.window, s.seed & 0xFFFFFFFF, s.seed >> 32, 0, 0, 0, 0], np.uint32)
        params, data, out = self.place(record.tobytes()), self.place(logits.tobytes()), self.place(bytes(8))
        drawn = []
        for index in indices:
            status = self.call(
                "sample_token", data, len(logits), 0, 0, params, index, 0, 0, self.scratch, out, out + 4, 0
            )
            assert status == OK
            result = bytes(self.memory().read(self.store, out, out + 8))
            drawn.append((int.from_bytes(result[:4], "little"), result[4:]))
        return drawn


def test_webassembly_draws_the_same_tokens(sampler: Sampler, tmp_path: Path) -> None:
    wasm = WasmSampler(tmp_path)
    for n, s in enumerate(SETTINGS[:10]):
        s = dataclasses.replace(s, seed=0x1234567890ABCDEF + n)
        logits = some_logits(
            100 + n, 5003, 0.01 if n % 2 else 3.0
        )  # flat ones: cuts among near-equal weights
        native = [sampler.try_draw(logits, s, index)[1:] for index in range(100)]
        for (token, logprob), foreign in zip(native, wasm.draw(logits, s, range(100)), strict=True):
            assert token == foreign[0]
            assert logprob == pytest.approx(np.frombuffer(foreign[1], np.float32)[0], rel=1e-6)
