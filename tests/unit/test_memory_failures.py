"""Each allocation of a model's life failing once: typed errors, no crash, no leak (memory_failures.c)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from realm_build import ctest, toolchain
from tests.unit.gguf_edit import VECTORS

TIMEOUT_SECONDS = 300
WRAPPED = ("malloc", "calloc", "realloc", "aligned_alloc", "posix_memalign", "mmap")


@pytest.mark.skipif(sys.platform != "linux", reason="skipped: the linker's --wrap is Linux only here")
@pytest.mark.parametrize("model", ["model-llama3.gguf", "model-gemma2.gguf"])
def test_every_failed_allocation_is_typed_and_leaks_nothing(model: str) -> None:
    driver = Path(__file__).with_name("memory_failures.c")
    flags = [f"-Wl,--wrap={name}" for name in WRAPPED]
    program = ctest.build_program(toolchain.sanitizing_compiler(), driver, link_flags=flags)
    done = subprocess.run(
        [str(program), str(VECTORS / model)],
        capture_output=True, text=True, timeout=TIMEOUT_SECONDS, env=ctest.environment(), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-4000:]
    assert int(done.stdout) > 50  # allocations that were made to fail
