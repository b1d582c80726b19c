"""Many realms generating at once against one: tokens per second in all, through the guest and the Python API.

    python -m realm_build bench batch [--model MODEL.gguf] [--realms 1,2,4,8,16] [--tokens 48] [--rounds 3]

A model whose weights do not fit the cache is bandwidth-bound when one realm decodes: eight that step together
read the weights once for all. Without --model the random 1.1B Q4_K_M model is made. Prints a table and JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "host_python"), str(ROOT)]

from realm import Realm  # noqa: E402


def default_model() -> Path:
    from tests.bench.make_models import make

    return make("1.1b-q4_k_m")


def run(realms: list[Realm], tokens: int) -> float:
    """Tokens per second of all realms together; each generates `tokens` after a prompt of its own."""
    made = [0] * len(realms)

    def one(index: int) -> None:
        answer = realms[index].generate(f"{index} apples", max_tokens=tokens, temperature=0, ignore_end=True)
        made[index] = len(answer.tokens)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(realms))]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(made) / (time.perf_counter() - start)


def main() -> int:
    parser = argparse.ArgumentParser(description="Many realms beside one.")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--realms", default="1,2,4,8,16")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    model = arguments.model or default_model()
    counts = [int(n) for n in arguments.realms.split(",")]
    realms = [Realm(model, threads=arguments.threads) for _ in range(max(counts))]
    rates: dict[int, list[float]] = {n: [] for n in counts}
    run(realms[:1], 8)
    for _ in range(arguments.rounds):  # in turn, so that the machine's drift meets all alike
        for n in counts:
            rates[n].append(run(realms[:n], arguments.tokens))
    alone = statistics.median(rates[counts[0]])
    for n in counts:
        middle = statistics.median(rates[n])
        low, high = min(rates[n]), max(rates[n])
        print(
            f"{n:4} realms  {middle:8.1f} tokens/s  ({low:.1f} ... {high:.1f})  {middle / alone:5.2f} x one"
        )
    print(json.dumps({"model": model.name, "threads": arguments.threads, "tokens_per_second": rates}))
    for realm in realms:
        realm.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
