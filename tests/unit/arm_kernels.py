"""The arm64 kernels behind the same table as the native ones (tests/unit/kernels.py), run under qemu-user.

A call copies the NumPy arrays its arguments point to into a file that the emulated process has mapped, and
back. The first one (of a product: the weights) ends where the file ends: to read behind it is a crash.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType as Type

from realm_build import ctest, emulator
from realm_build.paths import ROOT
from realm_build.toolchain import find_target, release_compiler
from tests.unit import kernels

MEMORY = 32 << 20
PORTABLE, DOTPROD, I8MM = 1, 1 << 8, 1 << 9  # REALM_CPU_... of realm.h
# Name: processor of qemu's, features.
PROCESSORS = {
    "arm-portable": ("max", PORTABLE),
    "arm-neon-dotprod": ("max", PORTABLE | DOTPROD),
    "arm-neon-i8mm": ("max", PORTABLE | DOTPROD | I8MM),
}
LIFE_SECONDS = 900  # a call takes milliseconds; what hangs is ended
MATMUL = ("prepared_size", "prepare", "run")
OTHERS = (
    "rmsnorm", "rope", "silu_mul", "gelu_mul", "add", "scale", "softcap", "add_bias", "kv_store",
    "softmax_stats",
)  # fmt: skip


@functools.cache
def build() -> Path:
    """The kernels compiled as released for musl, and the program that calls them, linked statically."""
    compiler = release_compiler(find_target("linux-arm64-musl"))
    return ctest.build_program(compiler, ROOT / "tests/unit/kernel_server.c", link_flags=("-static",))


class ArmKernels:
    """One emulated process and its op table; has the attributes of kernels.Ops."""

    def __init__(self, processor: str, features: int) -> None:
        self.file = tempfile.NamedTemporaryFile(prefix="realm-arm-")  # noqa: SIM115
        self.file.truncate(MEMORY)
        self.bytes = np.frombuffer(mmap.mmap(self.file.fileno(), MEMORY), np.uint8)
        emulated = [emulator.install(), "-cpu", processor, str(build()), self.file.name, str(features)]
        command = ["timeout", str(LIFE_SECONDS), *emulated]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.name = self.read_line().encode()
        self.matmul = {int(kind): self.matmul_of(int(kind)) for kind in Type}
        self.dequantize = {int(kind): functools.partial(self.call, "dequantize", int(kind)) for kind in Type}
        for op in OTHERS:
            setattr(self, op, functools.partial(self.call, op, 0))

    def matmul_of(self, kind: int) -> Any:
        functions = {name: functools.partial(self.call, name, kind) for name in MATMUL}
        return SimpleNamespace(**functions, out_tile=self.call("out_tile", kind))

    def call(self, op: str, kind: int, *arguments: Any) -> int:
        placed: dict[int, tuple[Any, int]] = {}
        number, integers = 0.0, []
        for argument in arguments:
            if isinstance(argument, float):
                number = argument
            else:
                integers.append(self.place(argument, placed))
        answer = self.ask(op, kind, number, integers)
        self.take_back(placed)
        return answer

    def ask(self, op: str, kind: int, number: float, integers: list[int]) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{op} {kind} {number!r} {' '.join(map(str, integers))}\n")
        self.process.stdin.flush()
        return int(self.read_line())

    def read_line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(f"the emulated process ended with {self.process.wait(LIFE_SECONDS)}")
        return line.strip()

    def place(self, argument: Any, placed: dict[int, tuple[Any, int]]) -> int:
        """An argument as the process takes it; what it points to is copied in once."""
        array = kernels.pointed.get(argument) if isinstance(argument, int) else None
        if hasattr(argument, "_obj"):  # ctypes.byref
            array, argument = np.frombuffer(argument._obj, np.uint8), ctypes.addressof(argument._obj)
        if array is None:
            return int(argument)
        if argument not in placed:
            used = sum(-(-other.nbytes // 64) * 64 for other, _ in placed.values())
            at = used if placed else self.bytes.size - array.nbytes
            self.bytes[at : at + array.nbytes] = array.reshape(-1).view(np.uint8)
            placed[argument] = (array, at)
        return placed[argument][1] + 1

    def take_back(self, placed: dict[int, tuple[Any, int]]) -> None:
        for array, at in placed.values():
            if array.flags.writeable:
                array.reshape(-1).view(np.uint8)[:] = self.bytes[at : at + array.nbytes]

    def attention(
        self, job_reference: Any, row0: int, row1: int, head0: int, head1: int, scratch: int
    ) -> None:
        """As `call`, with a job whose fields point to arrays too."""
        job = job_reference._obj
        count = (job.pos0 + job.n_rows + kernels.KV_PAGE - 1) // kernels.KV_PAGE
        addresses = (ctypes.c_void_p * count).from_address(job.pages)
        placed: dict[int, tuple[Any, int]] = {}
        last = self.place(addresses[count - 1], placed)
        table = [*(self.place(page, placed) if page else 0 for page in addresses[: count - 1]), last]
        pages = np.array(table, np.uint64)
        fields = np.array(
            [
                self.place(job.q, placed), self.place(job.out, placed), job.q_stride, job.out_stride,
                job.n_rows, job.pos0, job.n_head, job.n_head_kv, job.head_dim, job.window, job.kv_type,
                self.place(kernels.pointer(pages), placed), job.rounded,
            ],
            np.uint64,
        )  # fmt: skip
        numbers = np.array([job.scale, job.softcap], np.float32)
        at = [self.place(kernels.pointer(fields), placed), self.place(kernels.pointer(numbers), placed)]
        self.ask("attention", 0, 0.0, [*at, row0, row1, head0, head1, self.place(scratch, placed)])
        self.take_back(placed)


@functools.cache
def ops(name: str) -> ArmKernels:
    return ArmKernels(*PROCESSORS[name])
