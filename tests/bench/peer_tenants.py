"""Tenants that generate at once through the Python host: a player of bench_tenants.py.

peer_tenants.py MODEL THREADS TENANTS TOKENS
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "host_python")]

from realm import Realm  # noqa: E402

COMPUTE = "realm-"  # how the core's threads are called


def host_seconds() -> float:
    """Processor time of all threads but those that compute; 0 where the system does not tell."""
    total = 0
    for task in Path("/proc/self/task").glob("*"):
        if not (task / "comm").read_text().startswith(COMPUTE):
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


async def generate_all(realms: list[Realm], tokens: int) -> int:
    answers = await asyncio.gather(
        *(
            realm.agenerate(f"{i} apples", max_tokens=tokens, temperature=0, ignore_end=True)
            for i, realm in enumerate(realms)
        )
    )
    return sum(len(answer.tokens) for answer in answers)


def play(realms: list[Realm], tokens: int) -> None:
    """From the first request to the last answer."""
    before, busy, start = realms[0].stats(), host_seconds(), time.perf_counter()
    made = asyncio.run(generate_all(realms, tokens))
    took = time.perf_counter() - start
    after, busy = realms[0].stats(), host_seconds() - busy
    found = {
        "rate": made / took,
        "steps": after["steps"] - before["steps"],
        "step_seconds": (after["step_ns"] - before["step_ns"]) / 1e9,
        "overhead": busy / took,
    }
    print(json.dumps(found), flush=True)


def main() -> None:
    model, threads, count, tokens = sys.argv[1], *(int(number) for number in sys.argv[2:5])
    realms = [Realm(model, threads=threads, tenant=i + 1) for i in range(count)]
    play(realms, tokens)  # warm
    for _ in sys.stdin:
        play(realms, tokens)
    for realm in realms:
        realm.close()


if __name__ == "__main__":
    main()
