"""Decoding beside busy neighbours: tokens per second with and without a process spinning on each processor.

    python3 -m realm_build bench busy [--model FILE] [--threads 2] [--tokens 64] [--rounds 5]

Time is the wall's, of whole generations. The scheduler owes each side half of every processor, so half of the
quiet figure is the most there is. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "host_python"), str(ROOT)]

from realm import Realm  # noqa: E402

SPIN = "import os, sys\nos.sched_setaffinity(0, {int(sys.argv[1])})\nprint(flush=True)\nwhile True: pass"


@contextmanager
def neighbours() -> Iterator[None]:
    """One process of ordinary priority on each processor that this one may use."""
    processes = []
    try:
        for processor in os.sched_getaffinity(0):
            command = [sys.executable, "-I", "-S", "-c", SPIN, str(processor)]
            processes.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        yield
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def rate(realm: Realm, tokens: int) -> float:
    """Tokens per second after the first."""
    first = 0.0
    for _ in realm.stream("Hello", max_tokens=tokens + 1, temperature=0, ignore_end=True):
        first = first or time.perf_counter()
    return tokens / (time.perf_counter() - first)


def measure(model: Path, threads: int, tokens: int, rounds: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {"quiet": [], "busy": []}
    with Realm(model, threads=threads) as realm:
        rate(realm, 8)
        for _ in range(rounds):
            found["quiet"].append(rate(realm, tokens))
            with neighbours():
                found["busy"].append(rate(realm, tokens))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Decoding beside busy neighbours.")
    parser.add_argument("--model", type=Path, help="GGUF file; without it, the random 1.1B Q4_K_M model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    found = measure(options.model or default_model(), options.threads, options.tokens, options.rounds)
    quiet, busy = (statistics.median(found[name]) for name in ("quiet", "busy"))
    print(json.dumps({"quiet": quiet, "busy": busy, "share": busy / quiet, "rounds": found}))


def default_model() -> Path:
    from tests.bench.make_models import make

    return make("1.1b-q4_k_m")


if __name__ == "__main__":
    main()
