"""A web server for the tests of downloads: each resource misbehaves as told. Folders: realm_build.site.

It runs in threads of the test's process; what `server.resources[path]` holds can be changed between
requests, and `server.requests` lists what was asked.
"""

from __future__ import annotations

import contextlib
import gzip
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

PIECE = 64 << 10
STALL_SECONDS = 120


@dataclass
class Resource:
    """What one path answers. `times` says for how many requests the misbehaviour lasts; None: for ever."""

    content: bytes | Path = b""
    type: str = "application/octet-stream"
    etag: str | None = '"one"'
    last_modified: str | None = None
    ranges: bool = True  # False: Range is ignored, the answer is 200 with everything
    length: bool = True  # False: chunked, without Content-Length
    cors: bool = True
    expose: bool = True  # Content-Range, ETag and Accept-Ranges can be read from other origins
    gzip: bool = False
    rate: int = 0  # bytes per second; 0: as fast as it goes
    # Misbehaviour.
    times: int | None = None
    status: int = 0  # this status with a page of HTML
    cut: int | None = None  # the connection breaks after so many bytes of the body
    stall: int | None = None  # nothing more comes after so many bytes of the body
    endless: bool = False  # the body never ends
    redirect: str = ""
    headers: dict[str, str] = field(default_factory=dict)  # set or replace headers, also with lies

    @property
    def size(self) -> int:
        return self.content.stat().st_size if isinstance(self.content, Path) else len(self.content)

    def pieces(self, start: int, end: int) -> Iterator[bytes]:
        if isinstance(self.content, bytes):
            for at in range(start, end, PIECE):
                yield self.content[at : min(at + PIECE, end)]
            return
        with self.content.open("rb") as file:
            file.seek(start)
            while start < end and (piece := file.read(min(PIECE, end - start))):
                start += len(piece)
                yield piece


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    range: str | None
    at: float


class Server(ThreadingHTTPServer):
    """Serves `resources` (path -> Resource) on localhost."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.resources: dict[str, Resource] = {}
        self.requests: list[Request] = []
        self.bytes_sent = 0
        self.closing = threading.Event()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://localhost:{self.server_address[1]}"

    def start(self) -> Server:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are what these tests are about."""

    def requests_of(self, path: str) -> list[Request]:
        with self.lock:
            return [request for request in self.requests if request.path == path]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        with self.server.lock:
            asked = Request(self.command, path, self.headers.get("Range"), time.monotonic())
            self.server.requests.append(asked)
            resource = self.server.resources.get(path)
            nasty = resource is not None and resource.times != 0
            if resource is not None and resource.times:
                resource.times -= 1
        if resource is None:
            self.answer_page(404, Resource(cors=False))
        elif nasty and resource.redirect:
            self.answer_redirect(resource)
        elif nasty and resource.status:
            self.answer_page(resource.status, resource)
        else:
            self.answer(resource, nasty)

    do_HEAD = do_GET

    def do_OPTIONS(self) -> None:
        self.begin(204, self.server.resources.get(urlsplit(self.path).path) or Resource(cors=False))
        self.send_header("Access-Control-Allow-Methods", "GET, HEAD")
        self.send_header("Access-Control-Allow-Headers", "*, authorization, range")
        self.end_headers()

    # ---- kinds of answers ----

    def answer_page(self, status: int, resource: Resource) -> None:
        page = b"<!DOCTYPE html><title>Not the file</title><p>An error page of the server.</p>"
        self.begin(status, resource)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(page)

    def answer_redirect(self, resource: Resource) -> None:
        self.begin(302, resource)
        self.send_header("Location", resource.redirect)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def answer(self, resource: Resource, nasty: bool) -> None:
        size = resource.size
        span = self.asked_range(size) if resource.ranges else None
        if span is not None and span[0] >= size:
            self.begin(416, resource)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start, end = span or (0, size)
        headers = {"Content-Type": resource.type, "Cache-Control": "no-cache"}
        if resource.ranges:
            headers["Accept-Ranges"] = "bytes"
        if span:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        body: Iterator[bytes] = resource.pieces(start, end)
        length = end - start
        if resource.gzip and not span:
            packed = gzip.compress(b"".join(body), 1)
            body, length = iter([packed]), len(packed)
            headers["Content-Encoding"] = "gzip"
        if resource.length:
            headers["Content-Length"] = str(length)
        else:
            headers["Transfer-Encoding"] = "chunked"
        self.begin(206 if span else 200, resource)
        for name, value in {**headers, **(resource.headers if nasty else {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.send_body(body, resource, nasty)

    def asked_range(self, size: int) -> tuple[int, int] | None:
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not match:
            return None
        return int(match[1]), min(int(match[2]) + 1 if match[2] else size, size)

    def begin(self, status: int, resource: Resource) -> None:
        self.send_response(status)
        headers = {}
        if resource.cors:
            headers["Access-Control-Allow-Origin"] = "*"
        if resource.cors and resource.expose:
            headers["Access-Control-Expose-Headers"] = "Content-Range, ETag, Accept-Ranges, Content-Encoding"
        if resource.etag:
            headers["ETag"] = resource.etag
        if resource.last_modified:
            headers["Last-Modified"] = resource.last_modified
        for name, value in headers.items():
            self.send_header(name, value)

    def send_body(self, body: Iterator[bytes], resource: Resource, nasty: bool) -> None:
        limits = [limit for limit in (resource.cut, resource.stall) if nasty and limit is not None]
        left = min(limits) if limits else None
        for piece in body:
            part = piece if left is None else piece[:left]
            self.send_piece(part, resource)
            if left is not None:
                left -= len(part)
                if left == 0:
                    return self.misbehave(resource)
        while nasty and resource.endless and not self.server.closing.is_set():
            self.send_piece(bytes(PIECE), resource)
        if not resource.length:
            self.wfile.write(b"0\r\n\r\n")

    def send_piece(self, piece: bytes, resource: Resource) -> None:
        self.wfile.write(piece if resource.length else b"%x\r\n%b\r\n" % (len(piece), piece))
        with self.server.lock:
            self.server.bytes_sent += len(piece)
        if resource.rate:
            self.server.closing.wait(len(piece) / resource.rate)

    def misbehave(self, resource: Resource) -> None:
        if resource.stall is not None and (resource.cut is None or resource.stall <= resource.cut):
            self.wfile.flush()
            self.server.closing.wait(STALL_SECONDS)
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *arguments: object) -> None:
        pass
