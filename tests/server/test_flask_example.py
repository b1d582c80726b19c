"""The Flask example, started as its README says."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.server.live import ROOT, WAIT_SECONDS

EXAMPLE = ROOT / "examples" / "flask"
QUESTION = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}


def ask(port: int, method: str, path: str, user: str | None, body: object = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_SECONDS)
    headers = {"content-type": "application/json", **({"x-user": user} if user else {})}
    connection.request(method, path, json.dumps(body) if body is not None else None, headers)
    reply = connection.getresponse()
    found = reply.status, reply.read()
    connection.close()
    return found


def test_users_have_realms_of_their_own(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "host_python")}
    with subprocess.Popen(
        [sys.executable, "-m", "flask", "--app", "app", "run", "--port", "0"], cwd=EXAMPLE, env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stderr is not None
            found = next(filter(None, (re.search(r"127\.0\.0\.1:(\d+)", line) for line in process.stderr)))
            port = int(found[1])
            status, answer = ask(port, "POST", "/chat", "ada", QUESTION)
            assert status == 200 and json.loads(answer)["text"]
            status, answer = ask(port, "POST", "/chat/stream", "bob", QUESTION)
            assert status == 200 and answer
            assert ask(port, "POST", "/chat", None, QUESTION)[0] == 401
            assert ask(port, "POST", "/chat", "ada", {"messages": "x"})[0] == 400
            assert json.loads(ask(port, "GET", "/usage", "ada")[1])["running"] == 0
        finally:
            process.kill()
