"""Tenants on one model: their tokens per second in all beside the core driven from C, and each one's share.

    python -m realm_build bench tenants [--model MODEL.gguf] [--realms 8,64,1000] [--hosts python,node]
                                        [--rounds 3] [--no-shares]

Hosts and the core alone (bench_tenants_core.c: the same prompts and numbers of tokens) are processes that
play rounds in turn, each after a warm one, so that drift meets all; a ratio is of one round. Overhead is the
processor time of the threads that do not compute, over the time of the round. Without --model the random
110M Q8_0 model is made. The target: at least 0.95 of the core, an overhead under 5 %, shares of equal tenants
with a Jain index over 0.99, weights 1:2:4 within 5 %.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "host_python"), str(ROOT)]

from realm import Realm, ResourceLimits  # noqa: E402

HERE = Path(__file__).resolve().parent
CORE = ROOT / "build" / "bench" / "bench_tenants_core"
TOKENS = {8: 96, 64: 32, 1000: 12}  # of each realm, so that a round takes a second or a few
REALMS_OF_TENANT, STREAMS_OF_REALM = 6, 60  # more streams than a step has rows for


def default_model() -> Path:
    from tests.bench.make_models import make

    return make("110m-q8_0")


# ---- all together


class Player:
    """A process that plays a round for each line of its input, after a warm one."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer()

    def play(self) -> dict[str, float]:
        assert self._process.stdin is not None
        print(file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout is not None
        return dict(json.loads(self._process.stdout.readline() or "{}"))

    def close(self) -> None:
        self._process.communicate()


def start(host: str, numbers: list[str]) -> Player:
    if host == "core":
        return Player([str(CORE), *numbers])
    if host == "python":
        return Player([sys.executable, str(HERE / "peer_tenants.py"), *numbers])
    from realm_build import node

    return Player([str(node.node()), str(HERE / "peer_tenants.mjs"), *numbers])


def compare(model: Path, threads: int, hosts: list[str], count: int, rounds: int) -> dict[str, Any]:
    tokens = TOKENS.get(count, 32)
    sides = [*hosts, "core"]
    players = {
        side: start(side, [str(n) for n in (model.resolve(), threads, count, tokens)]) for side in sides
    }
    found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for number in range(rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            found[side].append(players[side].play())
    for player in players.values():
        player.close()
    for side in sides:
        show(count, side, found[side], found["core"])
    return {"realms": count, "tokens": tokens, **found}


def show(count: int, side: str, rounds: list[dict[str, float]], core: list[dict[str, float]]) -> None:
    rates = [one["rate"] for one in rounds]
    line = f"{count:5} realms  {side:7} {statistics.median(rates):9.1f} tokens/s"
    steps = statistics.median(one["steps"] for one in rounds)
    line += f"  ({min(rates):.1f} ... {max(rates):.1f})  {steps:.0f} steps"
    if side != "core":
        ratios = [one["rate"] / other["rate"] for one, other in zip(rounds, core, strict=True)]
        overhead = statistics.median(one["overhead"] for one in rounds)
        line += f"  {statistics.median(ratios):.3f} of the core ({min(ratios):.3f} ... {max(ratios):.3f})"
        line += f"  overhead {overhead:.1%}"
    print(line, flush=True)


# ---- shares


async def shares(model: Path, threads: int, weights: list[int], settle: float, seconds: float) -> list[int]:
    """Tokens computed for each tenant in so many seconds while all want more than there is."""
    tenants = [
        [
            Realm(model, threads=threads, tenant=i + 1, limits=ResourceLimits(weight=weight))
            for _ in range(REALMS_OF_TENANT)
        ]
        for i, weight in enumerate(weights)
    ]
    work = [
        asyncio.create_task(realm.agenerate(f"{i} pears", max_tokens=1500, temperature=0, ignore_end=True))
        for realms in tenants
        for realm in realms
        for i in range(STREAMS_OF_REALM)
    ]

    def computed() -> list[int]:
        accounts = [realms[0].tenant_stats() for realms in tenants]
        return [account.tokens_prompt + account.tokens_generated for account in accounts]

    await asyncio.sleep(settle)
    before = computed()
    await asyncio.sleep(seconds)
    after = computed()
    for task in work:
        task.cancel()
    await asyncio.gather(*work, return_exceptions=True)
    for realm in [realm for realms in tenants for realm in realms]:
        realm.close()
    return [a - b for a, b in zip(after, before, strict=True)]


def jain(values: list[int]) -> float:
    """1 when all are equal, 1 / n when one has everything."""
    return sum(values) ** 2 / (len(values) * sum(value * value for value in values))


def show_shares(model: Path, threads: int) -> dict[str, Any]:
    equal = asyncio.run(shares(model, threads, [1, 1, 1, 1], 2.0, 4.0))
    weighted = asyncio.run(shares(model, threads, [1, 2, 4], 2.0, 4.0))
    print(f"equal weights: {equal} tokens, Jain's index {jain(equal):.4f}")
    one, two, four = weighted
    print(f"weights 1:2:4: {weighted} tokens, 1:{two / one:.3f}:{four / one:.3f}", flush=True)
    return {"equal": equal, "jain": jain(equal), "weighted": weighted}


def main() -> int:
    parser = argparse.ArgumentParser(description="Tenants on one model.")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--realms", default="8,64,1000")
    parser.add_argument("--hosts", default="python,node")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-shares", action="store_true")
    parser.add_argument("--built", action="store_true", help="bench_tenants_core is up to date")
    arguments = parser.parse_args()
    if not arguments.built:
        from realm_build.bench import start_command

        start_command(ROOT / "tests" / "bench" / "bench_tenants_core.c")
    model = arguments.model or default_model()
    made: dict[str, Any] = {"model": model.name, "threads": arguments.threads}
    counts, hosts = [int(n) for n in arguments.realms.split(",") if n], arguments.hosts.split(",")
    made["together"] = [compare(model, arguments.threads, hosts, n, arguments.rounds) for n in counts]
    if not arguments.no_shares:
        made["shares"] = show_shares(model, arguments.threads)
    print(json.dumps(made))
    return 0


if __name__ == "__main__":
    sys.exit(main())
