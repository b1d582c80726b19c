"""Clients that misbehave: too much, too slow, too early gone. The server answers in kind and goes on."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.server.live import LiveServer, post_bytes, read_all, wait_until

LONG = {"model": "endless", "prompt": "x", "max_tokens": 50_000, "ignore_eos": True}


def idle(server: LiveServer) -> bool:
    return bool(server.stats()["server"] == {"running": 0, "waiting": 0})


# ---- no bodies at all ----


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"prompt": ', "the body is not JSON: at character 11"),
        (b"\xff", "the body is not JSON in UTF-8"),
        (b"[" * 90_000, "the body is not JSON in UTF-8, or is nested too deeply"),
        (b"[]", "the body must be a JSON object"),
        (b"", "the body must be a JSON object"),
    ],
)
def test_what_is_no_body_is_said_in_words(server: LiveServer, body: bytes, message: str) -> None:
    reply = server.post("/v1/generate", body)
    assert (reply.status, reply.error["param"]) == (400, None)
    assert reply.error["message"].startswith(message)


# ---- too much ----


def test_a_header_of_ten_megabytes(server: LiveServer) -> None:
    answer = server.raw(b"GET /healthz HTTP/1.1\r\nx: " + b"a" * 10_000_000)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")
    assert server.get("/healthz").status == 200


def test_too_many_headers(server: LiveServer) -> None:
    answer = server.raw(b"GET /healthz HTTP/1.1\r\n" + b"x: y\r\n" * 100_000)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")


def test_a_long_address(server: LiveServer) -> None:
    answer = server.raw(b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\n\r\n")
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")


def test_ordinary_headers_are_no_trouble(server: LiveServer) -> None:
    assert server.get("/healthz", **{f"x-{n}": "a" * 100 for n in range(50)}).status == 200


def test_a_body_that_says_it_is_too_long(server: LiveServer) -> None:
    reply = server.post("/v1/generate", b" " * 200_000)
    assert reply.status == 413 and reply.error["code"] == "body_too_large"


def test_a_body_that_does_not_say_how_long_it_is(server: LiveServer) -> None:
    head = b"POST /v1/generate HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    answer = server.raw(head + b"transfer-encoding: chunked\r\n\r\n" + chunk * 4 + b"0\r\n\r\n")
    assert b" 413 " in answer.split(b"\r\n")[0]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[" * 90_000,
        b'{"a":' * 15_000,
        b'{"prompt": "\xff\xfe"}',
        b'{"prompt": "x", "max_tokens": ' + b"9" * 5000 + b"}",
        b'{"prompt": "x", "temperature": NaN}',
        b'{"prompt": "x", "temperature": 1e999}',
        b'{"prompt": "x", "seed": -1}',
        b'{"prompt": "x", "unknown": 1}',
        b'{"prompt": "x", "model": "\\ud800"}',
    ],
)
def test_bodies_that_are_no_requests(server: LiveServer, body: bytes) -> None:
    reply = server.post("/v1/generate", body)
    assert reply.status in (400, 404, 415) and reply.error["message"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_json_must_say_that_it_is(server: LiveServer, kind: str) -> None:
    """What a page of another site can send without asking first does nothing here; curl -d sends it too."""
    reply = server.post("/v1/generate", {"prompt": "x"}, **{"content-type": kind})
    assert reply.status == 415 and "Content-Type: application/json" in reply.error["message"]


def test_lone_surrogates_in_a_prompt(server: LiveServer) -> None:
    body = b'{"model": "demo", "prompt": "The \\ud800 capital", "echo": true, "max_tokens": 2}'
    reply = server.post("/v1/completions", body)
    assert reply.status == 200 and reply.json()["choices"][0]["text"]


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),  # TLS to a plain port
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\n\r\n",
        b"POST /v1/generate HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcdef",
        b"POST /v1/generate HTTP/1.1\r\ncontent-length: -5\r\n\r\n",
        b"POST /v1/generate HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"\r\n\r\n\r\n\r\n" * 1000,
        os.urandom(1000),
    ],
)
def test_what_is_no_http(server: LiveServer, data: bytes) -> None:
    with server.connect() as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = read_all(connection)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    assert server.get("/healthz").status == 200


def test_another_sites_page_is_not_served(server: LiveServer) -> None:
    assert server.get("/v1/models", host="evil.example").status == 400
    assert server.get("/v1/models", host="localhost:1").status == 200


def test_files_outside_the_folder_cannot_be_loaded(server: LiveServer) -> None:
    for path in ("/etc/passwd", "../../etc/passwd", "nothing.gguf", ".", "a\x00b"):
        assert server.post("/v1/models/load", {"path": path}).status == 404
    assert server.post("/v1/models/load", {"path": "broken.gguf"}).status == 400


# ---- too early gone ----


def test_a_client_that_was_killed_stops_its_generation(server: LiveServer) -> None:
    script = (
        "import socket, sys\n"
        "connection = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n"
        "connection.sendall(sys.stdin.buffer.read())\n"
        "while b'data:' not in connection.recv(65536): pass\n"
        "print('reading', flush=True)\n"
        "while connection.recv(65536): pass\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(server.port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as client:
        assert client.stdin is not None and client.stdout is not None
        client.stdin.write(post_bytes("/v1/completions", {**LONG, "stream": True}))
        client.stdin.close()
        assert client.stdout.readline() == b"reading\n"
        assert server.stats()["server"]["running"] == 1
        client.send_signal(signal.SIGKILL)
    wait_until(lambda: idle(server), "the generation ended")
    time.sleep(0.2)  # the step that ran
    steps = server.stats()["engine"]["steps"]
    time.sleep(0.3)
    assert server.stats()["engine"]["steps"] == steps  # the engine rests too


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("end", ["close", "half", "reset"])
def test_connections_that_end_stop_their_generation(server: LiveServer, stream: bool, end: str) -> None:
    with server.connect() as connection:
        connection.sendall(post_bytes("/v1/completions", {**LONG, "stream": stream}))
        wait_until(lambda: server.stats()["server"]["running"] == 1, "the generation runs")
        if end == "half":
            connection.shutdown(socket.SHUT_WR)
            read_all(connection)
        elif end == "reset":
            linger = (1).to_bytes(4, "little") + bytes(4)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    wait_until(lambda: idle(server), "the generation ended")
    wait_until(lambda: server.metric("realm_http_requests_total") > 0, "metrics")
    assert 'status="499"' in server.get("/metrics").body.decode()


def test_bodies_that_break_off(server: LiveServer) -> None:
    for size in (1, 100, 5000):
        head = b"POST /v1/generate HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9000\r\n\r\n"
        with server.connect() as connection:
            connection.sendall(head + b"{" + b" " * size)
    assert server.get("/healthz").status == 200
    wait_until(lambda: idle(server), "nothing runs")


# ---- too slow ----


@pytest.fixture(scope="module")
def hasty():
    """A server without patience: its limits on time are options of the library, not of the command."""
    code = (
        "from realm.server.options import ServerOptions\n"
        "from realm.server.run import serve\n"
        "serve(ServerOptions(port=0, header_seconds=0.5, body_seconds=0.5, connections=50))\n"
    )
    with LiveServer(command=[sys.executable, "-c", code]) as live:
        yield live


def test_slow_loris(hasty: LiveServer) -> None:
    """Many connections that send a header now and then are all ended, and others served meanwhile."""
    connections = [hasty.connect() for _ in range(30)]
    for connection in connections:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nx: ")
    began = time.monotonic()
    ended = 0
    while ended < len(connections):
        assert time.monotonic() - began < 30
        assert hasty.get("/healthz").status == 200
        ended = 0
        for connection in connections:
            try:
                connection.sendall(b"a")
                connection.setblocking(False)
                ended += not connection.recv(1, socket.MSG_PEEK) or 1
            except BlockingIOError:
                pass
            except ConnectionError:
                ended += 1
            finally:
                connection.setblocking(True)
        time.sleep(0.1)
    for connection in connections:
        connection.close()


def test_silent_connections_are_ended(hasty: LiveServer) -> None:
    with hasty.connect() as connection:
        assert read_all(connection) == b""


def test_a_slow_body(hasty: LiveServer) -> None:
    head = b"POST /v1/generate HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    answer = hasty.raw(head + b"content-length: 1000\r\n\r\n{")
    assert answer.startswith(b"HTTP/1.1 408 ") and json.loads(answer.partition(b"\r\n\r\n")[2])["error"]


def test_too_many_connections(hasty: LiveServer) -> None:
    connections = [hasty.connect() for _ in range(60)]
    assert hasty.get("/healthz").status == 503
    for connection in connections:
        connection.close()
    wait_until(lambda: hasty.get("/healthz").status == 200, "served again")
