"""What an operator's tools ask: /healthz, /readyz, /metrics."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from .documents import PLAIN
from .services import Services, administrator, services_of

router = APIRouter(tags=["Operation"])


def connect(services: Services) -> None:
    """Numbers that are read when somebody asks for them."""
    metrics, admission = services.metrics, services.admission
    metrics.running.set_function(lambda: admission.running)
    metrics.waiting.set_function(lambda: admission.waiting)
    metrics.log_lines_lost.set_function(lambda: services.logs.writer.lost)
    metrics.watch_engine(services.engine_stats)


@router.get("/healthz", response_class=PlainTextResponse)
async def healthz() -> Response:
    """The process lives and its loop turns."""
    return PlainTextResponse("ok\n")


@router.get("/readyz", response_class=PlainTextResponse, responses={503: {"content": PLAIN}})
async def readyz(request: Request) -> Response:
    """Whether new work is welcome: not while draining, not without a model."""
    services = services_of(request)
    if services.drain.begun:
        return PlainTextResponse("draining\n", 503)
    if not len(services.models):
        return PlainTextResponse("no model is loaded\n", 503)
    return PlainTextResponse("ready\n")


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """For Prometheus; with keys, it needs one of an administrator."""
    await administrator(request)
    return Response(services_of(request).metrics.page(), headers={"content-type": CONTENT_TYPE_LATEST})
