"""A stream of the Python host, as its reader sees it: prints tokens per second after the first, as JSON.

peer_realm.py MODEL THREADS FIRST DECODE    DECODE tokens after a prompt of FIRST, as bench_core.c counts them
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "host_python")]

from realm import Realm  # noqa: E402


def make_text(realm: Realm, length: int) -> str:
    """Of at most so many tokens, as peer_realm.mjs makes it."""
    ids = [300 + i * 7919 % 30000 for i in range(length)]
    for count in range(length, 0, -1):
        text = realm.detokenize(ids[:count])
        if len(realm.tokenize(text, add_special=True)) <= length:
            return text
    return ""


def rate(model: str, threads: int, first: int, decode: int) -> float:
    with Realm(model, threads=threads) as realm:
        stream = realm.stream(make_text(realm, first), max_tokens=decode + 1, temperature=0, ignore_end=True)
        next(stream)
        began = time.perf_counter()
        for _ in stream:
            pass
        return (len(stream.result.tokens) - 1) / (time.perf_counter() - began)


def main() -> None:
    model, threads, first, decode = sys.argv[1], *(int(number) for number in sys.argv[2:5])
    with Realm(model, threads=threads):  # keeps it loaded
        rate(model, threads, first, decode)  # warm
        print(json.dumps({"decode": rate(model, threads, first, decode)}))


if __name__ == "__main__":
    main()
