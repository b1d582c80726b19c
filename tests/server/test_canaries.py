"""Canaries over HTTP: what a tenant writes into prompts, names and wrong requests comes back to it alone, and
is nowhere in what operators see. The engine below has a suite of its own (tests/isolation).
"""

from __future__ import annotations

import contextlib
import json
import random
import re
from pathlib import Path
from typing import Any

from realm.server.keys import add_key

from tests.server.live import LiveServer, in_threads, post_bytes, wait_until

DEMO = Path(__file__).parents[2] / "demo_model" / "realm-demo.gguf"
TENANTS = ("ada", "bob", "cyd")
CLIENTS, REQUESTS = 6, 25
CANARY = re.compile(r"canary-[a-z]{3}-\d{6}")
LIMITS = """
[defaults]
concurrent_requests = 3
queue_length = 1
context_length = 300
[tenants.admin]
admin = true
"""
CODES = {200, 400, 404, 429, 503, 504}


def canary_of(tenant: str) -> str:
    return f"canary-{tenant}-{random.Random(tenant).randrange(100_000, 1_000_000)}"


def make_body(generator: random.Random, canary: str) -> tuple[str, dict[str, Any]]:
    """Most are right; the others have the canary where a message may quote it."""
    text = f"{canary} {generator.choice(('is', 'was'))} " + canary * generator.randrange(4)
    body: dict[str, Any] = {"model": "endless", "prompt": text, "max_tokens": generator.randrange(1, 40)}
    kind = generator.randrange(10)
    if kind == 0:
        return "/v1/completions", {**body, "temperature": canary}
    if kind == 1:
        return "/v1/completions", {**body, "model": canary}
    if kind == 2:
        return "/v1/completions", {**body, "prompt": canary * 60}
    if kind == 3:
        return "/v1/generate", {**body, "deadline": 0.002, "max_tokens": 200}
    if kind == 4:
        messages = [{"role": "user", "content": text}]
        return "/v1/chat/completions", {"model": "demo", "messages": messages, "stop": [canary]}
    if kind == 5:
        return "/v1/stream", {**body, "top_logprobs": 3, "logprobs": True}
    if kind == 6:
        return "/v1/completions", {**body, "stream": True, "logprobs": 2}
    return "/v1/completions", {**body, "echo": True}


def leave(live: LiveServer, key: str, body: dict[str, Any]) -> None:
    data = post_bytes("/v1/completions", {**body, "max_tokens": 250, "stream": True, "ignore_eos": True})
    with live.connect() as connection:
        connection.sendall(data.replace(b"\r\n", f"\r\nauthorization: Bearer {key}\r\n".encode(), 1))
        connection.settimeout(0.05)
        with contextlib.suppress(TimeoutError):
            connection.recv(1000)


def test_nothing_of_a_tenant_is_where_others_look(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(LIMITS)
    keys = {name: add_key(path, name) for name in (*TENANTS, "admin")}
    models = ["-m", f"demo={DEMO}", "-m", f"endless={folder / 'long.gguf'}", "--kv-bytes", str(4 << 20)]
    seen: dict[int, int] = {}

    def client(number: int) -> None:
        generator = random.Random(number)
        for _ in range(REQUESTS):
            tenant = generator.choice(TENANTS)
            where, body = make_body(generator, canary_of(tenant))
            if generator.random() < 0.1:
                leave(live, keys[tenant], {**body, "model": "endless"})
                continue
            reply = live.post(where, body, authorization=f"Bearer {keys[tenant]}")
            seen[reply.status] = seen.get(reply.status, 0) + 1
            told = json.dumps([reply.headers, reply.body.decode("utf-8", "replace")])
            assert not set(CANARY.findall(told)) - {canary_of(tenant)}

    with LiveServer(*models, "--keys", str(path), key=keys["admin"]) as live:
        with in_threads(CLIENTS, client) as problems:
            pass
        assert not problems, problems[:3]
        wait_until(lambda: live.stats()["server"]["running"] == 0, "all has ended")
        shown = [live.get("/metrics").body.decode(), json.dumps(live.stats())]
        shown += [
            live.get("/v1/stats", authorization=f"Bearer {keys[name]}").body.decode() for name in TENANTS
        ]
        assert live.terminate() == 0
    assert set(seen) <= CODES and seen[200] > CLIENTS * REQUESTS // 3 and seen[400] and seen[404], seen
    assert len(live.log) > CLIENTS * REQUESTS // 2
    assert not CANARY.search("".join([*shown, *live.log]))
    assert not [line for line in live.log if '"bug"' in line], live.log
