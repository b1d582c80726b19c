"""The engine under ThreadSanitizer: threads open, feed, cancel and close realms while the driver steps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from realm_build import ctest, toolchain
from realm_build.paths import ROOT

ROUNDS = 4000
TIMEOUT_SECONDS = 300


@pytest.mark.skipif(sys.platform != "linux", reason="the sanitizer's runtime is Linux only here")
def test_no_data_races_while_realms_come_and_go() -> None:
    compiler = toolchain.sanitizing_compiler("thread")
    program = ctest.build_program(compiler, Path(__file__).with_name("stress_engine.c"))
    model = ROOT / "tests" / "vectors" / "model-llama3.gguf"
    command = [str(program), str(model), str(ROUNDS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    assert done.returncode == 0, done.stderr[-4000:]
