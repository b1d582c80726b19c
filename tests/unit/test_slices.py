"""Hosts without a driver thread step in slices: what these compute, where they end; what workers must not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from realm._library import ffi

from realm_build import ctest, toolchain
from tests.unit.core_api import READY, Context, Runtime, check

VECTORS = Path(__file__).parents[1] / "vectors"
MODELS = ["model-llama3.gguf", "model-gemma2.gguf"]
PORTABLE = 1
SHAPE_BOUND = 1e-3  # fast attention adds up in an order that depends on how rows are grouped
INSIDE_A_STEP = 2
MOST_SLICES = 200_000
WRAPPED = ("malloc", "calloc", "realloc", "posix_memalign", "free")


def step(rt: Runtime, budget: int) -> int:
    busy = ffi.new("uint32_t *")
    check(rt.lib.realm_runtime_step(rt.handle, 0, budget, busy, rt.err), rt.err)
    return int(busy[0])


def prompt(length: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(1).integers(3, 256, length)]


def computed(model: str, budget: int, threads: int, features: int) -> tuple[Any, int]:
    """Logits of a prompt, and in how many slices they came."""
    with Runtime(threads=threads, features=features, no_driver=1) as rt:
        loaded = rt.load(VECTORS / model)
        ctx = Context(rt, loaded)
        tokens = prompt(100)
        out = np.zeros((len(tokens), ctx.info.vocab_size), dtype=np.float32)
        session = ctx.open(no_prefix=1)
        room = ffi.cast("float *", out.ctypes.data)
        ticket = ctx._handle("realm_forward_logits", session, tokens, len(tokens), room)
        slices = 1
        while step(rt, budget) != 0:
            slices += 1
            assert slices < MOST_SLICES, "the work never ends"
        assert ctx.state(ticket) == READY
        ctx.close()
        rt.close_model(loaded)
    return out, slices


@pytest.mark.parametrize("features", [PORTABLE, 0])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("model", MODELS)
def test_slices_compute_what_a_whole_step_does(model: str, threads: int, features: int) -> None:
    whole, _ = computed(model, 0, threads, features)
    coarse, few = computed(model, 300_000, threads, features)
    fine, many = computed(model, 1, threads, features)
    bound = 0 if features == PORTABLE else SHAPE_BOUND
    assert np.abs(coarse - whole).max() <= bound
    assert np.abs(fine - whole).max() <= bound
    assert many > few > 2


def test_a_slice_ends_inside_a_long_op() -> None:
    """At the smallest budget there are many more slices than ops: a plan of two layers has about 40."""
    _, slices = computed(MODELS[0], 1, 1, PORTABLE)
    assert slices > 200


@pytest.mark.parametrize("last", [False, True])
def test_a_cancelled_step_is_not_computed_to_its_end(last: bool) -> None:
    with Runtime(threads=1, features=PORTABLE, no_driver=1) as rt:
        loaded = rt.load(VECTORS / MODELS[0])
        leaving, staying = Context(rt, loaded), Context(rt, loaded)
        going = leaving.forward(leaving.open(no_prefix=1), prompt(60))
        kept = None if last else staying.forward(staying.open(no_prefix=1), prompt(60))
        for _ in range(5):
            assert step(rt, 1) == INSIDE_A_STEP
        leaving.cancel(going)
        slices = 1
        while step(rt, 1) != 0:
            slices += 1
        assert (slices < 3) == last
        if kept is not None:
            assert staying.state(kept) == READY
        again = leaving.forward(leaving.open(no_prefix=1), prompt(60))  # the engine goes on
        leaving.wait(again)
        leaving.close()
        staying.close()
        rt.close_model(loaded)


@pytest.mark.skipif(sys.platform != "linux", reason="skipped: the linker's --wrap is Linux only here")
def test_workers_never_allocate() -> None:
    driver = Path(__file__).with_name("worker_allocations.c")
    flags = [f"-Wl,--wrap={name}" for name in WRAPPED]
    program = ctest.build_program(toolchain.sanitizing_compiler(), driver, link_flags=flags)
    command = [str(program), str(VECTORS / MODELS[0])]
    done = subprocess.run(command, capture_output=True, text=True, env=ctest.environment(), check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout) > 200
