"""The HTTP/1.1 connection: uvicorn's, with limits on the head of a request, which uvicorn leaves open.

A head that is longer than allowed gets 431, one that does not come in time 408 (a connection that sends
nothing is closed without a word); either way the connection ends, so that slow clients cannot hold the
server's.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .errors import ApiError

SLICE = 4096


def guarded_protocol(header_bytes: int, header_seconds: float) -> type[asyncio.Protocol]:
    """The class of connections with these limits; uvicorn makes one for each connection."""

    class GuardedProtocol(HttpToolsProtocol):  # type: ignore[misc, unused-ignore]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._in_head = True
            self._head_size = 0
            self._timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._timer = self.loop.call_later(header_seconds, self._head_is_late)

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            """In slices as long as a head may go on, so that a body that came along is not counted."""
            while data and self._in_head:
                piece, data = data[:SLICE], data[SLICE:]
                self._head_size += len(piece)
                if self._head_size > header_bytes + SLICE:
                    self._end(ApiError(431, f"the head of the request is longer than {header_bytes} bytes"))
                    return
                super().data_received(piece)
                if self.transport.is_closing():
                    return
            if data:
                super().data_received(data)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            if self._timer is None:
                self._timer = self.loop.call_later(header_seconds, self._head_is_late)

        def on_headers_complete(self) -> None:
            self._in_head = False
            self._stop_timer()
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            """The next request on this connection may follow."""
            self._in_head, self._head_size = True, 0
            super().on_message_complete()

        def _head_is_late(self) -> None:
            self._timer = None
            if self._in_head and self._head_size:
                self._end(ApiError(408, "the head of the request came too slowly", code="header_timeout"))
            elif self._in_head and not self.transport.is_closing():
                self.transport.close()

        def _end(self, problem: ApiError) -> None:
            if self.transport.is_closing():
                return
            body = problem.response({}).body
            head = (
                f"HTTP/1.1 {problem.status} Refused\r\nconnection: close\r\ncontent-length: {len(body)}\r\n"
            )
            self.transport.write(f"{head}content-type: application/json\r\n\r\n".encode() + bytes(body))
            self.transport.close()

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return GuardedProtocol
