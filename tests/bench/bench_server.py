"""Load on servers of OpenAI's API: tokens per second in all, and the time to the first token.

    python -m realm_build bench server [--peer PYTHON] [--url URL] [--rounds 3] [--record FILE]
                                       [--model MODEL.gguf] [--clients 8] [--requests 2] [--tokens 32]

Starts `realm serve` with the model (without --model the random 110M Q8_0 one is made) and lets each client
send one streaming completion after the other, every prompt different from its first word on, so that no cache
helps. --peer starts llama-cpp-python's server beside it, from an environment where its extra [server] is
installed; --url names a server that runs already (llama-server, vllm). In each round the servers get the same
prompts, one server after the other. The clients are one process of plain sockets beside the server.

Prints JSON: the rounds, their medians and extremes, and ours over each other's. --record keeps rounds in a
file and goes on from there, for machines where one can measure for a short time only.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "host_python"), str(ROOT)]

WORDS = (
    "time way day man world life hand part child eye woman place work week case point company number".split()
)
PROMPT_WORDS = 38  # about 72 tokens with the vocabulary of the random model
START_SECONDS = 60
OURS, PEER, OTHER = "realm", "llama-cpp-python", "url"
FIGURES = ("tokens_per_second", "first_token_p50_ms", "first_token_p95_ms", "total_p50_ms", "server_mib")

Record = dict[str, list[dict[str, Any]]]  # a server's name -> what each round gave


@dataclass(frozen=True)
class Server:
    name: str
    address: tuple[str, int]
    process: subprocess.Popen[str] | None


@dataclass(frozen=True)
class Answer:
    first_seconds: float
    total_seconds: float
    tokens: int


# ---- load ----


def prompt(generator: random.Random, words: int) -> str:
    return f"{generator.randrange(10**6)} " + " ".join(generator.choices(WORDS, k=words - 4))


async def ask(address: tuple[str, int], body: dict[str, Any]) -> Answer:
    """One streaming completion."""
    data = json.dumps(body).encode()
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection(*address)
    head = f"POST /v1/completions HTTP/1.1\r\nhost: {address[0]}\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}connection: close\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data)
    status = await reader.readline()
    assert b" 200 " in status, status + await reader.read(2000)
    first, pieces = 0.0, 0
    usage: dict[str, int] = {}
    finish = None
    while line := await reader.readline():
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        usage = event.get("usage") or usage
        for choice in event["choices"]:
            finish = choice.get("finish_reason") or finish
            if choice.get("text"):
                pieces += 1
                first = first or time.perf_counter() - began
    writer.close()
    done = time.perf_counter() - began
    # Without usage: a piece may be several tokens, so whoever was cut off by length gets all of them.
    counted = body["max_tokens"] if finish == "length" else pieces
    return Answer(first or done, done, usage.get("completion_tokens", counted))


async def client(
    number: int, address: tuple[str, int], options: argparse.Namespace, seed: int, requests: int
) -> list[Answer]:
    generator = random.Random(f"{seed} {number}")
    answers = []
    for _ in range(requests):
        body = {
            "prompt": prompt(generator, options.words),
            "max_tokens": options.tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **({"model": options.name} if options.name else {}),
        }
        answers.append(await ask(address, body))
    return answers


async def load(server: Server, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """All clients at once."""
    began = time.perf_counter()
    found = await asyncio.gather(
        *(client(n, server.address, options, seed, options.requests) for n in range(options.clients))
    )
    seconds = time.perf_counter() - began
    answers = [answer for answers in found for answer in answers]
    firsts = sorted(answer.first_seconds for answer in answers)
    tokens = sum(answer.tokens for answer in answers)
    result = {
        "seed": seed,
        "clients": options.clients,
        "requests": len(answers),
        "tokens_per_answer": round(tokens / len(answers), 1),
        "tokens_per_second": round(tokens / seconds, 1),
        "first_token_p50_ms": round(1e3 * statistics.median(firsts), 1),
        "first_token_p95_ms": round(1e3 * firsts[int(0.95 * (len(firsts) - 1))], 1),
        "total_p50_ms": round(1e3 * statistics.median(answer.total_seconds for answer in answers), 1),
    }
    return result | ({"server_mib": memory_mib(server.process)} if server.process else {})


def memory_mib(process: subprocess.Popen[str]) -> int:
    text = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) >> 10  # type: ignore[index]


# ---- servers ----


@contextlib.contextmanager
def running(name: str, command: list[str], port: int) -> Iterator[Server]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "host_python")} if name == OURS else None
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            wait_for(process, port)
            yield Server(name, ("127.0.0.1", port), process)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_for(process: subprocess.Popen[str], port: int) -> None:
    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        with contextlib.closing(connection), contextlib.suppress(OSError):
            connection.request("GET", "/v1/models")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.1)
    raise SystemExit(f"{' '.join(map(str, process.args))} did not start")  # type: ignore[arg-type]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def start_all(options: argparse.Namespace, stack: contextlib.ExitStack) -> list[Server]:
    from tests.bench.make_models import make

    model = str(options.model or make("110m-q8_0"))
    threads = str(options.threads)
    port = free_port()
    ours = [sys.executable, "-m", "realm", "serve", "-p", str(port), "-m", f"model={model}", "-t", threads]
    servers = [stack.enter_context(running(OURS, ours, port))]
    if options.peer:
        port = free_port()
        peer = [options.peer, "-m", "llama_cpp.server", "--model", model, "--port", str(port)]
        peer += ["--n_threads", threads, "--n_threads_batch", threads]
        peer += ["--interrupt_requests", "False"]  # else a new request ends the one that streams
        servers.append(stack.enter_context(running(PEER, peer, port)))
    if options.url:
        parts = urlsplit(options.url)
        servers.append(Server(OTHER, (parts.hostname or "127.0.0.1", parts.port or 80), None))
    return servers


# ---- figures ----


def summary(record: Record) -> dict[str, Any]:
    """Of each server the median and extremes over its rounds; ours over the others', round by round."""
    made: dict[str, Any] = {}
    for name, rounds in record.items():
        made[name] = {"rounds": len(rounds)}
        for figure in FIGURES:
            values = [one[figure] for one in rounds if figure in one]
            if values:
                made[name][figure] = spread(values)
        if name != OURS and len(rounds) == len(record[OURS]):
            pairs = list(zip(record[OURS], rounds, strict=True))
            for figure in ("tokens_per_second", "first_token_p50_ms"):
                ratios = [mine[figure] / other[figure] for mine, other in pairs]
                made[name][f"realm_over_this_{figure}"] = spread(ratios)
    return made


def spread(values: list[float]) -> dict[str, float]:
    found = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, 2) for name, value in found.items()}


def measure(servers: list[Server], options: argparse.Namespace, record: Record) -> None:
    for server in servers:
        asyncio.run(client(-1, server.address, options, int(time.time()), 2))  # warm
    for _ in range(options.rounds):
        seed = len(record.get(OURS, [])) + 1
        for server in servers if seed % 2 else reversed(servers):
            found = asyncio.run(load(server, options, seed))
            record.setdefault(server.name, []).append(found)


def read_record(path: Path | None) -> Record:
    return json.loads(path.read_text()) if path is not None and path.exists() else {}


def main() -> int:
    parser = argparse.ArgumentParser(description="Load on servers.")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=2, help="of each client in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--words", type=int, default=PROMPT_WORDS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peer", metavar="PYTHON", help="of an environment with llama-cpp-python[server]")
    parser.add_argument("--url", help="a server that runs already, beside ours")
    parser.add_argument("--name", help="the model's name in requests")
    parser.add_argument("--record", type=Path, help="JSON file of rounds, read and added to")
    options = parser.parse_args()
    record = read_record(options.record)
    with contextlib.ExitStack() as stack:
        measure(start_all(options, stack), options, record)
    if options.record:
        options.record.write_text(json.dumps(record, indent=1))
    print(json.dumps({"rounds": record, "summary": summary(record)}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
