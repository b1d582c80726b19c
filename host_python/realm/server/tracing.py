"""OpenTelemetry spans of a request: HTTP -> generation -> queue, engine -> schedule, prefill, decode.

The HTTP span continues the caller's trace. Below it one `generation` for each choice, and below that `queue`
(waiting for a turn before the engine) and `engine`, with the batches it was in and its own rows in them. The
last three are what the core says of the request: `schedule` until the first batch with rows of it (places,
rates, other tenants' turns), `prefill` until its prompt was computed, `decode` until its last token. Exported
by OTLP when the usual environment variable OTEL_EXPORTER_OTLP_ENDPOINT is set; without it spans cost nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from .._errors import error

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class Tracing:
    def __init__(self, processor: SpanProcessor | None = None) -> None:
        """`processor` takes the spans; None: by the environment."""
        processor = processor or processor_of_environment()
        self._provider = None
        if processor is not None:
            self._provider = TracerProvider(resource=Resource.create({"service.name": "realm"}))
            self._provider.add_span_processor(processor)
        provider = self._provider or trace.NoOpTracerProvider()
        self.tracer: Tracer = provider.get_tracer("realm.server")
        self._propagator = TraceContextTextMapPropagator()

    @property
    def enabled(self) -> bool:
        return self._provider is not None

    def close(self) -> None:
        """Sends what is left."""
        if self._provider is not None:
            self._provider.shutdown()

    def http(self, headers: Mapping[str, str], method: str) -> Span:
        context = self._propagator.extract(headers) if self.enabled else None
        return self.tracer.start_span(f"{method}", context=context, kind=SpanKind.SERVER)

    def child(self, parent: Span, name: str, start: int, end: int, attributes: Mapping[str, Any]) -> Span:
        """A span that is over already."""
        context = trace.set_span_in_context(parent, Context())
        span = self.tracer.start_span(name, context=context, start_time=start, attributes=dict(attributes))
        span.end(end)
        return span

    def generation(self, parent: Span, attributes: Mapping[str, Any]) -> Span:
        context = trace.set_span_in_context(parent, Context())
        return self.tracer.start_span("generation", context=context, attributes=dict(attributes))


def fail(span: Span, what: str) -> None:
    span.set_status(Status(StatusCode.ERROR, what))


def processor_of_environment() -> SpanProcessor | None:
    if not any(os.environ.get(name) for name in ENDPOINTS):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        raise error(
            "unsupported",
            f"{ENDPOINTS[0]} is set, but the exporter is not installed: pip install 'realm-ai[server,otlp]'",
        ) from None
    return BatchSpanProcessor(OTLPSpanExporter())
