"""The WebAssembly kernels behind the same table as the native ones (tests/unit/kernels.py), run by wasmtime.

A call copies the NumPy arrays its arguments point to into the module's memory and back. The first one (of a
product: the weights) ends where the memory ends, so that reading behind it traps.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import wasmtime
from gguf import GGMLQuantizationType as Type

from realm_build import toolchain
from realm_build.incremental import run_steps
from realm_build.native import compile_files, link_step
from realm_build.paths import BUILD, sources
from tests.unit import kernels

MEMORY = 32 << 20
PORTABLE, SIMD128, RELAXED = 1, 1 << 16, 1 << 17  # REALM_CPU_... of realm.h
# Name: relaxed build, engine that takes bytes of relaxed products as signed, features. On x86 wasmtime lets
# pairs of products saturate: with the last two both ways out of the promised range are run.
MODULES = {
    "wasm-portable": (False, False, PORTABLE),
    "wasm-simd128": (False, False, 0),
    "wasm-relaxed": (True, False, 0),
    "wasm-relaxed-signed": (True, True, 0),
}
ELEMENTWISE = (
    "rmsnorm", "rope", "silu_mul", "gelu_mul", "add", "scale", "softcap", "add_bias", "kv_store", "attention",
    "softmax_stats",
)  # fmt: skip


@functools.cache
def build(relaxed: bool) -> Path:
    """The kernels alone, compiled as released, with the table of functions exported."""
    compiler = toolchain.wasm_compiler(threads=False, relaxed=relaxed)
    objects = compile_files(compiler, sources("core/base.c", "core/blocks.c", "core/cpu/*.c"))
    output = BUILD / "ctest" / compiler.kind / "kernels.wasm"
    exports = ("cpu_ops_init", "cpu_attention_scratch", "__heap_base")
    flags = (
        "-mexec-model=reactor", "-Wl,--export-table", f"-Wl,--initial-memory={MEMORY}",
        *(f"-Wl,--export={name}" for name in exports),
    )  # fmt: skip
    run_steps([link_step(compiler, objects, output, flags)])
    return output


class WasmKernels:
    """One instance of the module and its op table; has the attributes of kernels.Ops."""

    def __init__(self, relaxed: bool, signed: bool, features: int) -> None:
        config = wasmtime.Config()
        config.wasm_relaxed_simd = True
        config.wasm_relaxed_simd_deterministic = signed
        engine = wasmtime.Engine(config)
        module = wasmtime.Module.from_file(engine, str(build(relaxed)))
        self.store = wasmtime.Store(engine)
        self.store.set_wasi(wasmtime.WasiConfig())
        linker = wasmtime.Linker(engine)
        linker.define_wasi()
        exports: Any = linker.instantiate(self.store, module).exports(self.store)
        exports["_initialize"](self.store)
        self.functions: Any = exports["__indirect_function_table"]
        memory = exports["memory"]
        size = memory.data_len(self.store)
        address = ctypes.addressof(memory.data_ptr(self.store).contents)
        self.bytes = np.frombuffer((ctypes.c_ubyte * size).from_address(address), np.uint8)
        self.heap = -(-exports["__heap_base"].value(self.store) // 64) * 64
        exports["cpu_ops_init"](self.store, self.heap, features)
        self.read_table()

    def read_table(self) -> None:
        words = self.bytes[self.heap :].view(np.uint32)
        name = bytes(self.bytes[words[0] : words[0] + 64])
        self.name = name[: name.index(0)]
        self.matmul = {kind: self.read_matmul(words[1 + 4 * kind :]) for kind in map(int, Type)}
        self.dequantize = {kind: self.function(int(words[1 + 4 * 64 + kind])) for kind in map(int, Type)}
        for i, op in enumerate(ELEMENTWISE):
            setattr(self, op, self.function(int(words[1 + 5 * 64 + i])))
        self.attention_index = int(words[1 + 5 * 64 + ELEMENTWISE.index("attention")])
        self.attention = self.attend
        start = 1 + 5 * 64 + len(ELEMENTWISE)
        self.run_packed = {kind: self.function(int(words[start + kind])) for kind in map(int, Type)}

    def read_matmul(self, words: Any) -> Any:
        names = ("prepared_size", "prepare", "run")
        functions = {name: self.function(int(index)) for name, index in zip(names, words, strict=False)}
        return SimpleNamespace(**functions, out_tile=int(words[3]))

    def function(self, index: int) -> Any:
        return functools.partial(self.call, index) if index else None

    def call(self, index: int, *arguments: Any) -> Any:
        placed: dict[int, tuple[Any, int]] = {}
        values = [self.place(argument, placed) for argument in arguments]
        result = self.functions.get(self.store, index)(self.store, *values)
        self.take_back(placed)
        return result

    def place(self, argument: Any, placed: dict[int, tuple[Any, int]]) -> Any:
        """An argument as the module takes it; what it points to is copied in once."""
        array = kernels.pointed.get(argument) if isinstance(argument, int) else None
        if hasattr(argument, "_obj"):  # ctypes.byref
            array, argument = np.frombuffer(argument._obj, np.uint8), ctypes.addressof(argument._obj)
        if array is None:
            return argument
        if argument not in placed:
            used = sum(-(-other.nbytes // 64) * 64 for other, _ in placed.values())
            at = self.heap + used if placed else self.bytes.size - array.nbytes
            self.bytes[at : at + array.nbytes] = array.reshape(-1).view(np.uint8)
            placed[argument] = (array, at)
        return placed[argument][1]

    def take_back(self, placed: dict[int, tuple[Any, int]]) -> None:
        for array, at in placed.values():
            if array.flags.writeable:
                array.reshape(-1).view(np.uint8)[:] = self.bytes[at : at + array.nbytes]

    def attend(self, job_reference: Any, row0: int, row1: int, head0: int, head1: int, scratch: int) -> None:
        """As `call`, with a job whose fields point to arrays too."""
        job = job_reference._obj
        count = (job.pos0 + job.n_rows + kernels.KV_PAGE - 1) // kernels.KV_PAGE
        addresses = (ctypes.c_void_p * count).from_address(job.pages)
        placed: dict[int, tuple[Any, int]] = {}
        last = self.place(addresses[count - 1], placed)
        pages = [self.place(page, placed) if page else 0 for page in addresses[: count - 1]]
        table = np.array([*pages, last], np.uint32)
        record = np.zeros(15, np.uint32)
        record[:2] = self.place(job.q, placed), self.place(job.out, placed)
        record[2:10] = (
            job.q_stride, job.out_stride, job.n_rows, job.pos0, job.n_head, job.n_head_kv, job.head_dim,
            job.window,
        )  # fmt: skip
        record[10:12].view(np.float32)[:] = job.scale, job.softcap
        record[12:] = job.kv_type, job.rounded, self.place(kernels.pointer(table), placed)
        at = self.place(kernels.pointer(record), placed)
        floats = self.place(scratch, placed)
        function = self.functions.get(self.store, self.attention_index)
        function(self.store, at, row0, row1, head0, head1, floats)
        self.take_back(placed)


@functools.cache
def ops(name: str) -> WasmKernels:
    return WasmKernels(*MODULES[name.removesuffix(kernels.PACKED)])
