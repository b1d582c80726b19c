"""What a greedy guest may take of the host and of others where it has no limit of its own: memory behind
handles that it never gives back, KV pages that are of no use to it, time between the steps of others."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from realm._library import ffi

from tests.unit import plan_executor
from tests.unit.core_api import PENDING, READY, Context, CoreError, Runtime, sampling

LLAMA = Path(__file__).parents[1] / "vectors" / "model-llama3.gguf"
PAGE, MOST = 16, 1 << 14


class MallInfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")] + [
        (name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    ]


def allocated() -> int:
    """Bytes of malloc that are in use in this process."""
    ask = ctypes.CDLL(None).mallinfo2
    ask.restype = MallInfo
    found = ask()
    return int(found.uordblks + found.hblkhd)


@pytest.fixture
def rt() -> Iterator[Runtime]:
    with Runtime(threads=1) as runtime:
        yield runtime


# ---- memory behind handles


@pytest.mark.parametrize("name", ["tickets", "sessions"])
def test_handles_that_are_never_given_back_have_a_bound(rt: Runtime, name: str) -> None:
    ctx = Context(rt, rt.load(LLAMA))
    take: Callable[[], int] = ctx.open if name == "sessions" else lambda: ctx._handle("realm_load_layer", 1)
    give = "realm_session_close" if name == "sessions" else "realm_ticket_drop"
    first = take()
    for _ in range(MOST - 1):
        take()
    with pytest.raises(CoreError, match=f"{MOST} {name} at most") as caught:
        take()
    assert (caught.value.code, caught.value.limit, caught.value.value) == ("limit-exceeded", name, MOST)
    ctx._call(give, first)
    take()


@pytest.mark.parametrize("cancelled", [True, False])
def test_an_ended_ticket_keeps_no_biases(rt: Runtime, cancelled: bool) -> None:
    ctx, biases, count = Context(rt, rt.load(LLAMA)), 250, 1000
    ids, values = ffi.new("uint32_t[]", list(range(biases))), ffi.new("float[]", biases)
    params = sampling(bias_count=biases, bias_ids=ids, bias_values=values)
    sessions = [ctx.open() for _ in range(count)]

    def generate() -> None:
        for session in sessions:
            ticket = ctx._handle("realm_generate", session, [5], 1, params, 1)
            if cancelled:
                ctx.cancel(ticket)
            else:
                ctx.wait(ticket)
        ctx.forward_logits(ctx.open(), [5])  # the last step has ended

    generate()  # what sessions keep is there now
    for session in sessions:
        ctx.rewind(session, 0)
    before = allocated()
    generate()
    assert allocated() - before < count * biases * 8 / 2


@pytest.mark.parametrize("layers", [1, 2], ids=["begun", "ended"])
def test_the_residual_stream_of_a_pass_by_layers_goes_with_the_pass(rt: Runtime, layers: int) -> None:
    model = rt.load(LLAMA)
    ctx, tokens = Context(rt, model), list(range(5, 205))
    sessions, size = [ctx.open() for _ in range(5)], len(tokens) * ctx.info.embedding_length * 4
    assert ctx.info.layer_count == 2

    def passes() -> None:
        for session in sessions:
            ctx.finish(ctx.forward_layers(session, 0, layers, tokens))
            ctx.rewind(session, 0)

    ctx.finish(ctx.forward(ctx.open(), tokens))
    for session in sessions:
        ctx.finish(ctx.forward(session, tokens))
        ctx.rewind(session, 0)
    before = allocated()
    passes()
    assert allocated() - before < size


def test_a_batch_that_is_out_keeps_the_residual_stream_of_a_pass_that_was_cancelled() -> None:
    rt = plan_executor.Runtime()
    model = rt.load(LLAMA)
    executor = rt.attach(model, LLAMA.read_bytes())
    ctx = Context(rt, model)
    session, tokens = ctx.open(), list(range(5, 205))
    size = len(tokens) * ctx.info.embedding_length * 4
    ticket = ctx.forward_layers(session, 0, 1, tokens)
    batch, before = rt.take(), allocated()
    ctx.cancel(ticket)
    assert before - allocated() < size // 2, "the executor may still write there"
    executor.run(batch)
    before = allocated()
    rt.finish(batch)
    assert before - allocated() > size // 2
    ctx.close()
    rt.close_model(model)
    rt.close()


# ---- KV pages


def test_a_refused_prompt_gives_back_the_pages_it_found() -> None:
    with Runtime(threads=1) as probe:
        ctx = Context(probe, probe.load(LLAMA))
        ctx.finish(ctx.forward(ctx.open(), [5]))
        page_bytes = probe.stats().kv_bytes_used
    with Runtime(threads=1, kv_bytes=8 * page_bytes) as rt:
        model = rt.load(LLAMA)
        greedy, modest = Context(rt, model, tenant=1), Context(rt, model, tenant=2)
        greedy.finish(greedy.forward(greedy.open(), list(range(5, 5 + 4 * PAGE))))
        with pytest.raises(CoreError) as caught:
            greedy.wait(greedy.forward(greedy.open(), list(range(100, 100 + 6 * PAGE))))
        assert (caught.value.code, caught.value.limit) == ("limit-exceeded", "kv_bytes")
        modest.finish(modest.forward(modest.open(), list(range(5, 5 + 4 * PAGE))))


# ---- time


def products(rt: Runtime, ctx: Context) -> list[int]:
    """Tickets of so many multiply-adds that they take a second or so."""
    matrix = ctx.tensor(np.ones((1024, 1024), np.float32))
    return [ctx._handle("realm_matmul", matrix, matrix) for _ in range(4)]


def test_a_product_does_not_wait_for_another_tenants(rt: Runtime) -> None:
    model = rt.load(LLAMA)
    greedy, modest = Context(rt, model, tenant=1), Context(rt, model, tenant=2)
    large, small = products(rt, greedy), modest.tensor(np.ones((8, 8), np.float32))
    for _ in range(3):
        modest.product(small, small, transposed=False)
    assert [greedy.state(ticket) for ticket in large] == [PENDING] * 4
    greedy.wait(large[-1])
    assert [greedy.state(ticket) for ticket in large] == [READY] * 4


def test_a_stream_does_not_feel_anothers_products(rt: Runtime) -> None:
    """Its 200 steps are over long before the 64 largest slices that the products would be cut into."""
    model = rt.load(LLAMA)
    greedy, modest = Context(rt, model, tenant=1), Context(rt, model, tenant=2)
    modest.finish(
        modest.generate(modest.open(no_prefix=1), [5], 20, ignore_end=1)
    )  # the engine knows its steps
    large = products(rt, greedy)
    modest.finish(modest.generate(modest.open(no_prefix=1), [5], 200, ignore_end=1))
    assert greedy.state(large[-1]) == PENDING
