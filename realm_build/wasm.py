"""The core as WebAssembly: `core.wasm` for one thread, `core-threads.wasm` for shared memory, and both again
with relaxed SIMD where files for that exist. A host loads one of them (js/src/wasm).

A module imports a clock and, with threads, its memory. It exports realm.h and what platform_wasm.c adds.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from . import node
from .core_typescript import INITIAL_PAGES, MAXIMUM_PAGES
from .incremental import Step, run_steps
from .native import compile_files, core_sources, link_step
from .paths import BUILD, ROOT, relative, sources
from .toolchain import Compiler, wasm_compiler

WASM = BUILD / "wasm"
PAGE = 65536
# Of the driving thread. An overflow traps, because the stack stands first in the memory.
STACK_BYTES = 1 << 20
LINK_FLAGS = (
    "-mexec-model=reactor", "-Wl,--strip-all", "-Wl,--gc-sections", "-Wl,--export-dynamic",
    f"-Wl,-z,stack-size={STACK_BYTES}",
    f"-Wl,--initial-memory={INITIAL_PAGES * PAGE}", f"-Wl,--max-memory={MAXIMUM_PAGES * PAGE}",
)  # fmt: skip
# A worker's instance sets its own stack and thread-local block before it runs any C.
THREAD_FLAGS = (
    "-Wl,--shared-memory", "-Wl,--import-memory",
    "-Wl,--export=__stack_pointer", "-Wl,--export=__wasm_init_tls",
)  # fmt: skip


def build() -> None:
    """All modules, and the SDK over them that tests import."""
    build_modules()
    run_steps([sdk_step()])


def build_modules() -> list[Path]:
    relaxed = [False, *([True] if sources("core/cpu/*_relaxed.c") else [])]
    return [build_module(threads, also) for threads in (False, True) for also in relaxed]


def build_module(threads: bool, relaxed: bool) -> Path:
    compiler = wasm_compiler(threads, relaxed)
    objects = compile_files(compiler, core_sources(compiler))
    output = WASM / f"{module_name(threads, relaxed)}.wasm"
    run_steps([module_step(compiler, objects, output, threads)])
    return output


def module_name(threads: bool, relaxed: bool) -> str:
    return "core" + ("-threads" if threads else "") + ("-relaxed" if relaxed else "")


def module_step(compiler: Compiler, objects: list[Path], output: Path, threads: bool) -> Step:
    return link_step(compiler, objects, output, (*LINK_FLAGS, *(THREAD_FLAGS if threads else ())))


def sdk_step() -> Step:
    """The SDK of tests/wasm/sdk.js as one file."""
    entry = ROOT / "tests" / "wasm" / "sdk.js"
    bundle = node.bundle_step(WASM / "sdk.mjs", ("--format=esm", f"--outfile={relative(WASM / 'sdk.mjs')}"))
    return replace(bundle, command=(*bundle.command, relative(entry)), inputs=(*bundle.inputs, entry))
