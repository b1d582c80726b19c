"""Starts the benchmarks `tests/bench/bench_*.py`; each is a program of its own with its own options."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from .paths import ROOT, BuildError, sources


def main(name: str | None, arguments: Sequence[str]) -> int:
    benchmarks = {path.stem.removeprefix("bench_"): path for path in sources("tests/bench/bench_*.py")}
    if name is None:
        print("benchmarks:", *benchmarks, sep="\n  ")
        return 0
    if name not in benchmarks:
        raise BuildError(f"no benchmark {name!r}; there are: {', '.join(benchmarks) or 'none'}")
    return subprocess.call([sys.executable, str(benchmarks[name]), *arguments], cwd=ROOT)
