"""The Node SDK beside the core alone (bench_core.c) and beside node-llama-cpp, on one model, in turn.

    python3 -m realm_build bench node [--model FILE] [--threads 2] [--rounds 5] [--no-peer]

A round runs each of the three in a new process; a round's ratios are of that round alone, because a shared
machine changes its speed from minute to minute. Above 1 the SDK is faster (for memory: needs less). All but
load is measured warm. The peer is installed by npm into build/bench/node the first time; see bench_peers.py.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from realm_build import bench, node  # noqa: E402
from tests.bench import bench_peers as peers  # noqa: E402

FIRST, PREFILL, DECODE, PARALLEL = 32, 512, 128, 64
RATES = ("prefill", "decode", "parallel")
MEASURES = ("load", "first", *RATES, "resident")

Round = dict[str, float]


def counts(threads: int) -> list[str]:
    return [str(count) for count in (threads, FIRST, PREFILL, DECODE, PARALLEL)]


def sdk_round(model: Path, threads: int) -> Round:
    script = ROOT / "tests" / "bench" / "peer_realm.mjs"
    return dict(peers.run([str(node.node()), str(script), str(model), *counts(threads)], ROOT))


def core_round(model: Path, threads: int) -> Round:
    [program] = bench.start_command(ROOT / "tests" / "bench" / "bench_core.c")
    return dict(peers.run([program, str(model), *counts(threads)], ROOT))


def llama_round(model: Path, threads: int) -> Round:
    arguments = [str(threads), str(PREFILL), str(DECODE), str(FIRST), str(PARALLEL)]
    found = peers.run(
        [str(node.node()), str(peers.NODE / "peer_llama.mjs"), str(model), *arguments], peers.NODE
    )
    return {
        "load": found["load_s"], "first": found["first_token_s"], "prefill": found["prefill"][str(PREFILL)],
        **{name: found[name] for name in ("decode", "parallel", "resident")},
    }  # fmt: skip


def ratio(measure: str, ours: Round, other: Round) -> float:
    return ours[measure] / other[measure] if measure in RATES else other[measure] / ours[measure]


def show(name: str, ours: list[Round], others: list[Round]) -> None:
    print(f"{'beside ' + name:26} {'SDK':>10} {name:>16} {'ratio':>7}  spread")
    for measure in MEASURES:
        ratios = [ratio(measure, mine, other) for mine, other in zip(ours, others, strict=True)]
        mine, other = (statistics.median(found[measure] for found in side) for side in (ours, others))
        spread = f"{min(ratios):.2f} ... {max(ratios):.2f}"
        print(f"{measure:26} {mine:10.4g} {other:16.4g} {statistics.median(ratios):7.2f}  {spread}")


def main() -> None:
    parser = argparse.ArgumentParser(description="The Node SDK beside the core alone and node-llama-cpp.")
    parser.add_argument("--model", type=Path, help="GGUF file; without it, the random 110M Q8_0 model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-peer", action="store_true", help="only the SDK and the core")
    options = parser.parse_args()
    model = (options.model or peers.default_model()).resolve()
    sides: dict[str, Callable[[Path, int], Round]] = {"SDK": sdk_round, "core": core_round}
    if not options.no_peer:
        peers.install_peer()
        sides["node-llama-cpp"] = llama_round
    found: dict[str, list[Round]] = {name: [] for name in sides}
    for number in range(options.rounds):
        for name, play in sides.items() if number % 2 == 0 else reversed(sides.items()):
            found[name].append(play(model, options.threads))
    print(f"{model.name}, {options.threads} threads, {options.rounds} rounds")
    for name in list(sides)[1:]:
        show(name, found["SDK"], found[name])


if __name__ == "__main__":
    main()
