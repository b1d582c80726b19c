"""Batches computed outside the core: the NumPy executor walks the exported records and must match the CPU.

Fresh and wiped KV pages hold NaN there, so a row that is read before it was written shows in the logits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.unit import core_api, plan_executor
from tests.unit.core_api import Context
from tests.vectors import quant_models

VECTORS = Path(__file__).parents[1] / "vectors"
LLAMA = VECTORS / "model-llama3.gguf"
F32_BOUND = 1e-3  # the CPU's float32 against float64
HALF_BOUND = 2e-2  # with keys and values rounded to f16
KV_F32 = 1
PAGE = 16


class Bench:
    """One model on an external runtime and on a CPU runtime."""

    def __init__(self, rt: plan_executor.Runtime, path: Path) -> None:
        self.rt, self.cpu = rt, core_api.Runtime(threads=1, features=1)
        self.model, self.cpu_model = self.rt.load(path, kv_type=KV_F32), self.cpu.load(path, kv_type=KV_F32)
        self.executor = self.rt.attach(self.model, path.read_bytes())

    def context(self, tenant: int = 1) -> Context:
        return Context(self.rt, self.model, tenant=tenant)

    def expected(self, tokens: list[int]) -> core_api.Floats:
        ctx = Context(self.cpu, self.cpu_model)
        logits = ctx.forward_logits(ctx.open(no_prefix=1, kv_type=KV_F32), tokens)
        ctx.close()
        return logits

    def close(self) -> None:
        for rt, model in ((self.rt, self.model), (self.cpu, self.cpu_model)):
            rt.close_model(model)
            rt.close()


OpenBench = Callable[..., Bench]


@pytest.fixture
def open_bench() -> Iterator[OpenBench]:
    """tests/gpu has the same fixture with the WebGPU executor, and runs the tests below on it."""
    opened: list[Bench] = []

    def open_one(path: Path, **options: int) -> Bench:
        opened.append(Bench(plan_executor.Runtime(**options), path))
        return opened[-1]

    yield open_one
    for bench in opened:
        bench.close()


@pytest.fixture
def llama(open_bench: OpenBench) -> Bench:
    return open_bench(LLAMA)


def prompt(length: int, seed: int, vocab: int = 256) -> list[int]:
    return [int(t) for t in np.random.default_rng(seed).integers(3, vocab, length)]


def gap(a: core_api.Floats, b: core_api.Floats) -> float:
    return float(np.abs(a - b).max())  # NaN where one is NaN: no bound holds


# ---- the same logits as the CPU executor


@pytest.mark.parametrize("name", ["llama3", "llama-linear", "mistral", "qwen2", "gemma2"])
def test_architectures(name: str, open_bench: OpenBench) -> None:
    """Against the published implementations' logits too."""
    path = VECTORS / f"model-{name}.gguf"
    vector = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    bench = open_bench(path)
    ctx = bench.context()
    made = ctx.forward_logits(ctx.open(kv_type=KV_F32), vector["ids"])
    assert gap(made, bench.expected(vector["ids"])) < F32_BOUND
    for position, text in vector["logits"].items():
        assert gap(made[int(position)], np.frombuffer(bytes.fromhex(text), "<f4")) < F32_BOUND
    ctx.close()


@pytest.mark.parametrize("name", ["Q8_0", "Q4_K", "Q6_K", "BF16"])
def test_block_types(name: str, tmp_path: Path, open_bench: OpenBench) -> None:
    bench = open_bench(quant_models.build(name, tmp_path))
    ctx = bench.context()
    tokens = prompt(20, 3, ctx.info.vocab_size)
    made = ctx.forward_logits(ctx.open(kv_type=KV_F32), tokens)
    assert gap(made, bench.expected(tokens)) < F32_BOUND
    ctx.close()


def test_sessions_share_batches_and_chunks(open_bench: OpenBench) -> None:
    """Prompts of five lengths in batches of at most 12 rows, beside one another."""
    bench = open_bench(LLAMA, batch_rows=12)
    contexts = [bench.context(i) for i in range(5)]
    prompts = [prompt(3 + 11 * i, i) for i in range(5)]
    sessions = [ctx.open(kv_type=KV_F32) for ctx in contexts]
    tickets = [ctx.forward(s, p[:-1]) for ctx, s, p in zip(contexts, sessions, prompts, strict=True)]
    for ctx, ticket in zip(contexts, tickets, strict=True):
        ctx.finish(ticket)
    for ctx, session, tokens in zip(contexts, sessions, prompts, strict=True):
        assert gap(ctx.forward_logits(session, tokens[-1:])[0], bench.expected(tokens)[-1]) < F32_BOUND
        ctx.close()
    assert max(int(b["n_segments"]) for b in bench.rt.batches) > 1
    assert max(int(b["n_rows"]) for b in bench.rt.batches) <= 12


def test_prefixes_are_reused(llama: Bench) -> None:
    tokens = prompt(45, 1)
    first, second = llama.context(), llama.context()
    first.finish(first.forward(first.open(kv_type=KV_F32), tokens))
    session, continued = second.open(kv_type=KV_F32), [*tokens[:40], 7, 8, 9]
    ticket, rows = second.forward(session, continued[:-1]), llama.rt.stats().rows
    second.finish(ticket)
    assert llama.rt.stats().prefix_hits == 2 * PAGE
    assert llama.rt.stats().rows - rows == 42 - 2 * PAGE
    assert gap(second.forward_logits(session, [9])[0], llama.expected(continued)[-1]) < F32_BOUND
    first.close()
    second.close()


def test_rewinding_copies_a_shared_page(llama: Bench) -> None:
    tokens = prompt(40, 2)
    ctx = llama.context()
    one, two = ctx.open(kv_type=KV_F32), ctx.open(kv_type=KV_F32)
    ctx.finish(ctx.forward(one, tokens))
    ctx.finish(ctx.forward(two, tokens))  # takes over two pages of the first
    ctx.rewind(two, 20)  # inside the second page, which the first still needs
    changed = [*tokens[:20], *prompt(15, 3)]
    assert gap(ctx.forward_logits(two, changed[20:]), llama.expected(changed)[20:]) < F32_BOUND
    assert llama.rt.copies == 1
    more = [*tokens, 5, 6]
    assert gap(ctx.forward_logits(one, [5, 6]), llama.expected(more)[-2:]) < F32_BOUND
    ctx.close()


def test_pages_that_change_hands_are_wiped_and_numbers_stay_dense(open_bench: OpenBench) -> None:
    page_bytes = 2 * 2 * 2 * PAGE * 8 * 4  # checked below
    bench = open_bench(LLAMA, kv_bytes=4 * page_bytes)
    h = bench.executor.plan.header
    assert page_bytes == h["layer_count"] * 2 * h["head_count_kv"] * PAGE * h["head_dim"] * 4
    for seed in range(4):
        ctx = bench.context(tenant=seed)
        tokens = prompt(60, seed)
        assert gap(ctx.forward_logits(ctx.open(kv_type=KV_F32), tokens), bench.expected(tokens)) < F32_BOUND
        ctx.close()
    assert max(int(b["pool_pages_f32"]) for b in bench.rt.batches) == 4
    assert bench.rt.wipes >= 8


def test_slices_of_layers(llama: Bench) -> None:
    tokens = prompt(37, 4)
    ctx = llama.context()
    session = ctx.open(kv_type=KV_F32)
    layers = ctx.info.layer_count
    for layer in range(layers):
        ctx.finish(ctx.forward_layers(session, layer, 1, tokens if layer == 0 else []))
    expected = llama.expected([*tokens, 9])
    assert ctx.sample(session).id == int(expected[-2].argmax())
    assert gap(ctx.forward_logits(session, [9])[0], expected[-1]) < F32_BOUND
    ctx.close()


def test_scores(llama: Bench) -> None:
    tokens = prompt(70, 5)
    ctx = llama.context()
    ticket = ctx.score(ctx.open(kv_type=KV_F32), tokens)
    ctx.wait(ticket)
    rows = llama.expected(tokens).astype(np.float64)
    logs = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
    expected = [logs[i, t] for i, t in enumerate(tokens[1:])]
    scores = ctx.scores(ticket)
    assert np.isnan(scores[0]) and np.abs(scores[1:] - expected).max() < F32_BOUND
    ctx.close()


def test_both_kv_types_beside_each_other(llama: Bench) -> None:
    """A batch has one type; the two pools have numbers of their own."""
    tokens = prompt(30, 6)
    ctx = llama.context()
    sessions = [ctx.open(kv_type=i % 2) for i in range(4)]
    for ticket in [ctx.forward(session, tokens) for session in sessions]:
        ctx.finish(ticket)
    expected = llama.expected([*tokens, 11])[-1]
    for i, session in enumerate(sessions):
        made = ctx.forward_logits(session, [11])[0]
        assert gap(made, expected) < (HALF_BOUND if i % 2 == 0 else F32_BOUND)
    assert {int(b["kv_type"]) for b in llama.rt.batches} == {0, 1}
    ctx.close()


def test_generation_in_the_engine(llama: Bench) -> None:
    tokens = prompt(9, 7)
    ctx = llama.context()
    ticket = ctx.generate(ctx.open(kv_type=KV_F32), tokens, 6, ignore_end=1)
    ctx.wait(ticket)
    made = ctx.tokens(ticket)
    for i, token in enumerate(made):
        row = llama.expected([*tokens, *made[:i]])[-1]
        best, second = np.sort(row)[-1], np.sort(row)[-2]
        assert row[token] > best - F32_BOUND or best - second < F32_BOUND
    ctx.close()
