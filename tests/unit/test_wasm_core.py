"""core.wasm from outside: imports, exports, size, and that the generated TypeScript knows C's layouts.

The compiler itself is the oracle of the layouts: it checks every size and offset as a static assertion.
"""

from __future__ import annotations

import gzip
import subprocess
from pathlib import Path

import pytest
import wasmtime

from realm_build import core_typescript, toolchain, wasm
from realm_build.paths import ROOT

MODULES = wasm.build_modules()
LARGEST_GZIPPED = 160 << 10  # of one module: a page loads one, and all it loads is to stay under 400 KB


def described(module: Path) -> tuple[list[str], list[str]]:
    """Names of imports and exports, read by wasmtime: Node 20 knows no relaxed SIMD."""
    config = wasmtime.Config()
    config.wasm_threads = True
    config.shared_memory = True
    found = wasmtime.Module.from_file(wasmtime.Engine(config), str(module))
    imports = [f"{one.module} {one.name}" for one in found.imports]
    return imports, [one.name for one in found.exports]


def snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


def test_layouts_are_those_of_the_compiler(tmp_path: Path) -> None:
    lines = ['#include "realm.h"', "#include <stddef.h>"]
    for struct in core_typescript.structs():
        lines.append(
            f"_Static_assert(sizeof({struct.name}) == {struct.size}, {struct.name!r});".replace("'", '"')
        )
        for field in struct.fields:
            where = f"offsetof({struct.name}, {snake(field.name)})"
            lines.append(f'_Static_assert({where} == {field.offset}, "{struct.name}.{field.name}");')
    assert len(lines) > 60
    source = tmp_path / "layout.c"
    source.write_text("\n".join(lines) + "\n")
    compiler = toolchain.wasm_compiler(threads=False, relaxed=False)
    command = [
        *compiler.command,
        "-std=c11",
        "-Icore/include",
        "-c",
        str(source),
        "-o",
        str(tmp_path / "o.o"),
    ]
    subprocess.run(command, cwd=ROOT, check=True, env=toolchain.compiler_environment())
    source.write_text(source.read_text().replace(" == 0, ", " == 1, ", 1))  # the check can fail
    failed = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    assert b"static assertion failed" in failed.stderr


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_imports_are_a_clock_and_with_threads_the_memory(module: Path) -> None:
    imports, _ = described(module)
    assert sorted(imports) == (["env memory"] if "threads" in module.stem else []) + ["realm now_ms"]


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_exports_are_realm_h(module: Path) -> None:
    """All that is declared and defined; nothing of libc's."""
    _, exports = described(module)
    declared = {name for name, _ in core_typescript.functions()}
    if "threads" not in module.stem:
        declared -= {name for name in declared if name.startswith("realm_wasm_seat")}
    assert {name for name in exports if name.startswith("realm_")} == declared
    rest = {name for name in exports if not name.startswith("realm_")}
    assert rest <= {"memory", "_initialize", "__stack_pointer", "__wasm_init_tls"}


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_size(module: Path) -> None:
    assert len(gzip.compress(module.read_bytes())) < LARGEST_GZIPPED


@pytest.mark.parametrize("module", [m for m in MODULES if "threads" in m.stem], ids=lambda path: path.stem)
def test_one_function_waits(module: Path) -> None:
    """Locals of a function that waits may be lost in Node 20 (see platform_wasm.c): nobody inlines it.

    The second place is the linker's own, where threads wait for the memory to be filled.
    """
    wait_on_32_bits = bytes([0xFE, 0x01, 0x02, 0x00])  # memory.atomic.wait32, alignment 4, offset 0
    assert module.read_bytes().count(wait_on_32_bits) == 2
