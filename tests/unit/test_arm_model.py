"""The whole core for arm64 under qemu-user: the demo model answers, text to text, with every kernel set."""

from __future__ import annotations

import subprocess

import pytest

from realm_build import ctest, emulator
from realm_build.paths import ROOT
from realm_build.toolchain import find_target, release_compiler
from tests.unit.arm_kernels import PROCESSORS

MODEL = ROOT / "demo_model" / "realm-demo.gguf"
PROMPT = "<|begin|><|user|>What is the capital of France?<|end|><|assistant|>"
TIMEOUT_SECONDS = 300  # it takes one or two


@pytest.mark.parametrize("name", PROCESSORS)
def test_paris(name: str) -> None:
    compiler = release_compiler(find_target("linux-arm64-musl"))
    program = ctest.build_program(compiler, ROOT / "tests/unit/answer_model.c", link_flags=("-static",))
    processor, features = PROCESSORS[name]
    command = [emulator.install(), "-cpu", processor, str(program), str(MODEL), str(features), PROMPT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    kernels, answer = done.stdout.splitlines()
    assert kernels == name.removeprefix("arm-")
    assert answer.strip() == "The capital of France is Paris."
