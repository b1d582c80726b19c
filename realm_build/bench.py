"""Starts the benchmarks of tests/bench: `bench_NAME.py`, or `bench_NAME.c` linked with the release build.

The command without a name is `all`: the whole comparison.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .incremental import run_steps
from .native import compile_files, core_sources, link_step
from .paths import BUILD, ROOT, BuildError, sources
from .toolchain import host_target, release_compiler


def main(name: str, arguments: Sequence[str]) -> int:
    found = sources("tests/bench/bench_*.py", "tests/bench/bench_*.c")
    benchmarks = {path.stem.removeprefix("bench_"): path for path in found}
    if name not in benchmarks:
        raise BuildError(f"no benchmark {name!r}; there are: {', '.join(benchmarks) or 'none'}")
    return subprocess.call([*start_command(benchmarks[name]), *arguments], cwd=ROOT)


def start_command(benchmark: Path) -> list[str]:
    if benchmark.suffix == ".py":
        return [sys.executable, str(benchmark)]
    compiler = release_compiler(host_target())
    objects = compile_files(compiler, [benchmark, *core_sources(compiler)])
    program = BUILD / "bench" / benchmark.stem
    run_steps([link_step(compiler, objects, program)])
    return [str(program)]
