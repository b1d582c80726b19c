"""Start and end of the process: where it may listen, how fast it is there, what becomes of answers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from realm import RealmError
from realm.server.options import ServerOptions
from realm.server.run import check_exposure

from tests.server.live import ROOT, LiveServer, in_threads, post_bytes, read_all, wait_until

SHORT = {"prompt": "x", "max_tokens": 60, "ignore_eos": True}
START_BOUND_SECONDS = 8.0  # under 2 alone on this kind of machine; tests share it


def realm(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "realm", *arguments], cwd=cwd, timeout=60, capture_output=True, text=True,
        stdin=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT / "host_python")},
    )  # fmt: skip


# ---- start ----


def test_without_arguments_the_demo_model_answers_and_it_starts_quickly() -> None:
    with LiveServer() as live:
        assert live.start_seconds < START_BOUND_SECONDS
        assert live.get("/readyz").status == 200
        body = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0}
        answer = live.post("/v1/chat/completions", body).json()
        assert "Paris" in answer["choices"][0]["message"]["content"]
        assert live.terminate() == 0


def test_other_addresses_need_keys() -> None:
    done = realm("serve", "--host", "0.0.0.0", "-p", "0")
    assert done.returncode == 1 and "keys" in done.stderr and len(done.stderr.splitlines()) == 1
    for host in ("0.0.0.0", "::", "192.0.2.1", "127.example.org", ""):
        with pytest.raises(RealmError, match="keys"):
            check_exposure(ServerOptions(host=host))
    for host in ("127.0.0.1", "127.3.2.1", "::1", "localhost"):
        check_exposure(ServerOptions(host=host))


def test_what_cannot_start_says_why(tmp_path: Path) -> None:
    missing = realm("serve", "-p", "0", "-m", str(tmp_path / "none.gguf"))
    assert missing.returncode == 1 and missing.stderr.endswith("[not-found]\n")
    with LiveServer() as live:
        taken = realm("serve", "-p", str(live.port))
    assert taken.returncode == 1 and str(live.port) in taken.stderr
    half = realm("serve", "-p", "0", "--tls-cert", "x.pem")
    assert half.returncode == 1 and "--tls-key" in half.stderr


def test_without_the_extra_it_says_what_to_install() -> None:
    code = (
        "import sys\nsys.modules['fastapi'] = None\nfrom realm._cli import main\nsys.exit(main(['serve']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT / "host_python")},
    )  # fmt: skip
    assert done.returncode == 1 and "pip install 'realm-ai[server]'" in done.stderr


# ---- the end ----


def test_sigterm_under_load_loses_no_answer(folder: Path) -> None:
    """Refusals are 503, or come before a byte of an answer; all other answers are complete."""
    outcomes: list[str] = []
    with LiveServer("-m", f"endless={folder / 'long.gguf'}", "--drain-seconds", "30") as live:

        def client(index: int) -> None:
            while True:
                body = {**SHORT, "stream": index % 2 == 0}
                try:
                    with live.connect() as connection:
                        connection.sendall(post_bytes("/v1/completions", body))
                        answer = read_all_of_one(connection)
                except ConnectionError:
                    outcomes.append("not connected")
                    return
                outcomes.append(judge(answer, streaming=index % 2 == 0))
                if outcomes[-1] != "complete":
                    return

        with in_threads(8, client) as problems:
            wait_until(lambda: outcomes.count("complete") >= 10, "answers")
            assert live.terminate() == 0
        assert not problems
    assert set(outcomes) <= {"complete", "503", "not connected"}


def read_all_of_one(connection: socket.socket) -> bytes:
    data = b""
    while True:
        piece = connection.recv(65536)
        data += piece
        if not piece or data.endswith(b"\r\n0\r\n\r\n") or has_whole_body(data):
            return data


def has_whole_body(data: bytes) -> bool:
    head, found, body = data.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return bool(found and lengths) and len(body) >= int(lengths[0].split(b":")[1])


def judge(answer: bytes, streaming: bool) -> str:
    status = answer[9:12].decode()
    if not answer:
        return "not connected"  # closed before the request was taken
    if status == "503":
        return "503"
    if streaming:
        return "complete" if b"data: [DONE]" in answer else f"lost: {answer[-300:]!r}"
    try:
        whole = json.loads(answer.partition(b"\r\n\r\n")[2])["choices"][0]["finish_reason"] == "length"
    except (ValueError, KeyError):
        whole = False
    return "complete" if whole else f"lost: {answer[-300:]!r}"


def test_what_runs_too_long_is_handed_back(folder: Path) -> None:
    arguments = ["-m", f"endless={folder / 'long.gguf'}", "--drain-seconds", "0.5"]
    with LiveServer(*arguments) as live, live.connect() as stream, live.connect() as whole:
        body = {"prompt": "x", "max_tokens": 90_000, "ignore_eos": True}
        stream.sendall(post_bytes("/v1/completions", {**body, "stream": True}))
        whole.sendall(post_bytes("/v1/completions", body))
        wait_until(lambda: live.stats()["server"]["running"] == 2, "both run")
        live.process.send_signal(signal.SIGTERM)
        assert b'"code":"draining"' in read_all(stream).replace(b'": ', b'":')
        assert read_all(whole).startswith(b"HTTP/1.1 503 ")
        assert live.process.wait(30) == 0


def test_while_draining_new_work_is_refused(folder: Path) -> None:
    import http.client

    with LiveServer("-m", f"endless={folder / 'long.gguf'}", "--drain-seconds", "20") as live:
        kept = http.client.HTTPConnection("127.0.0.1", live.port, timeout=30)
        with live.connect() as runs:
            runs.sendall(
                post_bytes(
                    "/v1/completions",
                    {"prompt": "x", "max_tokens": 90_000, "stream": True, "ignore_eos": True},
                )
            )
            kept.request("GET", "/readyz")
            assert kept.getresponse().read() == b"ready\n"
            wait_until(lambda: live.stats()["server"]["running"] == 1, "it runs")
            live.process.send_signal(signal.SIGTERM)
            wait_until(lambda: any("draining" in line for line in live.log), "the drain began")
            with pytest.raises(ConnectionRefusedError):
                live.connect()
        assert live.process.wait(30) == 0  # the client went, so nothing is left to wait for


def test_a_second_signal_ends_at_once(folder: Path) -> None:
    with LiveServer("-m", f"endless={folder / 'long.gguf'}") as live, live.connect() as runs:
        runs.sendall(post_bytes("/v1/completions", {"prompt": "x", "max_tokens": 90_000, "ignore_eos": True}))
        wait_until(lambda: live.stats()["server"]["running"] == 1, "it runs")
        live.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert live.process.poll() is None
        live.process.send_signal(signal.SIGTERM)
        live.process.wait(20)


# ---- logs ----


def test_a_full_disk_does_not_stop_serving() -> None:
    with LiveServer("--log-file", "/dev/full") as live:
        assert all(live.get("/v1/models").status == 200 for _ in range(20))
        wait_until(lambda: live.metric("realm_log_lines_lost") >= 20, "lost lines are counted")
        assert live.terminate() == 0


def test_a_log_nobody_reads_does_not_stop_serving() -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, True)
    with LiveServer(stderr=write_end) as live:
        os.set_blocking(write_end, False)
        try:
            while True:
                os.write(write_end, bytes(65536))
        except BlockingIOError:
            pass  # the pipe is full
        os.set_blocking(write_end, True)
        assert all(live.get("/v1/models").status == 200 for _ in range(20))
        live.process.send_signal(signal.SIGTERM)
        assert live.process.wait(30) == 0
    os.close(read_end)
    os.close(write_end)


def test_logs_name_requests_and_nothing_of_their_contents() -> None:
    with LiveServer() as live:
        reply = live.post("/v1/generate", {"prompt": "sesame secret"}, **{"x-request-id": "my-id-1"})
        assert reply.headers["x-request-id"] == "my-id-1"
        live.post("/v1/generate", {"prompt": "sesame", "temperature": -1})
        live.post("/v1/completions", {"prompt": "sesame", "model": "sesame"})
        assert live.terminate() == 0
        wait_until(lambda: any("my-id-1" in line for line in live.log), "the line")
    lines = [json.loads(line) for line in live.log]
    [line] = [line for line in lines if line.get("request_id") == "my-id-1"]
    assert line["route"] == "/v1/generate" and line["status"] == 200 and line["tenant"] == "local"
    wrong = [(line["status"], line["error"]) for line in lines if line.get("status", 0) >= 400]
    assert wrong == [(400, "invalid_value"), (404, "model_not_found")] and "error" not in line
    assert "sesame" not in "".join(live.log)
