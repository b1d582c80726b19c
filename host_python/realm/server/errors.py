"""Every failure a client can see: an HTTP status and a body of the shape OpenAI's clients read.

{"error": {"message": ..., "type": ..., "param": ..., "code": ...}}
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Literal

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from .._errors import DeviceError, GuestError, InternalError, LimitError, ModelError, RealmError

CLIENT_CLOSED = 499  # for logs and metrics only: nobody is there to read it

# Statuses of codes of realm.wit; limits are below.
STATUS_OF = {
    "invalid-argument": 400,
    "invalid-handle": 400,
    "context-full": 400,
    "template-error": 400,
    "unsupported": 400,
    "not-found": 404,
    "out-of-memory": 503,
    "closed": 503,
    "cancelled": 503,
    "device-lost": 503,
    "backend-unavailable": 503,
    "timed-out": 504,
}
TYPE_OF = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
CODE_OF = {"context-full": "context_length_exceeded"}
# Limits that hold for the moment: the same request may pass later.
PASSING_LIMITS = {
    "concurrent_requests",
    "queue_length",
    "tickets",
    "sessions",
    "kv_tokens",
    "tokens_per_second",
    "tokens_per_minute",
}


class ApiError(Exception):
    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["retry-after"] = str(max(1, math.ceil(retry_after)))

    def body(self) -> dict[str, Any]:
        kind = TYPE_OF.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self, scope: Scope) -> Response:
        """ASCII only: a message may quote what a client sent, lone surrogates too."""
        self.note(scope)
        text = json.dumps(self.body())
        return Response(text, self.status, headers=self.headers, media_type="application/json")

    def note(self, scope: Scope) -> None:
        """For the log: never the message, which may quote a client."""
        scope["realm.error"] = self.code or self.body()["error"]["type"]


class ClientGone(Exception):
    """The client closed its connection; there is nobody to answer."""


def api_error(problem: BaseException) -> ApiError:
    """What a client is told of a failure. What we did not foresee says nothing of our insides."""
    if isinstance(problem, ApiError):
        return problem
    if isinstance(problem, LimitError) and problem.code != "context-full":
        return limit_error(problem)
    if isinstance(problem, ModelError) and problem.code != "not-found":
        return ApiError(400, problem.message, code=problem.code, param="model")
    if isinstance(problem, RealmError):
        status = STATUS_OF.get(problem.code, 500)
        retry = 1.0 if status == 503 else None
        limit = getattr(problem, "limit", None)
        code = CODE_OF.get(problem.code, problem.code)
        return ApiError(status, problem.message, code=code, param=limit, retry_after=retry)
    if isinstance(problem, TimeoutError):
        return ApiError(504, "the request took longer than this server allows", code="timed-out")
    return ApiError(500, "the server failed to answer; the request id leads to its log", code="internal")


def limit_error(problem: LimitError) -> ApiError:
    """429 for a limit that will give way, 503 for memory, 400 for what can never fit."""
    limit, retry = problem.limit, problem.retry_after
    if problem.code == "out-of-memory":
        return ApiError(503, problem.message, code=problem.code, retry_after=1.0)
    if limit == "deadline":
        return ApiError(504, problem.message, code="timed-out")
    if problem.code == "busy" or retry is not None or limit in PASSING_LIMITS:
        return ApiError(
            429, problem.message, code="rate_limit_exceeded", param=limit, retry_after=retry or 1.0
        )
    return ApiError(400, problem.message, code=problem.code, param=limit)


def fault_of(problem: BaseException) -> Literal["model", "tenant"] | None:
    """What a failure speaks against, if not against the request alone.

    What a tenant can bring about (a guest that traps, a generation without end) never counts against a model,
    which others use too.
    """
    if isinstance(problem, (GuestError, TimeoutError)):
        return "tenant"
    if isinstance(problem, (ModelError, DeviceError, InternalError)) or problem_is_unknown(problem):
        return "model"
    return None


def problem_is_unknown(problem: BaseException) -> bool:
    return isinstance(problem, Exception) and not isinstance(problem, (RealmError, ApiError, ClientGone))


# A page of another site may send text and forms unasked, but no JSON: so JSON must say that it is.
NOT_JSON = ApiError(
    415,
    "the body must be JSON; send the header `Content-Type: application/json`",
    code="unsupported_media_type",
)


def is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


# ---- handlers of the application ----


async def on_api_error(request: Request, problem: Exception) -> Response:
    return api_error(problem).response(request.scope)


async def on_client_gone(request: Request, problem: Exception) -> Response:
    request.scope["realm.gone"] = True
    return Response(status_code=CLIENT_CLOSED)


async def on_http_error(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, HTTPException)
    if problem.status_code == 400:  # FastAPI's one case: bytes that are no UTF-8, or nested too deeply
        return ApiError(400, "the body is not JSON in UTF-8, or is nested too deeply").response(request.scope)
    return ApiError(problem.status_code, str(problem.detail), headers=problem.headers).response(request.scope)


async def on_invalid_request(request: Request, problem: Exception) -> Response:
    """The first thing wrong with a body, in OpenAI's way: 400, and the field's name in `param`."""
    found = problem.errors()[0]  # type: ignore[attr-defined]
    place = [str(part) for part in found["loc"] if part not in ("body", "query", "path")]
    param = ".".join(place) or None
    text = f"{param}: {found['msg']}"
    if found["type"] == "json_invalid":
        why = found.get("ctx", {}).get("error", "it ends too soon")
        text, param = f"the body is not JSON: at character {param}: {why}", None
    elif param is None and not is_json(request.headers.get("content-type", "")):
        return NOT_JSON.response(request.scope)
    elif param is None:
        text = "the body must be a JSON object"
    return ApiError(400, text, param=param, code="invalid_value").response(request.scope)
