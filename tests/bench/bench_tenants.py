"""Tenants on one model: their tokens per second in all beside the core driven from C, and each one's share.

    python -m realm_build bench tenants [--model MODEL.gguf] [--realms 8,64,1000] [--rounds 3] [--no-shares]

Rounds of Python and of the core alone (bench_tenants_core.c: the same prompts and numbers of tokens) take
turns, so that drift meets both. Without --model the random 110M Q8_0 model is made. The target: at least
0.95 of the core, shares of equal tenants with a Jain index over 0.99, weights 1:2:4 within 5 %.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "host_python"), str(ROOT)]

from realm import Realm, ResourceLimits  # noqa: E402

CORE = ROOT / "build" / "bench" / "bench_tenants_core"
TOKENS = {8: 96, 64: 32, 1000: 12}  # of each realm, so that a round takes a second or a few
REALMS_OF_TENANT, STREAMS_OF_REALM = 6, 60  # more streams than a step has rows for


def default_model() -> Path:
    from tests.bench.make_models import make

    return make("110m-q8_0")


# ---- all together


async def generate_all(realms: list[Realm], tokens: int) -> float:
    """Tokens per second of all realms together, from the first request to the last answer."""
    start = time.perf_counter()
    answers = await asyncio.gather(
        *(
            realm.agenerate(f"{i} apples", max_tokens=tokens, temperature=0, ignore_end=True)
            for i, realm in enumerate(realms)
        )
    )
    return sum(len(answer.tokens) for answer in answers) / (time.perf_counter() - start)


def core_alone(model: Path, threads: int, realms: int, tokens: int) -> float:
    command = [CORE, model, threads, realms, tokens]
    told = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)
    return float(json.loads(told.stdout)[0])


def compare(model: Path, threads: int, count: int, rounds: int) -> dict[str, Any]:
    tokens = TOKENS.get(count, 32)
    realms = [Realm(model, threads=threads, tenant=i + 1) for i in range(count)]
    rates: dict[str, list[float]] = {"python": [], "core": []}
    try:
        asyncio.run(generate_all(realms, 4))
        for _ in range(rounds):
            rates["python"].append(asyncio.run(generate_all(realms, tokens)))
            rates["core"].append(core_alone(model, threads, count, tokens))
    finally:
        for realm in realms:
            realm.close()
    ratio = statistics.median(rates["python"]) / statistics.median(rates["core"])
    for name, values in rates.items():
        middle = statistics.median(values)
        print(f"{count:5} realms  {name:7} {middle:9.1f} tokens/s  ({min(values):.1f} ... {max(values):.1f})")
    print(f"{count:5} realms  {ratio:.3f} of the core", flush=True)
    return {"realms": count, "tokens": tokens, "ratio": ratio, **rates}


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
    counts = [int(n) for n in arguments.realms.split(",") if n]
    made["together"] = [compare(model, arguments.threads, n, arguments.rounds) for n in counts]
    if not arguments.no_shares:
        made["shares"] = show_shares(model, arguments.threads)
    print(json.dumps(made))
    return 0


if __name__ == "__main__":
    sys.exit(main())
