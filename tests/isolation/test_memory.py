"""Memory that changes hands between tenants: wiped before it does, or never read before it is written."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from realm_build import ctest, toolchain
from tests.unit import plan_executor
from tests.unit.core_api import Context

HERE = Path(__file__).parent
VECTORS = HERE.parent / "vectors"
TIMEOUT_SECONDS = 120
LINUX_ONLY = pytest.mark.skipif(
    sys.platform != "linux", reason="skipped: the linker's --wrap is Linux only here"
)
KV_F32 = 1
PAGE = 16


def run_program(name: str, model: str, link_flags: Sequence[str] = ()) -> int:
    """The number it prints."""
    program = ctest.build_program(toolchain.sanitizing_compiler(), HERE / name, link_flags=link_flags)
    done = subprocess.run(
        [str(program), str(VECTORS / model)],
        capture_output=True, text=True, timeout=TIMEOUT_SECONDS, env=ctest.environment(), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-4000:]
    return int(done.stdout)


@LINUX_ONLY
def test_nothing_of_a_tenant_is_in_memory_that_is_freed_or_in_pages_that_are_handed_out() -> None:
    assert (
        run_program("memory_canaries.c", "model-llama3.gguf", ["-Wl,--wrap=free", "-Wl,--wrap=realloc"]) > 50
    )


@LINUX_ONLY
@pytest.mark.parametrize("model", ["model-llama3.gguf", "model-gemma2.gguf"])
def test_shared_scratch_is_never_read_before_it_is_written(model: str) -> None:
    assert run_program("scratch_poison.c", model) > 20


class LazyRuntime(plan_executor.Runtime):
    """Finishes batches without having written anything, once told to."""

    lazy = False

    def wait(self) -> int:
        if self.lazy and (batch := self.take()) is not None:
            self.finish(batch)
        return super().wait()


def test_an_executor_that_writes_no_logits_answers_with_nobody_elses() -> None:
    rt = LazyRuntime()
    path = VECTORS / "model-llama3.gguf"
    model = rt.load(path, kv_type=KV_F32)
    rt.attach(model, path.read_bytes())
    first, second = Context(rt, model, tenant=1), Context(rt, model, tenant=2)
    assert first.forward_logits(first.open(), [5, 6, 7]).any()
    rt.lazy = True
    assert not second.forward_logits(second.open(), [8, 9, 10]).any()
    first.close()
    second.close()
    rt.close_model(model)
    rt.close()


def test_an_external_executor_is_told_to_wipe_every_page_that_changes_hands() -> None:
    """With room for four pages, each later tenant's pages are wiped in the batch that first writes them."""
    rt = plan_executor.Runtime(kv_bytes=4 * 2 * 2 * 2 * PAGE * 8 * 4)
    path = VECTORS / "model-llama3.gguf"
    model = rt.load(path, kv_type=KV_F32)
    rt.attach(model, path.read_bytes())
    rng = np.random.default_rng(1)
    for tenant in range(1, 5):
        ctx = Context(rt, model, tenant=tenant)
        ctx.finish(ctx.forward(ctx.open(kv_type=KV_F32), [int(t) for t in rng.integers(3, 256, 4 * PAGE)]))
        assert rt.wipes == 4 * (tenant - 1)
        ctx.close()
    rt.close_model(model)
    rt.close()
