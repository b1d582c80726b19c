"""Load on a server of OpenAI's API: tokens per second in all, and the time to the first token.

    python -m realm_build bench server [--model MODEL.gguf] [--clients 8] [--requests 6] [--tokens 32]
                                       [--url URL --name MODEL]

Starts `realm serve` with the model (without --model the random 110M Q8_0 one is made) and lets each client
send one streaming completion after the other, every prompt different from its first word on, so that no cache
helps. With --url the same load goes to a server that runs already (llama-server, llama_cpp.server, vllm), to
compare. The clients are one process of plain sockets beside the server. Prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
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


@dataclass(frozen=True)
class Answer:
    first_seconds: float
    total_seconds: float
    prompt_tokens: int
    tokens: int


def prompt(generator: random.Random, words: int) -> str:
    return f"{generator.randrange(10**6)} " + " ".join(generator.choices(WORDS, k=words - 4))


async def ask(host: str, port: int, body: dict[str, Any]) -> Answer:
    """One streaming completion."""
    data = json.dumps(body).encode()
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection(host, port)
    head = f"POST /v1/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}connection: close\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data)
    status = await reader.readline()
    assert b" 200 " in status, status + await reader.read(2000)
    first, pieces = 0.0, 0
    usage: dict[str, int] = {}
    while line := await reader.readline():
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        usage = event.get("usage") or usage
        if event["choices"] and event["choices"][0].get("text"):
            pieces += 1
            first = first or time.perf_counter() - began
    writer.close()
    done = time.perf_counter() - began
    return Answer(first or done, done, usage.get("prompt_tokens", 0), usage.get("completion_tokens", pieces))


async def client(number: int, address: tuple[str, int], options: argparse.Namespace) -> list[Answer]:
    generator = random.Random(f"{options.seed} {number}")
    answers = []
    for _ in range(options.requests):
        body = {
            "prompt": prompt(generator, options.words),
            "max_tokens": options.tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **({"model": options.name} if options.name else {}),
        }
        answers.append(await ask(*address, body))
    return answers


async def load(address: tuple[str, int], options: argparse.Namespace) -> dict[str, Any]:
    await client(-1, address, argparse.Namespace(**{**vars(options), "requests": 2}))  # warm
    began = time.perf_counter()
    found = await asyncio.gather(*(client(number, address, options) for number in range(options.clients)))
    seconds = time.perf_counter() - began
    answers = [answer for answers in found for answer in answers]
    firsts = sorted(answer.first_seconds for answer in answers)
    tokens = sum(answer.tokens for answer in answers)
    return {
        "clients": options.clients,
        "requests_per_second": round(len(answers) / seconds, 2),
        "tokens_per_second": round(tokens / seconds, 1),
        "first_token_p50_ms": round(1e3 * statistics.median(firsts), 1),
        "first_token_p95_ms": round(1e3 * firsts[int(0.95 * (len(firsts) - 1))], 1),
        "total_p50_ms": round(1e3 * statistics.median(answer.total_seconds for answer in answers), 1),
        "prompt_tokens": round(statistics.mean(answer.prompt_tokens for answer in answers), 1),
        "generated_tokens": round(tokens / len(answers), 1),
    }


def start_server(options: argparse.Namespace) -> tuple[subprocess.Popen[str], tuple[str, int]]:
    from tests.bench.make_models import make

    model = options.model or make("110m-q8_0")
    command = [
        sys.executable,
        "-m",
        "realm",
        "serve",
        "-p",
        "0",
        "-m",
        f"model={model}",
        "-t",
        str(options.threads),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "host_python")}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r":(\d+)$", line.strip())
    if not found:
        raise SystemExit(f"the server did not start: {line}")
    return process, ("127.0.0.1", int(found[1]))


def memory_mib(process: subprocess.Popen[str]) -> int:
    text = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) >> 10  # type: ignore[index]


def main() -> int:
    parser = argparse.ArgumentParser(description="Load on a server.")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=6, help="of each client")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--words", type=int, default=PROMPT_WORDS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--url", help="a server that runs already")
    parser.add_argument("--name", help="the model's name there")
    options = parser.parse_args()
    if options.url:
        parts = urlsplit(options.url)
        print(
            json.dumps(
                asyncio.run(load((parts.hostname or "127.0.0.1", parts.port or 80), options)), indent=1
            )
        )
        return 0
    process, address = start_server(options)
    try:
        result = asyncio.run(load(address, options))
        print(json.dumps({**result, "server_mib": memory_mib(process)}, indent=1))
    finally:
        process.terminate()
        process.wait(60)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
