"""Around every request: its id, span, log line and metrics; what may come in, and nothing new while
draining.

Plain ASGI, so that streams pass untouched. Errors raised below here already are responses; what still comes
up is a bug of ours, logged with its traceback and answered with 500.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time

from opentelemetry.trace import Span
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import CLIENT_CLOSED, ApiError, ClientGone
from .services import Services
from .tracing import fail

REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
QUIET_ROUTES = ("/healthz", "/readyz", "/metrics")  # not logged when all is well
OPEN_WHILE_DRAINING = QUIET_ROUTES
CLOSING = {"connection": "close"}
DISCARDED_BYTES = 16 << 20  # of a body that is too long


class Frontier:
    """The outermost layer but for CORS."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        await Exchange(self._app, self._services, scope, receive, send).run()


class Exchange:
    """One request and its answer."""

    def __init__(self, app: ASGIApp, services: Services, scope: Scope, receive: Receive, send: Send) -> None:
        self._app = app
        self._services = services
        self._scope = scope
        self._receive = receive
        self._send = send
        self._headers = Headers(scope=scope)
        given = self._headers.get("x-request-id", "")
        self.id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        self.status = 0
        self._body = Body(services, receive, self._headers)
        self._began = time.monotonic()

    async def run(self) -> None:
        span = self._services.tracing.http(self._headers, self._scope["method"])
        self._scope["realm.span"] = span
        self._scope["realm.request_id"] = self.id
        try:
            self._admit()
            await self._body.read()
            await self._app(self._scope, self._body.receive, self._answer)
        except ClientGone:
            self._scope["realm.gone"] = True
        except ApiError as problem:
            await self._refuse(problem)
        except asyncio.CancelledError:
            self._scope["realm.gone"] = True
            raise
        except Exception as problem:
            self._services.logs.log.error("bug", request_id=self.id, exc_info=problem)
            await self._refuse(
                ApiError(500, f"the server failed; its log has request {self.id}", code="internal")
            )
        finally:
            self._account(span)

    def _admit(self) -> None:
        path = self._scope["path"]
        if self._services.drain.begun and path not in OPEN_WHILE_DRAINING:
            self._services.metrics.shed.labels("draining").inc()
            raise self._services.drain.refusal()
        allowed = self._services.options.hosts
        if allowed and host_name(self._headers.get("host", "")) not in allowed:
            raise ApiError(
                400, "this Host header is not served here; see --allowed-host", code="unknown_host"
            )

    async def _answer(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self.id.encode())]
        async with asyncio.timeout(self._services.options.write_seconds):
            await self._send(message)

    async def _refuse(self, problem: ApiError) -> None:
        if not self.status:
            await problem.response(self._scope)(self._scope, self._body.receive, self._answer)

    # ---- afterwards ----

    def _account(self, span: Span) -> None:
        services, seconds = self._services, time.monotonic() - self._began
        if self._scope.get("realm.gone"):
            self.status = CLIENT_CLOSED
        route = getattr(self._scope.get("route"), "path", "unknown")
        services.metrics.http_requests.labels(route, str(self.status)).inc()
        services.metrics.http_seconds.labels(route).observe(seconds)
        span.update_name(f"{self._scope['method']} {route}")
        span.set_attributes(
            {
                "http.request.method": self._scope["method"],
                "http.route": route,
                "http.response.status_code": self.status,
            }
        )
        span.set_attribute("realm.request_id", self.id)
        if self.status >= 500:
            fail(span, str(self.status))
        span.end()
        if self.status >= 400 or route not in QUIET_ROUTES:
            services.logs.log.info(
                "request",
                request_id=self.id,
                method=self._scope["method"],
                route=route,
                status=self.status,
                seconds=round(seconds, 4),
                tenant=self._scope.get("realm.tenant"),
                **({"error": self._scope["realm.error"]} if "realm.error" in self._scope else {}),
            )


class Body:
    """The request's body, read before the application runs: not too long, not too slowly."""

    def __init__(self, services: Services, receive: Receive, headers: Headers) -> None:
        self._most = services.options.body_bytes
        self._seconds = services.options.body_seconds
        self._receive = receive
        self._headers = headers
        self._data: bytes | None = None
        self._size = 0

    async def read(self) -> None:
        length = self._headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or len(length) > 18:
            raise ApiError(400, "the Content-Length header is no number", headers=CLOSING)
        try:
            async with asyncio.timeout(self._seconds):
                self._data = await self._read_all()
        except TimeoutError:
            if self._size > self._most:
                raise self._too_long() from None
            raise ApiError(408, "the body came too slowly", code="body_timeout", headers=CLOSING) from None

    async def _read_all(self) -> bytes:
        """Reads on a while when it is too long: a client that still sends would not see the answer."""
        kept = []
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            self._size += len(message.get("body", b""))
            kept.append(message.get("body", b"") if self._size <= self._most else b"")
            if not message.get("more_body", False) or self._size > self._most + DISCARDED_BYTES:
                break
        if self._size > self._most:
            raise self._too_long()
        return b"".join(kept)

    def _too_long(self) -> ApiError:
        text = f"the body is longer than {self._most} bytes"
        return ApiError(413, text, code="body_too_large", headers=CLOSING)

    async def receive(self) -> Message:
        """What the application gets: the body at once, then the client's end."""
        data, self._data = self._data, None
        if data is not None:
            return {"type": "http.request", "body": data, "more_body": False}
        return await self._receive()


def host_name(host: str) -> str:
    """A Host header without its port: `localhost:8080`, `[::1]:8080`."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].lower()
