"""The WebGPU executor under a native core: the tests of test_external.py on software GPUs, and its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gpu.executor import ExecutorError, GpuExecutor, Process, Runtime
from tests.unit import plan_executor
from tests.unit.core_api import Context
from tests.unit.test_external import (  # noqa: F401 - collected here with the fixtures below
    F32_BOUND,
    HALF_BOUND,
    KV_F32,
    LLAMA,
    Bench,
    OpenBench,
    gap,
    llama,
    prompt,
    test_architectures,
    test_block_types,
    test_both_kv_types_beside_each_other,
    test_generation_in_the_engine,
    test_pages_that_change_hands_are_wiped_and_numbers_stay_dense,
    test_prefixes_are_reused,
    test_rewinding_copies_a_shared_page,
    test_scores,
    test_sessions_share_batches_and_chunks,
    test_slices_of_layers,
)


@pytest.fixture(scope="session")
def process() -> Iterator[Process]:
    opened = Process("lavapipe")
    yield opened
    opened.close()


@pytest.fixture
def open_bench(process: Process) -> Iterator[OpenBench]:
    opened: list[Bench] = []

    def open_one(path: Path, **options: int) -> Bench:
        opened.append(Bench(Runtime(process, **options), path))
        return opened[-1]

    yield open_one
    for bench in opened:
        bench.executor.close()
        bench.close()


def test_without_half_precision() -> None:
    """SwiftShader, which has no f16 in shaders; one model suffices: each kernel is tested on it."""
    process = Process("swiftshader")
    bench = Bench(Runtime(process), LLAMA)
    ctx = bench.context()
    tokens = prompt(40, 1)
    for kv_type, bound in ((0, HALF_BOUND), (1, F32_BOUND)):
        made = ctx.forward_logits(ctx.open(kv_type=kv_type, no_prefix=1), tokens)
        assert gap(made, bench.expected(tokens)) < bound
    ctx.close()
    bench.close()
    process.close()


def test_a_batch_nobody_wants_is_given_up(process: Process, open_bench: OpenBench) -> None:
    """Between two pieces; a small model is one piece, so the executor is told that the device is slow."""
    process.ask({"kind": "pace", "rate": 1})
    bench = open_bench(LLAMA)
    ctx = bench.context()
    ctx.forward(ctx.open(kv_type=KV_F32), prompt(200, 1))
    batch = bench.rt.take()
    assert not bench.executor.run(batch, wanted=False)
    assert bench.executor.run(batch, wanted=True)
    bench.rt.finish(batch)
    process.ask({"kind": "pace", "rate": 1e6})
    ctx.close()


def test_many_pieces_give_the_same(process: Process, open_bench: OpenBench) -> None:
    process.ask({"kind": "pace", "rate": 1})
    bench = open_bench(LLAMA)
    ctx = bench.context()
    tokens = prompt(100, 1)
    made = ctx.forward_logits(ctx.open(kv_type=KV_F32), tokens)
    assert gap(made, bench.expected(tokens)) < F32_BOUND
    process.ask({"kind": "pace", "rate": 1e6})
    ctx.close()


def test_a_lost_device_is_a_typed_error_and_reloading_recovers(process: Process) -> None:
    rt = Runtime(process)
    model = rt.load(LLAMA, kv_type=KV_F32)
    rt.attach(model, LLAMA.read_bytes())
    ctx = Context(rt, model)
    session, tokens = ctx.open(kv_type=KV_F32), prompt(20, 1)
    ctx.finish(ctx.forward(session, tokens))
    process.ask({"kind": "lose"})
    ticket = ctx.forward(session, [5])
    batch = rt.take()
    with pytest.raises(ExecutorError, match="load the model again") as caught:
        rt.executors[int(batch["model"])].run(batch)
    assert caught.value.code == "device-lost"
    rt.finish(batch, int(rt.lib.REALM_E_DEVICE_LOST))
    process.ask({"kind": "reopen"})
    rt.attach(model, LLAMA.read_bytes())
    ctx.rewind(session, 0)
    ctx.finish(ctx.forward(session, [*tokens, 5]))
    assert ctx.state(ticket) != 0
    ctx.close()
    rt.close_model(model)
    rt.close()


def test_a_model_that_ends_early(process: Process) -> None:
    """The source says how long it is; its pieces end before the last tensor."""
    rt = plan_executor.Runtime()
    model = rt.load(LLAMA)
    block = plan_executor.plan_block(model)
    data = LLAMA.read_bytes()
    with pytest.raises(ExecutorError, match="ended after") as caught:
        GpuExecutor(process, plan_executor.Plan.parse(block), block, data[:-5000])
    assert caught.value.code == "io"
    rt.close_model(model)
    rt.close()
