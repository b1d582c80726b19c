"""`test`: builds, checks and runs everything on every host, then prints a table and one closing line.

A step that fails does not stop the next ones, except the build. A host that cannot be set up is a failure.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from . import browser, ctest, emulator, fuzz, node, software_gpu
from .paths import ROOT, BuildError, relative, sources

FUZZ_SECONDS = 60  # for all targets together; the long run is the `fuzz` command
EXAMPLE_INPUT = b"What is the capital of France?\n"
EXAMPLE_TIMEOUT_SECONDS = 120


@dataclass(frozen=True)
class Counts:
    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped)


def main(only: Sequence[str] | None = None) -> int:
    steps = all_steps()
    unknown = set(only or []) - set(steps)
    if unknown:
        raise BuildError(f"no step {', '.join(sorted(unknown))}; there are: {', '.join(steps)}")
    results: dict[str, tuple[Counts, float]] = {}
    for name, step in steps.items():
        if only and name not in only and name != "build":
            continue
        results[name] = run_step(name, step)
        if name == "build" and results[name][0].failed:
            break
    return report(results)


def all_steps() -> dict[str, Callable[[], Counts]]:
    return {
        "setup": set_up,
        "build": lambda: module("realm_build", "build"),
        "check": lambda: module("realm_build", "check"),
        "unit": lambda: module("pytest", "-q", "tests/unit"),
        "isolation": lambda: module("pytest", "-q", "tests/isolation"),
        "unit c": lambda: Counts(*ctest.main()),
        "unit node": lambda: Counts(*node.run_tests(sources("tests/node/*.test.mjs"))),
        "gpu": run_gpu_tests,
        "server": lambda: module("pytest", "-q", "tests/server"),
        "web": lambda: module("pytest", "-q", "tests/web"),
        "conformance": lambda: module("tests.conformance.runner"),  # on every host of its list
        "examples": run_examples,
        "fuzz": lambda: Counts(*fuzz.run(FUZZ_SECONDS)),
    }


def set_up() -> Counts:
    """What tests need beyond the virtual environment: sanitizers, Node, a browser, GPUs, an emulator."""
    fuzz.install_clang()
    node.install_tools()
    browser.install()
    software_gpu.set_up()
    emulator.install()
    return Counts(passed=5)


def run_gpu_tests() -> Counts:
    """Kernels on each software GPU, and the executor over them; two at a time: most of it is compilers."""
    kernels = [f"tests/gpu/test_{name}.py" for name in ("matmul", "attention", "rows")]
    chosen = [(path, "-k", adapter) for adapter in software_gpu.ADAPTERS for path in kernels]
    others = [relative(path) for path in sources("tests/gpu/test_*.py") if relative(path) not in kernels]

    def run(arguments: Sequence[str]) -> Counts:
        return module("pytest", "-q", *arguments)

    with ThreadPoolExecutor(2) as pool:
        return sum(pool.map(run, [*chosen, others]), Counts())


def run_examples() -> Counts:
    """Starts every example as a user would, with a question typed into it; each must end well by itself."""
    verdicts = []
    for example in sources("examples/python/*.py"):
        done = subprocess.run(
            [sys.executable, str(example)], cwd=ROOT, input=EXAMPLE_INPUT, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=EXAMPLE_TIMEOUT_SECONDS, check=False,
        )  # fmt: skip
        verdicts.append(done.returncode == 0 and bool(done.stdout.strip()))
        print(f"[example] {relative(example)}: {'passed' if verdicts[-1] else 'FAILED'}", flush=True)
        if not verdicts[-1]:
            print(done.stdout.decode(errors="replace"), flush=True)
    return Counts(verdicts.count(True), verdicts.count(False)) if verdicts else Counts(failed=1)


def run_step(name: str, step: Callable[[], Counts]) -> tuple[Counts, float]:
    print(f"\n==== {name} ====", flush=True)
    start = time.monotonic()
    try:
        counts = step()
    except (BuildError, subprocess.TimeoutExpired) as error:
        print(f"error: {error}", flush=True)
        counts = Counts(failed=1)
    return counts, time.monotonic() - start


def module(name: str, *arguments: str) -> Counts:
    """Runs `python -m NAME`, shows its output as it comes, and reads the counts off its last lines."""
    command = [sys.executable, "-u", "-m", name, *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace",
    ) as process:  # fmt: skip
        assert process.stdout is not None
        last = ""
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line if line.strip() else last
    return read_counts(last, process.returncode)


def read_counts(line: str, status: int) -> Counts:
    """From pytest's closing line or our own `N passed, N failed`; the exit status has the last word."""

    def count(*words: str) -> int:
        found = [re.search(rf"(\d+) {word}\b", line) for word in words]
        return sum(int(match[1]) for match in found if match)

    counts = Counts(count("passed"), count("failed", "errors?"), count("skipped"))
    if status != 0 and counts.failed == 0:
        return counts + Counts(failed=1)
    return counts if counts != Counts() else Counts(passed=1)


def report(results: dict[str, tuple[Counts, float]]) -> int:
    print(f"\n{'step':<22}{'passed':>8}{'failed':>8}{'skipped':>9}{'seconds':>9}")
    for name, (counts, seconds) in results.items():
        print(f"{name:<22}{counts.passed:>8}{counts.failed:>8}{counts.skipped:>9}{seconds:>9.1f}")
    total = sum((counts for counts, _ in results.values()), Counts())
    print(f"{total.passed} passed, {total.failed} failed", flush=True)
    return 1 if total.failed else 0
