"""Runs the choices of one request: admission, the tenant's realm, breakers, metrics, spans.

Choices is an async iterator of events as text comes; leaving its block ends whatever still runs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from opentelemetry.trace import Span

from .._api import AsyncStream, Generation, Realm, Timings
from .._engine import DrawnToken
from .._errors import error
from .admission import DeadlinePassed
from .errors import ApiError, api_error
from .keys import Tenant
from .models import LoadedModel
from .services import Services
from .tracing import fail

Begin = Callable[[Realm, float | None], AsyncStream]  # with the seconds left until the deadline
Score = Callable[[Realm, float | None], Awaitable["Scored"]]


@dataclass(frozen=True)
class Start:
    """How a choice is begun: astream or achat_stream of a realm; and its place among the tenant's own."""

    tenant: Tenant
    model: LoadedModel
    begin: Begin | None  # None: nothing is generated, the prompt is only scored
    priority: int = 0
    due: float | None = None  # the deadline as a monotonic time
    score: Score | None = None  # of the prompt, before anything is generated

    def seconds_left(self) -> float | None:
        if self.due is None:
            return None
        left = self.due - time.monotonic()
        if left <= 0:
            raise DeadlinePassed()
        return left


def due_in(seconds: float | None) -> float | None:
    return None if seconds is None else time.monotonic() + seconds


@dataclass(frozen=True)
class Place:
    """A token as clients see it: its bytes, its log probability where it has one, and the likeliest there."""

    data: bytes
    logprob: float | None
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Scored:
    """A choice's prompt with its log probabilities, before its first Piece."""

    places: Sequence[Place]
    tokens: int


@dataclass(frozen=True)
class Piece:
    """Text of a choice, and the tokens drawn since its last piece when log probabilities were asked for."""

    index: int
    text: str
    drawn: Sequence[DrawnToken] = ()


@dataclass(frozen=True)
class Prompted:
    index: int
    prompt: Scored


@dataclass(frozen=True)
class Finished:
    index: int
    result: Generation


Event = Piece | Finished | Prompted


class Choices:
    def __init__(self, services: Services, starts: Sequence[Start], span: Span) -> None:
        self._services = services
        self._starts = starts
        self._span = span
        self._events: asyncio.Queue[Event | BaseException] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []
        self._open = len(starts)

    async def __aenter__(self) -> Choices:
        self._tasks = [
            asyncio.create_task(self._run(index, start)) for index, start in enumerate(self._starts)
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        if not self._open:
            raise StopAsyncIteration
        event = await self._events.get()
        if isinstance(event, BaseException):
            self._open = 0
            raise event
        if isinstance(event, Finished):
            self._open -= 1
        return event

    async def _run(self, index: int, start: Start) -> None:
        try:
            await run_choice(self._services, start, self._span, index, self._events.put_nowait)
        except asyncio.CancelledError:
            raise
        except Exception as problem:
            self._events.put_nowait(problem)


async def run_choice(
    services: Services, start: Start, parent: Span, index: int, put: Callable[[Event], None]
) -> None:
    """One choice from admission to its last token, accounted for however it ends."""
    tenant, model = start.tenant, start.model
    services.breakers.check("model", model.name)
    services.breakers.check("tenant", tenant.name)
    span = services.tracing.generation(parent, {"realm.tenant": tenant.name, "realm.model": model.name})
    record = Record(services, tenant, model, span)
    try:
        async with asyncio.timeout(services.options.request_seconds):
            async with services.admission.turn(tenant.name, start.priority, start.due) as waited:
                record.admitted(waited)
                realm = await services.tenants.realm(tenant, model)
                await play(start, realm, record, index, put)
    except BaseException as problem:
        record.failed(problem)
        await services.tenants.retire(tenant, problem)
        raise
    finally:
        span.end()


async def play(start: Start, realm: Realm, record: Record, index: int, put: Callable[[Event], None]) -> None:
    tokens = 0
    if start.score is not None:
        with record.span("score"):
            prompt = await start.score(realm, start.seconds_left())
        put(Prompted(index, prompt))
        tokens = prompt.tokens
    if start.begin is not None:
        return await stream_choice(start.begin(realm, start.seconds_left()), record, index, put)
    result = Generation("", (), tokens, "length", Timings(0.0, 0.0))
    record.ended(result)
    put(Finished(index, result))


async def stream_choice(
    stream: AsyncStream, record: Record, index: int, put: Callable[[Event], None]
) -> None:
    async with stream:
        taken = 0
        async for text in stream:
            record.text_came()
            put(Piece(index, text, stream.drawn[taken:]))
            taken = len(stream.drawn)
        result = stream.result
        put(Piece(index, "", stream.drawn[taken : len(result.tokens)]))
    if result.finish_reason in ("cancelled", "failed"):
        raise error("closed", "the generation was ended")
    record.ended(result)
    put(Finished(index, result))


class Record:
    """What is measured of one choice."""

    def __init__(self, services: Services, tenant: Tenant, model: LoadedModel, span: Span) -> None:
        self._services = services
        self._tenant, self._model, self._span = tenant, model, span
        self._metrics = services.metrics
        self._label = services.metrics.tenant(tenant.name)
        self._asked = time.time_ns()
        self._entered = self._first = 0

    def admitted(self, waited: float) -> None:
        self._entered = time.time_ns()
        self._metrics.queue_seconds.labels(self._label).observe(waited)
        self._services.tracing.child(self._span, "queue", self._asked, self._entered, {})

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        began = time.time_ns()
        try:
            yield
        finally:
            self._services.tracing.child(self._span, name, began, time.time_ns(), {})

    def text_came(self) -> None:
        if self._first:
            return
        self._first = time.time_ns()
        seconds = (self._first - self._entered) / 1e9
        self._metrics.first_token_seconds.labels(self._label, self._model.name).observe(seconds)

    def ended(self, result: Generation) -> None:
        now, model = time.time_ns(), self._model.name
        count = len(result.tokens)
        self._metrics.tokens.labels(self._label, model, "prompt").inc(result.prompt_tokens)
        self._metrics.tokens.labels(self._label, model, "generated").inc(count)
        self._metrics.generations.labels(self._label, model, result.finish_reason).inc()
        if count > 1 and self._first:
            self._metrics.token_gap_seconds.labels(model).observe((now - self._first) / 1e9 / (count - 1))
        self._spans_of_engine(now, result)
        self._report(None)

    def failed(self, problem: BaseException) -> None:
        if isinstance(problem, (asyncio.CancelledError, GeneratorExit)):
            outcome = "cancelled"
        else:
            told = api_error(problem)
            outcome = "refused" if told.status < 500 or told.status == 503 else "failed"
            self._count_refusal(problem, told)
        self._metrics.generations.labels(self._label, self._model.name, outcome).inc()
        if self._entered:
            self._services.tracing.child(self._span, "engine", self._entered, time.time_ns(), {})
        fail(self._span, outcome)
        self._report(problem)

    def _count_refusal(self, problem: BaseException, told: ApiError) -> None:
        reason = getattr(problem, "reason", None)
        if reason is not None:
            self._metrics.shed.labels(reason).inc()
        elif told.status == 429:
            self._metrics.refused.labels(self._label, getattr(problem, "limit", None) or "other").inc()

    def _spans_of_engine(self, end: int, result: Generation) -> None:
        """The engine's own times, which follow each other; they are laid so that they end with the result."""
        times, tracing = result.timings, self._services.tracing
        parts: list[tuple[str, float, dict[str, Any]]] = [
            ("schedule", times.queued_seconds, {}),
            ("prefill", times.prefill_seconds, {"realm.prompt_tokens": result.prompt_tokens}),
            ("decode", times.decode_seconds, {"realm.tokens": len(result.tokens)}),
        ]
        work = {
            "realm.steps": times.steps,
            "realm.rows": times.rows,
            "realm.step_seconds": times.step_seconds,
        }
        engine = tracing.child(self._span, "engine", self._entered, end, work)
        start = end - sum(round(1e9 * seconds) for _, seconds, _ in parts)
        for name, seconds, attributes in parts:
            after = start + round(1e9 * seconds)
            tracing.child(engine, name, start, after, attributes)
            start = after

    def _report(self, problem: BaseException | None) -> None:
        self._services.breakers.report("model", self._model.name, problem)
        self._services.breakers.report("tenant", self._tenant.name, problem)
