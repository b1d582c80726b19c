"""Answers on their way out: JSON when all is there, or server-sent events as text comes.

Both watch the client: when it goes, the work for it ends at once. A stream's first event is awaited before
the status line is sent, so that what fails early fails with a proper status.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .choices import Choices, Event
from .drain import Drain
from .errors import ApiError, ClientGone, api_error

Result = TypeVar("Result")
Encode = Callable[[Event], list[bytes]]


def dumps(value: Any) -> bytes:
    """Compact JSON in UTF-8; a lone surrogate that came in by JSON becomes an escape again."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def json_reply(value: Any, status: int = 200) -> Response:
    return Response(dumps(value), status, media_type="application/json")


def event(value: Any) -> bytes:
    return b"data: " + dumps(value) + b"\n\n"


def failure(scope: Scope, problem: ApiError) -> bytes:
    problem.note(scope)
    return event(problem.body())


async def while_connected(request: Request, drain: Drain, work: Awaitable[Result]) -> Result:
    """The work's result; raises ClientGone when the client leaves first, 503 at the end of the drain."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(disconnected(request.receive))
    over = asyncio.ensure_future(drain.expired.wait())
    try:
        await asyncio.wait((task, gone, over), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if over.done():
            raise drain.cut_short()
        raise ClientGone
    finally:
        for each in (task, gone, over):
            each.cancel()
        await asyncio.gather(task, gone, over, return_exceptions=True)


async def disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def collect(choices: Choices) -> list[Event]:
    async with choices:
        return [found async for found in choices]


async def stream_reply(
    request: Request, drain: Drain, choices: Choices, encode: Encode, closing: Callable[[], list[bytes]]
) -> Response:
    """Waits for the first event, then hands over to EventStream."""
    await choices.__aenter__()
    try:
        first = await while_connected(request, drain, anext(choices))
    except BaseException:
        await choices.aclose()
        raise
    return EventStream(drain, choices, first, encode, closing)


class EventStream(Response):
    media_type = "text/event-stream"

    def __init__(
        self,
        drain: Drain,
        choices: Choices,
        first: Event,
        encode: Encode,
        closing: Callable[[], list[bytes]],
    ) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._drain = drain
        self._choices = choices
        self._first = first
        self._encode = encode
        self._closing = closing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        tasks = [
            asyncio.create_task(self._send_all(scope, send)),
            asyncio.create_task(disconnected(receive)),
            asyncio.create_task(self._end_of_drain()),
        ]
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            sending, gone, over = tasks
            if sending.done():
                sending.result()
            elif over.done():
                sending.cancel()
                await asyncio.wait((sending,))
                await self._finish(send, failure(scope, self._drain.cut_short()))
            else:
                scope["realm.gone"] = True
        finally:
            for task in tasks:
                task.cancel()
            await self._choices.aclose()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _send_all(self, scope: Scope, send: Send) -> None:
        last = b""
        try:
            async for chunk in self._chunks():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            last = b"".join(self._closing())
        except Exception as problem:  # the status line is out: the error is an event
            last = failure(scope, api_error(problem))
        await self._finish(send, last)

    async def _chunks(self) -> AsyncIterator[bytes]:
        yield b"".join(self._encode(self._first))
        async for found in self._choices:
            if encoded := b"".join(self._encode(found)):
                yield encoded

    @staticmethod
    async def _finish(send: Send, last: bytes) -> None:
        await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _end_of_drain(self) -> None:
        await self._drain.expired.wait()
