"""A server as a process of its own, as operators start it, and the little HTTP that tests of it need."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
START_SECONDS = 60
END_SECONDS = 60
WAIT_SECONDS = 60


class LiveServer:
    def __init__(
        self,
        *arguments: str,
        key: str | None = None,
        stderr: Any = subprocess.PIPE,
        command: list[str] | None = None,
    ) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "host_python")}
        began = time.monotonic()
        self.process = subprocess.Popen(
            command or [sys.executable, "-m", "realm", "serve", "-p", "0", *arguments],
            env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, text=True,
        )  # fmt: skip
        self.key = key
        self.log: list[str] = []
        self.port = self._read_port()
        self.start_seconds = time.monotonic() - began

    def _read_port(self) -> int:
        if self.process.stderr is not None:
            threading.Thread(target=self._drain_log, daemon=True).start()
        killer = threading.Timer(START_SECONDS, self.process.kill)
        killer.start()
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        killer.cancel()
        found = re.search(r":(\d+)$", line.strip())
        assert found, f"the server did not start: {line!r} {self.log}"
        return int(found[1])

    def _drain_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)

    def __enter__(self) -> LiveServer:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(END_SECONDS)

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(END_SECONDS)

    # ---- HTTP ----

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"} if self.key else {}

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_SECONDS)
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {**self.headers(), "content-type": "application/json", **(headers or {})}
        with contextlib.closing(connection):
            connection.request(method, path, data, sent)
            response = connection.getresponse()
            return Reply(response.status, dict(response.getheaders()), response.read())

    def get(self, path: str, **headers: str) -> Reply:
        return self.request("GET", path, headers=headers)

    def post(self, path: str, body: Any, **headers: str) -> Reply:
        return self.request("POST", path, body, headers)

    def stats(self) -> dict[str, Any]:
        found: dict[str, Any] = self.get("/v1/stats").json()
        return found

    def metric(self, name: str) -> float:
        """Sum of a metric over its labels."""
        page = self.get("/metrics").body.decode()
        values = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", page, flags=re.M)
        return sum(map(float, values))

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_SECONDS)

    def raw(self, data: bytes) -> bytes:
        """What comes back on a connection until the server ends it."""
        with self.connect() as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(data)
            return read_all(connection)


class Reply:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = {name.lower(): value for name, value in headers.items()}
        self.body = body

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = self.json()["error"]
        assert set(found) == {"message", "type", "param", "code"}
        return found


def read_all(connection: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(65536):
            data += piece
    return data


def post_bytes(path: str, body: Any) -> bytes:
    """A request as it goes over the wire."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(data)}\r\n\r\n".encode() + data


def wait_until(condition: Callable[[], bool], what: str, seconds: float = WAIT_SECONDS) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"still not: {what}"
        time.sleep(0.02)


@contextlib.contextmanager
def in_threads(
    count: int, work: Callable[[int], None], seconds: float = WAIT_SECONDS
) -> Iterator[list[BaseException]]:
    """Runs work(0) ... work(count - 1) beside the block and joins them; yields what they raised."""
    problems: list[BaseException] = []

    def guarded(index: int) -> None:
        try:
            work(index)
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=guarded, args=(index,), daemon=True) for index in range(count)]
    for thread in threads:
        thread.start()
    yield problems
    for thread in threads:
        thread.join(seconds)
        assert not thread.is_alive()
