"""The Node SDK beside the core alone (bench_core.c) and beside node-llama-cpp, on one model, in turn.

    python3 -m realm_build bench node [--model FILE] [--threads 2] [--rounds 5] [--no-peer] [--json FILE]

A round runs each of the three in a new process; a round's ratios are of that round alone, because a shared
machine changes its speed from minute to minute. Above 1 the SDK is faster (for memory: needs less). All but
load is measured warm, some times in each process. npm installs the peer into build/bench/node the first time;
see bench_peers.py.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from realm_build import bench, node  # noqa: E402
from tests.bench import bench_peers as peers  # noqa: E402

FIRST, PREFILL = 32, 512  # tokens of the prompts
RATES = ("prefill", "decode", "parallel")
MEASURES = ("load", "first", *RATES, "resident")

Round = dict[str, float]


@dataclass(frozen=True)
class Counts:
    threads: int
    decode: int
    parallel: int
    repeats: int

    def arguments(self) -> list[str]:
        return [
            str(count) for count in (self.threads, FIRST, PREFILL, self.decode, self.parallel, self.repeats)
        ]


def sdk_round(model: Path, counts: Counts) -> Round:
    script = ROOT / "tests" / "bench" / "peer_realm.mjs"
    return dict(peers.run([str(node.node()), str(script), str(model), *counts.arguments()], ROOT))


def core_round(model: Path, counts: Counts) -> Round:
    [program] = bench.start_command(ROOT / "tests" / "bench" / "bench_core.c")
    return dict(peers.run([program, str(model), *counts.arguments()], ROOT))


def llama_round(model: Path, counts: Counts) -> Round:
    arguments = [str(count) for count in (counts.threads, PREFILL, counts.decode, FIRST, counts.parallel)]
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
    parser.add_argument("--decode", type=int, default=128, help="tokens of one generation")
    parser.add_argument(
        "--parallel", type=int, default=64, help="tokens of each of eight generations at once"
    )
    parser.add_argument("--repeats", type=int, default=3, help="of each measurement in a process")
    parser.add_argument("--json", type=Path, help="where to write every round")
    parser.add_argument("--no-peer", action="store_true", help="only the SDK and the core")
    options = parser.parse_args()
    model = (options.model or peers.default_model()).resolve()
    counts = Counts(options.threads, options.decode, options.parallel, options.repeats)
    sides: dict[str, Callable[[Path, Counts], Round]] = {"SDK": sdk_round, "core": core_round}
    if not options.no_peer:
        peers.install_peer()
        sides["node-llama-cpp"] = llama_round
    found: dict[str, list[Round]] = {name: [] for name in sides}
    for number in range(options.rounds):
        for name, play in sides.items() if number % 2 == 0 else reversed(sides.items()):
            found[name].append(play(model, counts))
    if options.json:
        run = {"model": model.name, **asdict(counts), "rounds": found}
        options.json.write_text(json.dumps(run, indent=1) + "\n")
    print(f"{model.name}, {options.threads} threads, {options.rounds} rounds")
    for name in list(sides)[1:]:
        show(name, found["SDK"], found[name])


if __name__ == "__main__":
    main()
