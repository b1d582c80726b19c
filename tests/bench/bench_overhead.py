"""What the guest and the host cost: new realms, tokens, memory. The forward pass is a fake.

    python tests/bench/bench_overhead.py [--tokens N] [--realms 1,64,1000]

Prints JSON. The overhead for each token and realm is the wall time of N realms that generate T tokens each,
divided by N * T; the little work of the fake executor is in it.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from realm import Realm

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "tests" / "vectors" / "model-mistral.gguf"
FAKE = 1  # REALM_EXECUTOR_FAKE
COLD_START = """
import json, sys, time
from realm import Realm
first = Realm(sys.argv[1], executor=1)
module = first._engine.sandbox._modules
times = []
for _ in range(20):
    module.clear()  # the next realm takes the module from the cache on disk
    began = time.perf_counter()
    realm = Realm(sys.argv[1], executor=1)
    times.append(time.perf_counter() - began)
print(json.dumps(times))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--realms", default="1,64,1000")
    options = parser.parse_args()
    with Realm(MODEL, executor=FAKE) as keep:
        keep.generate("a", max_tokens=8, ignore_end=True)
        results: dict[str, Any] = {
            "new_realm_warm_seconds": spread(new_realm_times(keep, 200)),
            "new_realm_from_cache_seconds": spread(from_cache_times()),
            "idle_realm_resident_bytes": idle_bytes(keep, 1000),
            "token_overhead_seconds": {},
        }
        for count in map(int, options.realms.split(",")):
            results["token_overhead_seconds"][str(count)] = token_overhead(keep, count, options.tokens)
    print(json.dumps(results, indent=1))


def new_realm_times(keep: Realm, count: int) -> list[float]:
    times = []
    for _ in range(count):
        began = time.perf_counter()
        realm = Realm(keep.model, executor=FAKE)
        times.append(time.perf_counter() - began)
        realm.close()
    return times


def from_cache_times() -> list[float]:
    """In a process of its own, with a cache folder of its own that the first realm fills."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            "REALM_CACHE_DIR": folder,
            "PYTHONPATH": str(ROOT / "host_python"),
            "PATH": "/usr/bin:/bin",
        }
        command = [sys.executable, "-c", COLD_START, str(MODEL)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    times: list[float] = json.loads(done.stdout)
    return times


def idle_bytes(keep: Realm, count: int) -> float:
    """Resident memory of a realm that has been made and not used, on average."""
    warm = [Realm(keep.model, executor=FAKE) for _ in range(50)]
    before = resident()
    realms = [Realm(keep.model, executor=FAKE) for _ in range(count)]
    grown = resident() - before
    for realm in warm + realms:
        realm.close()
    return grown / count


def resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def token_overhead(keep: Realm, count: int, tokens: int) -> dict[str, float]:
    """Seconds for each token and realm: from the first token of all to the end of all."""
    realms = [Realm(keep.model, executor=FAKE) for _ in range(count)]
    before = keep.stats()
    began = time.perf_counter()
    streams = [realm.stream("a", max_tokens=tokens, ignore_end=True, temperature=0.0) for realm in realms]
    made = 0
    for stream in streams:
        for _ in stream:
            pass
        made += len(stream.result.tokens)
    streaming = time.perf_counter() - began
    requests = [(realm._engine, realm._guest, realm._spec("a", tokens, (), "granular", None, True, False,
                 _greedy())) for realm in realms]  # fmt: skip
    plain = plain_seconds(requests)
    after = keep.stats()
    for realm in realms:
        realm.close()
    return {
        "streaming": streaming / made,
        "generate": plain / made,
        "engine_step_share": (after["step_ns"] - before["step_ns"]) / 1e9 / (streaming + plain),
        "rows_per_step": (after["rows"] - before["rows"]) / max(1, after["steps"] - before["steps"]),
    }


def _greedy() -> Any:
    from realm import Sampling

    return Sampling(temperature=0.0, top_k=0, top_p=1.0, min_p=0.0, ignore_end=True)


def plain_seconds(requests: list[Any]) -> float:
    """The same requests without streaming, all at once, as threads that call generate would make them."""
    import queue

    from realm._engine import Delivery, next_delivery

    waiting: list[queue.SimpleQueue[Delivery]] = [queue.SimpleQueue() for _ in requests]
    began = time.perf_counter()
    for (engine, guest, spec), deliveries in zip(requests, waiting, strict=True):
        engine.start(guest, spec, streaming=False, deliver=deliveries.put)
    for deliveries in waiting:
        next_delivery(deliveries)
    return time.perf_counter() - began


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


if __name__ == "__main__":
    main()
