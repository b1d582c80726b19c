"""The application: its parts, its routes, what happens at start and end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from opentelemetry.sdk.trace import SpanProcessor
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from .. import __version__
from .._api import engine_options
from .._errors import RealmError
from .._manager import RealmManager
from .._model import Model, ModelOptions, demo_model_path
from .._process import Process
from . import native, observe, openai
from .admission import Admission
from .breakers import Breakers
from .documents import ERROR
from .drain import Drain
from .errors import ApiError, ClientGone, on_api_error, on_client_gone, on_http_error, on_invalid_request
from .keys import Keys
from .logs import Logs
from .metrics import Metrics
from .middleware import Frontier
from .models import Models
from .options import ServerOptions
from .services import Services
from .tenants import Tenants
from .tracing import Tracing

DEMO_NAME = "realm-demo"
RESPONSES: dict[int | str, dict[str, Any]] = dict.fromkeys(
    (400, 401, 403, 404, 408, 409, 413, 429, 500, 503, 504), ERROR
)


def make_services(options: ServerOptions, spans: SpanProcessor | None = None) -> Services:
    """All parts of a server. `spans` takes its traces; None: as the environment says."""
    logs, metrics = Logs(options.log_file), Metrics(options.tenant_labels)
    engine = Process.current().engine(
        engine_options("auto", options.threads, None, "native", 0, options.kv_bytes)
    )

    def load(path: Path, context_length: int, kv_type: str) -> Model:
        return Model.load(engine, path, ModelOptions("full", context_length, kv_type))

    services = Services(
        options=options,
        engine=engine,
        logs=logs,
        metrics=metrics,
        tracing=Tracing(spans),
        drain=Drain(),
        models=Models(load, options.models_dir),
        tenants=Tenants(
            Keys(options.keys_file),
            RealmManager(threads=options.threads, kv_bytes=options.kv_bytes),
            metrics,
            logs.log,
        ),
        admission=Admission(
            options.running,
            options.waiting,
            options.queue_seconds,
            shared=options.keys_file is not None,
        ),
        breakers=Breakers(metrics, logs.log),
    )
    for name, path in options.models or ((DEMO_NAME, demo_model_path()),):
        services.models.preload(name, path, options.context_length)
    observe.connect(services)
    return services


def create_app(services: Services) -> FastAPI:
    """The ASGI application; the end of its lifespan closes everything."""
    app = FastAPI(
        title="Realm",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses=RESPONSES,
        telemetry={"tracing": False, "metrics": False, "logs": False},
        exception_handlers={
            ApiError: on_api_error,
            RealmError: on_api_error,
            TimeoutError: on_api_error,
            ClientGone: on_client_gone,
            HTTPException: on_http_error,
            RequestValidationError: on_invalid_request,
            Exception: on_api_error,  # and on to middleware.py, which logs it
        },
    )
    app.state.services = services
    for router in (openai.router, native.router, observe.router):
        app.include_router(router)
    app.add_middleware(Frontier, services=services)
    if services.options.cors_origins:  # around all, so that a page can read what the frontier refuses
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(services.options.cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["authorization", "content-type", "x-request-id"],
            expose_headers=["x-request-id", "retry-after"],
        )
    hide_validation_errors(app)
    return app


def hide_validation_errors(app: FastAPI) -> None:
    """FastAPI documents 422 for wrong bodies; here they get 400, as clients of OpenAI expect."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        schema = made()
        for path in schema["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        return schema

    app.openapi = openapi  # type: ignore[method-assign]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    services: Services = app.state.services
    options = services.options
    services.metrics.models_loaded.set(len(services.models))
    services.logs.log.info("serving", models=services.models.names(), host=options.host, port=options.port)
    yield
    services.logs.log.info("closing")
    services.tenants.close()
    services.models.close()
    services.tracing.close()
    services.logs.close()
