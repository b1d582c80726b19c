"""Mixed load on one server for a long time: its memory must stay flat, nothing may fail, nothing may be left.

    python -m tests.server.soak [--seconds 600] [--pause 0.05]

Whole answers, streams, streams whose client leaves, wrong requests and models that come and go, from four
clients. Prints a line now and then; the exit status is 1 when memory grew or a request failed. The suite runs
it for seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from tests.server.live import LiveServer, in_threads, post_bytes, wait_until
from tests.unit.long_model import long_model

DEMO = Path(__file__).parents[2] / "demo_model" / "realm-demo.gguf"
CLIENTS = 4
KV = ("--kv-bytes", str(8 << 20))  # the cache of prompts is full soon: what grows then is no cache
GROWTH_MIB = 24.0  # arenas of the allocator settle late; a leak of 1 KiB for each request would show
CHAT = {"model": "demo", "messages": [{"role": "user", "content": "What is the capital of France?"}]}


def memory_mib(live: LiveServer) -> float:
    status = Path(f"/proc/{live.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+)", status)
    assert found
    return int(found[1]) / 1024


def files_open(live: LiveServer) -> int:
    return len(list(Path(f"/proc/{live.process.pid}/fd").iterdir()))


def one_request(live: LiveServer, generator: random.Random, number: int) -> str:
    kind = generator.choice(("chat", "stream", "score", "leave", "wrong", "models"))
    if kind == "chat":
        assert live.post("/v1/chat/completions", {**CHAT, "seed": number}).status == 200
    elif kind == "stream":
        reply = live.post("/v1/chat/completions", {**CHAT, "stream": True, "n": 2, "logprobs": True})
        assert reply.body.endswith(b"data: [DONE]\n\n")
    elif kind == "score":
        body = {"model": "demo", "prompt": f"{number} " * 40, "max_tokens": 0, "echo": True, "logprobs": 2}
        assert live.post("/v1/completions", body).status == 200
    elif kind == "leave":
        with live.connect() as connection:
            body = {"model": "endless", "prompt": f"{number} x", "max_tokens": 50_000, "ignore_eos": True}
            connection.sendall(post_bytes("/v1/completions", {**body, "stream": generator.random() < 0.5}))
            connection.settimeout(generator.uniform(0.01, 0.2))
            with contextlib.suppress(TimeoutError):
                connection.recv(1000)
    elif kind == "wrong":
        assert live.post("/v1/chat/completions", {**CHAT, "temperature": number}).status in (200, 400)
        assert live.post(f"/v1/nothing/{number}", b"{").status == 404
    else:
        name = f"copy-{threading.get_ident()}"
        assert live.post("/v1/models/load", {"path": "copy.gguf", "id": name}).status == 201
        live.post("/v1/completions", {"model": name, "prompt": "The capital of", "max_tokens": 2})
        assert live.request("DELETE", f"/v1/models/{name}").status == 200
    return kind


def soak(live: LiveServer, seconds: float, pause: float, say: bool = False) -> tuple[float, Counter[str]]:
    """Growth of memory in MiB after the first fifth of the time, and how many requests of each kind ran."""
    counts: Counter[str] = Counter()
    end = time.monotonic() + seconds

    def client(index: int) -> None:
        generator = random.Random(index)
        number = 0
        while time.monotonic() < end:
            number += 1
            counts[one_request(live, generator, number)] += 1
            time.sleep(pause)

    with in_threads(CLIENTS, client, seconds + 60) as problems:
        time.sleep(seconds / 5)
        settled = memory_mib(live)
        while time.monotonic() < end:
            time.sleep(min(30.0, seconds / 5))
            if say:
                line = (
                    f"{memory_mib(live):.1f} MiB, {files_open(live)} files, {sum(counts.values())} requests"
                )
                print(line, flush=True)
    assert not problems, problems[:3]
    wait_until(lambda: live.stats()["server"] == {"running": 0, "waiting": 0}, "all has ended")
    return memory_mib(live) - settled, counts


def start(folder: Path) -> LiveServer:
    (folder / "copy.gguf").write_bytes(DEMO.read_bytes())
    endless = long_model(folder)
    return LiveServer("-m", f"demo={DEMO}", "-m", f"endless={endless}", "--models-dir", str(folder), *KV)


def main() -> int:
    parser = argparse.ArgumentParser(description="Mixed load for a long time.")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--pause", type=float, default=0.05, help="of each client between requests")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, start(Path(name)) as live:
        growth, counts = soak(live, options.seconds, options.pause, say=True)
        print(f"memory grew by {growth:.1f} MiB; requests: {dict(counts)}")
        status = live.terminate()
    return 1 if growth > GROWTH_MIB or status else 0


if __name__ == "__main__":
    sys.exit(main())
