"""What may go away in the middle of something; who gets memory and turns when there is too little."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from realm._library import ffi

from tests.unit.core_api import FAILED, READY, Context, CoreError, Runtime, check

VECTORS = Path(__file__).parents[1] / "vectors"
LLAMA, QWEN2 = VECTORS / "model-llama3.gguf", VECTORS / "model-qwen2.gguf"
PORTABLE, KV_F32 = 1, 1
PAGE = 16  # positions of a KV page
PATIENCE_SECONDS = 10


def step(rt: Runtime, budget: int) -> bool:
    """One slice of work; true while there is more."""
    busy = ffi.new("uint32_t *")
    check(rt.lib.realm_runtime_step(rt.handle, 0, budget, busy, rt.err), rt.err)
    return bool(busy[0])


def prompt(length: int, seed: int = 0) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(3, 256, length)]


def last_logits(ctx: Context, session: int, tokens: list[int]) -> Any:
    return ctx.forward_logits(session, tokens)[-1]


# ---- going away


@pytest.mark.parametrize("older", [False, True])
def test_a_model_may_go_in_the_middle_of_a_step(older: bool) -> None:
    with Runtime(threads=1, features=PORTABLE, no_driver=1) as rt:
        model = rt.load(LLAMA) if older else None
        staying = Context(rt, rt.load(QWEN2))
        expected = last_logits(staying, staying.open(no_prefix=1), prompt(8))
        model = model or rt.load(LLAMA)
        leaving = Context(rt, model)
        leaving.forward(leaving.open(), prompt(40))
        assert step(rt, 1)  # its first op
        leaving.close()
        rt.close_model(model)
        for _ in range(1000):
            if not step(rt, 1):
                break
        else:
            pytest.fail("the step of a model that is gone never ends")
        assert np.array_equal(last_logits(staying, staying.open(no_prefix=1), prompt(8)), expected)


@pytest.mark.parametrize("stepped", [0, 1])
def test_a_product_that_runs_or_waits_outlives_its_model(stepped: int) -> None:
    """Its weights are unmapped with the model: nothing may read them afterwards."""
    with Runtime(threads=1, features=PORTABLE, no_driver=stepped) as rt:
        for turn in range(30):
            model = rt.load(LLAMA)
            ctx = Context(rt, model)
            weight = ctx.weight("token_embd.weight")
            for _ in range(3):
                ctx._handle("realm_matmul_transposed", weight, weight)
            if not stepped:
                time.sleep(0.0005 * (turn % 4))
            ctx.close()
            rt.close_model(model)
            while stepped and step(rt, 0):
                pass


def test_bytes_of_a_model_must_be_aligned() -> None:
    with Runtime(threads=1, features=PORTABLE, no_driver=1) as rt:
        data = ffi.new("char[]", b" " + LLAMA.read_bytes())
        loader = ffi.new("realm_loader **")
        size = len(data) - 2
        with pytest.raises(CoreError) as caught:
            status = rt.lib.realm_loader_begin_bytes(rt.handle, data + 1, size, ffi.NULL, loader, rt.err)
            check(status, rt.err)
        assert caught.value.code == "invalid-argument" and loader[0] == ffi.NULL


# ---- memory


def test_idle_pages_give_way_to_the_other_element_type_and_to_other_models() -> None:
    with Runtime(threads=1, features=PORTABLE, kv_bytes=40_000) as rt:
        models = [rt.load(LLAMA), rt.load(QWEN2)]
        for _ in range(2):
            for model in models:
                for kv_type in (0, KV_F32):
                    ctx = Context(rt, model)
                    ctx.finish(ctx.forward(ctx.open(kv_type=kv_type), prompt(120)))
                    ctx.close()
                    assert rt.stats().kv_bytes_used <= 40_000
        for model in models:
            rt.close_model(model)
        assert rt.stats().kv_bytes_used == 0


@pytest.mark.parametrize("keep", [1, PAGE - 1, PAGE, PAGE + 1])
def test_rewinding_with_a_full_budget(keep: int) -> None:
    """It needs no new page, and what is computed next is right."""
    tokens = prompt(3 * PAGE)
    with Runtime(threads=1, features=PORTABLE) as rt:
        ctx = Context(rt, rt.load(LLAMA))
        expected = last_logits(ctx, ctx.open(no_prefix=1), tokens)
        per_page = rt.stats().kv_bytes_used // 3
    with Runtime(threads=1, features=PORTABLE, kv_bytes=3 * per_page) as rt:
        ctx = Context(rt, rt.load(LLAMA))
        session = ctx.open()
        ctx.finish(ctx.forward(session, tokens))
        assert rt.stats().kv_bytes_used == 3 * per_page
        ctx.rewind(session, keep)
        assert np.array_equal(last_logits(ctx, session, tokens[keep:]), expected)


def test_a_rewind_that_finds_no_page_leaves_the_session_as_it_was() -> None:
    tokens = prompt(3 * PAGE + 1)
    with Runtime(threads=1, features=PORTABLE) as rt:
        ctx = Context(rt, rt.load(LLAMA))
        expected = last_logits(ctx, ctx.open(no_prefix=1), [*tokens, 9])
        per_page = rt.stats().kv_bytes_used // 4
    with Runtime(threads=1, features=PORTABLE, kv_bytes=5 * per_page) as rt:
        ctx = Context(rt, rt.load(LLAMA))
        first, second = ctx.open(), ctx.open()
        for session in (first, second):  # three shared pages, and one of its own each
            ctx.finish(ctx.forward(session, tokens))
        with pytest.raises(CoreError) as caught:
            ctx.rewind(first, 5)
        assert caught.value.code == "limit-exceeded"
        assert ctx.position(first) == len(tokens)
        assert np.array_equal(last_logits(ctx, first, [9]), expected)


def test_dropping_weights_gives_no_memory_back_that_was_never_taken() -> None:
    with Runtime(threads=1, features=PORTABLE, no_driver=1) as rt:
        ctx = Context(rt, rt.load(LLAMA), tensor_bytes=10_000)
        for _ in range(2):
            weight = ctx.weight("output_norm.weight")
            ctx._call("realm_tensor_drop", weight)
        ctx.tensor(np.zeros((1, 2000), dtype=np.float32))
        for _ in range(500):
            ctx._call("realm_tensor_drop", ctx.weight("output_norm.weight"))
        with pytest.raises(CoreError) as caught:
            ctx.tensor(np.zeros((1, 2000), dtype=np.float32))
        assert caught.value.code == "limit-exceeded"


# ---- turns


@pytest.mark.parametrize("rows", [1, 2, 4, 7])
def test_a_prompt_is_not_starved_by_those_that_decode(rows: int) -> None:
    with Runtime(threads=1, features=PORTABLE, no_driver=1, batch_rows=rows) as rt:
        ctx = Context(rt, rt.load(LLAMA))
        decoding = [ctx.generate(ctx.open(no_prefix=1), [5 + i], 200, ignore_end=1) for i in range(8)]
        for _ in range(10):
            step(rt, 0)
        waiting = ctx.forward(ctx.open(no_prefix=1), prompt(12))
        for _ in range(200):
            if ctx.state(waiting) == READY:
                break
            step(rt, 0)
        assert ctx.state(waiting) == READY
        assert all(ctx.state(ticket) not in (READY, FAILED) for ticket in decoding)


def test_work_is_done_though_the_host_does_not_come_back_to_wait() -> None:
    """A host that took completions and then only asks for states, or is busy for long, holds nobody up."""
    with Runtime(threads=1, features=PORTABLE) as rt:
        ctx = Context(rt, rt.load(LLAMA))
        session = ctx.open()
        ctx.forward(session, prompt(4))
        assert any(rt.wait() > 0 for _ in range(500))  # takes the completion, and never waits again
        time.sleep(0.05)
        ticket = ctx.forward(session, prompt(4))
        deadline = time.monotonic() + PATIENCE_SECONDS
        while ctx.state(ticket) != READY and time.monotonic() < deadline:
            time.sleep(0.001)
        assert ctx.state(ticket) == READY
