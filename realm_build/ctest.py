"""C programs of the tests: `tests/unit/**/test_*.c`, each a main() linked with the core under sanitizers.

A program's exit status is its verdict. A comment line `// sources: PATTERN...` names what it is linked
with instead of the whole core, for example the guest's files against a fake host.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from .incremental import run_steps
from .native import compile_files, core_sources, link_step
from .paths import BUILD, ROOT, BuildError, relative, sources
from .toolchain import Compiler, host_target, release_compiler, sanitizing_compiler

# What sanitizers must do for a test: stop at once, and say where.
SANITIZER_OPTIONS = {
    "ASAN_OPTIONS": "abort_on_error=0:allocator_may_return_null=1:detect_stack_use_after_return=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}


def main() -> tuple[int, int]:
    """Builds and runs every C test; returns how many passed and failed."""
    compiler = sanitizing_compiler()
    verdicts = [run_test(compiler, path) for path in sources("tests/unit/**/test_*.c")]
    return verdicts.count(True), verdicts.count(False)


def run_test(compiler: Compiler, source: Path) -> bool:
    try:
        program = build_program(compiler, source)
    except BuildError as error:
        print(f"[c] {relative(source)}: does not compile\n{error}", flush=True)
        return False
    done = subprocess.run([str(program)], cwd=ROOT, stdin=subprocess.DEVNULL, env=environment(), check=False)
    print(f"[c] {relative(source)}: {'passed' if done.returncode == 0 else 'FAILED'}", flush=True)
    return done.returncode == 0


def build_program(compiler: Compiler, *files: Path, link_flags: Sequence[str] = ()) -> Path:
    """Links test files with what the first of them asks for; the program is named after it."""
    linked = [*files, *linked_sources(compiler, files[0])]
    objects = compile_files(compiler, linked, ("-Iguest_src", "-Iguest_src/generated"))
    program = BUILD / "ctest" / compiler.kind / files[0].stem
    run_steps([link_step(compiler, objects, program, link_flags)])
    return program


def visible_library(name: str, files: Sequence[Path]) -> Path:
    """A shared library of some of the core's files, compiled as released but with every symbol visible."""
    release = release_compiler(host_target())
    compiler = replace(release, kind=f"{release.kind}-visible")
    objects = compile_files(compiler, files, ("-fvisibility=default",))
    output = BUILD / "ctest" / compiler.kind / f"{name}.so"
    run_steps([link_step(compiler, objects, output, ("-shared",))])
    return output


def linked_sources(compiler: Compiler, source: Path) -> list[Path]:
    directive = re.search(r"^// sources: (.+)$", source.read_text(), re.MULTILINE)
    return sources(*directive[1].split()) if directive else core_sources(compiler)


def environment() -> dict[str, str]:
    return {**SANITIZER_OPTIONS, **os.environ}
