"""A static web server for the demo page and for tests: folders under URL prefixes, byte ranges, and if wanted
the two headers that make a page cross-origin isolated, without which a browser gives it no threads.

It listens on the loopback address only and is made for one developer, not for the internet.
"""

from __future__ import annotations

import http.server
import mimetypes
import queue
import re
import threading
import urllib.parse
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path

TYPES = {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".wasm": "application/wasm",
    ".gguf": "application/octet-stream",
}
PIECE_BYTES = 1 << 18
MOST_TOLD_BYTES = 1 << 20
ISOLATION = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}


class Site:
    """Runs in threads of its own between `with` and its end. `url` names it, with a slash at the end."""

    def __init__(self, folders: Mapping[str, Path], isolated: bool = True, port: int = 0) -> None:
        self.folders = {
            f"/{prefix.strip('/')}/".replace("//", "/"): folder for prefix, folder in folders.items()
        }
        self.isolated = isolated
        self.told: queue.SimpleQueue[bytes] | None = (
            None  # takes what pages send by POST, where somebody wants it
        )
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler(self))
        self.server.daemon_threads = True
        self.url = f"http://localhost:{self.server.server_port}/"

    def __enter__(self) -> Site:
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def find(self, path: str) -> Path | None:
        """The file of a URL's path, never one outside its folder; the longest prefix wins."""
        for prefix in sorted(self.folders, key=len, reverse=True):
            if path.startswith(prefix):
                folder = self.folders[prefix].resolve()
                file = (folder / path.removeprefix(prefix)).resolve()
                file = file / "index.html" if file.is_dir() else file
                return file if file.is_relative_to(folder) and file.is_file() else None
        return None


def handler(site: Site) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.answer(body=True)

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_POST(self) -> None:
            size = self.headers.get("Content-Length") or ""
            if site.told is None or not size.isdecimal() or int(size) > MOST_TOLD_BYTES:
                self.close_connection = True
                self.send_error(HTTPStatus.FORBIDDEN)
                return
            site.told.put(self.rfile.read(int(size)))
            self.start(HTTPStatus.OK, {})

        def answer(self, body: bool) -> None:
            file = site.find(urllib.parse.unquote(urllib.parse.urlsplit(self.path).path))
            if file is None:
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            stat = file.stat()
            tag = f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"'
            if self.headers.get("If-None-Match") == tag:
                self.start(HTTPStatus.NOT_MODIFIED, {"ETag": tag})
                return
            first, end = byte_range(self.headers.get("Range"), stat.st_size)
            if first > end:
                self.start(
                    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, {"Content-Range": f"bytes */{stat.st_size}"}
                )
                return
            partial = {"Content-Range": f"bytes {first}-{end - 1}/{stat.st_size}"}
            whole = end - first == stat.st_size
            headers = {"Content-Type": content_type(file), "ETag": tag, "Accept-Ranges": "bytes"}
            headers |= {"Cache-Control": "no-cache", "Content-Length": str(end - first)}
            self.start(
                HTTPStatus.OK if whole else HTTPStatus.PARTIAL_CONTENT, headers | ({} if whole else partial)
            )
            if body:
                self.send(file, first, end - first)

        def start(self, status: HTTPStatus, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            length = {} if "Content-Length" in headers else {"Content-Length": "0"}
            for name, value in {**headers, **length, **(ISOLATION if site.isolated else {})}.items():
                self.send_header(name, value)
            self.end_headers()

        def send(self, file: Path, first: int, size: int) -> None:
            with file.open("rb") as opened:
                opened.seek(first)
                try:
                    while size > 0 and (piece := opened.read(min(size, PIECE_BYTES))):
                        self.wfile.write(piece)
                        size -= len(piece)
                except ConnectionError:  # the reader has left
                    self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


def content_type(file: Path) -> str:
    guessed = TYPES.get(file.suffix) or mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    return f"{guessed}; charset=utf-8" if guessed.startswith("text/") else guessed


def byte_range(header: str | None, size: int) -> tuple[int, int]:
    """First byte and end of what is asked for; the whole file without (or with another kind of) range.

    A range beyond the file gives first > end.
    """
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header or "")
    if not match or not any(match.groups()):
        return 0, size
    if not match[1]:
        return max(0, size - int(match[2])), size
    first, end = int(match[1]), min(size, int(match[2]) + 1) if match[2] else size
    return (first, end) if first < end else (1, 0)
