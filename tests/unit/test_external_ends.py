"""Batches of an external executor that end otherwise: failed, lost, cancelled, closed meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from realm._library import ffi, library

from tests.unit import plan_executor
from tests.unit.core_api import FAILED, READY, Context, CoreError, Runtime, check
from tests.unit.test_external import KV_F32, LLAMA, prompt

VECTORS = Path(__file__).parents[1] / "vectors"
QWEN2 = VECTORS / "model-qwen2.gguf"


def status(name: str) -> int:
    return int(getattr(library(), f"REALM_E_{name}"))


@pytest.fixture
def rt() -> Iterator[plan_executor.Runtime]:
    opened = plan_executor.Runtime()
    yield opened
    opened.close()


@pytest.fixture
def ctx(rt: plan_executor.Runtime) -> Iterator[Context]:
    model = rt.load(LLAMA, kv_type=KV_F32)
    rt.attach(model, LLAMA.read_bytes())
    opened = Context(rt, model)
    yield opened
    opened.close()
    rt.close_model(model)


def failure(ctx: Context, ticket: int) -> CoreError:
    assert ctx.state(ticket) == FAILED
    with pytest.raises(CoreError) as caught:
        ctx.wait(ticket)
    return caught.value


def test_one_batch_is_out_at_a_time(rt: plan_executor.Runtime, ctx: Context) -> None:
    assert rt.take() is None
    first, second = (ctx.forward(ctx.open(), prompt(5, i)) for i in range(2))
    batch = rt.take()
    assert batch["n_segments"] == 2 and rt.take() is None
    with pytest.raises(CoreError, match="is not out"):
        rt.finish({"id": int(batch["id"]) + 1})
    rt.executors[int(batch["model"])].run(batch)
    rt.finish(batch)
    with pytest.raises(CoreError, match="is not out"):
        rt.finish(batch)
    assert ctx.state(first) == ctx.state(second) == READY


def test_a_failed_batch_fails_its_tickets_and_no_others(rt: plan_executor.Runtime, ctx: Context) -> None:
    session, tokens = ctx.open(), prompt(20, 1)
    ctx.finish(ctx.forward(session, tokens))
    ticket = ctx.forward(session, [5, 6])
    batch = rt.take()
    other = ctx.forward(ctx.open(), prompt(4, 2))  # came too late for the batch
    rt.finish(batch, status("OUT_OF_MEMORY"), b"the device has no memory left")
    assert failure(ctx, ticket).code == "out-of-memory" and "no memory left" in str(failure(ctx, ticket))
    ctx.finish(other)
    assert ctx.position(session) == len(tokens)
    ctx.finish(ctx.forward(session, [5, 6]))  # what was computed before is still there


def test_a_lost_device_takes_the_kv_of_all_sessions(rt: plan_executor.Runtime, ctx: Context) -> None:
    idle, busy, fresh = ctx.open(), ctx.open(), ctx.open()
    ctx.finish(ctx.forward(idle, prompt(40, 1)))
    running = ctx.forward(busy, prompt(40, 2))
    batch = rt.take()
    waiting = ctx.forward(idle, [7])
    rt.finish(batch, status("DEVICE_LOST"), b"the driver was reset")
    for ticket in (running, waiting):
        assert failure(ctx, ticket).code == "device-lost" and "driver was reset" in str(failure(ctx, ticket))
    assert rt.stats().kv_bytes_used == 0
    with pytest.raises(CoreError, match="rewind it to 0") as caught:
        ctx.forward(idle, [7])
    assert caught.value.code == "device-lost"
    ctx.rewind(idle, 0)
    for session in (idle, busy, fresh):  # two never held anything
        tokens = prompt(40, 1)
        ctx.finish(ctx.forward(session, tokens))
    assert rt.batches[-1]["n_rows"] <= 40


def test_loss_forgets_prefixes(rt: plan_executor.Runtime, ctx: Context) -> None:
    """A page nobody holds must not be found again: what it named is gone."""
    session, tokens = ctx.open(), prompt(40, 1)
    ctx.finish(ctx.forward(session, tokens))
    ctx.close_session(session)
    doomed = ctx.forward(ctx.open(), [5])
    rt.finish(rt.take(), status("DEVICE_LOST"))
    assert failure(ctx, doomed).code == "device-lost"
    hits = rt.stats().prefix_hits
    ctx.finish(ctx.forward(ctx.open(), tokens))
    assert rt.stats().prefix_hits == hits


def wanted(rt: plan_executor.Runtime, batch: Any) -> bool:
    return bool(rt.lib.realm_runtime_batch_wanted(rt.handle, int(batch["id"])))


def test_cancelling_while_the_batch_is_out(rt: plan_executor.Runtime, ctx: Context) -> None:
    session, tokens = ctx.open(no_prefix=1), prompt(20, 3)
    ctx.finish(ctx.forward(session, tokens))
    ticket = ctx.forward(session, [5, 6, 7])
    batch = rt.take()
    assert wanted(rt, batch)
    ctx.cancel(ticket)
    assert failure(ctx, ticket).code == "cancelled" and not wanted(rt, batch)
    with pytest.raises(CoreError, match="in flight"):
        ctx.forward(session, [5])
    rt.finish(batch, status("CANCELLED"))
    assert ctx.position(session) == len(tokens)
    ctx.finish(ctx.forward(session, [5, 6, 7]))


@pytest.mark.parametrize("kind", ["forward", "generate", "layers"])
def test_what_was_cancelled_and_is_computed_all_the_same_counts_for_nothing(
    rt: plan_executor.Runtime, ctx: Context, kind: str
) -> None:
    session, tokens = ctx.open(no_prefix=1), prompt(20, 3)
    ctx.finish(ctx.forward(session, tokens))
    if kind == "forward":
        ticket = ctx.forward(session, [5, 6, 7])
    elif kind == "generate":
        ticket = ctx.generate(session, [5, 6, 7], 9, ignore_end=1)
    else:
        ticket = ctx.forward_layers(session, 0, 2, [5, 6, 7])
    batch, made = rt.take(), rt.stats().rows
    ctx.cancel(ticket)
    rt.executors[int(batch["model"])].run(batch)
    rt.finish(batch)
    assert rt.stats().rows == made + 3
    assert failure(ctx, ticket).code == "cancelled" and ctx.tokens(ticket) == []
    assert ctx.position(session) == len(tokens)
    with pytest.raises(CoreError, match="no logits"):
        ctx.sample(session)
    other = ctx.open(no_prefix=1)
    ctx.finish(ctx.forward(other, tokens))
    for each in (session, other):
        ctx.finish(ctx.forward(each, [8, 9]))
    assert ctx.sample(session).logprob == ctx.sample(other).logprob


@pytest.mark.parametrize("failed", [None, "DEVICE_LOST", "CANCELLED"])
def test_closing_everything_while_the_batch_is_out(rt: plan_executor.Runtime, failed: str | None) -> None:
    """The records and buffers stay until the batch is finished; the executor may write to them."""
    model = rt.load(LLAMA, kv_type=KV_F32)
    executor = rt.attach(model, LLAMA.read_bytes())
    ctx = Context(rt, model)
    ctx.forward(ctx.open(), prompt(30, 1))
    batch = rt.take()
    ctx.close()
    rt.close_model(model)
    assert not wanted(rt, batch) and rt.take() is None
    executor.run(batch)
    rt.finish(batch, status(failed) if failed else 0)
    other = rt.load(QWEN2)  # the runtime goes on
    rt.attach(other, QWEN2.read_bytes())
    again = Context(rt, other)
    again.finish(again.forward(again.open(), [5, 6]))
    again.close()
    rt.close_model(other)


def test_slices_keep_their_hidden_rows_when_closed(rt: plan_executor.Runtime, ctx: Context) -> None:
    session = ctx.open()
    ctx.forward_layers(session, 0, 1, prompt(20, 1))
    batch = rt.take()
    ctx.close_session(session)
    rt.executors[int(batch["model"])].run(batch)
    rt.finish(batch)
    assert rt.stats().kv_bytes_used == 0 or rt.take() is None


def test_destroying_the_runtime_while_a_batch_is_out() -> None:
    rt = plan_executor.Runtime()
    model = rt.load(LLAMA)
    ctx = Context(rt, model)
    ctx.forward(ctx.open(), prompt(30, 1))
    assert rt.take() is not None
    ctx.close()
    rt.close_model(model)
    rt.close()  # the leak check of the sanitized run looks at what is left


def test_host_tensors_are_computed_by_step(rt: plan_executor.Runtime, ctx: Context) -> None:
    import numpy as np

    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    product = ctx.product(ctx.tensor(a), ctx.tensor(a), transposed=True)
    np.testing.assert_array_equal(ctx.read(product), a @ a.T)


def test_other_runtimes_hand_out_no_batches() -> None:
    with Runtime(threads=1) as rt:
        out, some = ffi.new("realm_batch *"), ffi.new("uint32_t *")
        with pytest.raises(CoreError, match="computes its batches itself"):
            check(rt.lib.realm_runtime_take_batch(rt.handle, out, some, rt.err), rt.err)
