"""The engine of a process: the core's runtime and the one thread that drives all guests, the pump.

Callers hand the pump commands (small functions) and wait in Python for what their request delivers, so Ctrl-C
always gets through. The pump waits inside the shim without the GIL; a token step never runs Python code.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from ._errors import RealmError, error
from ._library import check, ffi, library, new_error, said_limit, status_error, status_name
from ._model import ModelStore
from ._process import Process, check_same_process

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from ._guest import Guest
    from ._sandbox import Sandbox

FOREVER = (1 << 64) - 1
EVENTS = 256
COMMAND_SECONDS = 0.002  # of starting requests before guests get their turn,
FIRST_COMMAND_SECONDS = 0.01  # and where none runs
UNREAD_BYTES = 64 << 10  # of a stream's text that waits in Python; more waits in the guest's buffer
TEXT_ROOM = 4096
WAIT_SECONDS = 0.5  # a longer wait is not interruptible everywhere
FIRST_HOST_INDEX = 1 << 31  # low half of the tags of contexts that belong to no guest

log = logging.getLogger("realm.guest")


@dataclass(frozen=True)
class EngineOptions:
    threads: int = 0
    features: int = 0
    executor: int = 0
    kv_bytes: int = 0
    batch_rows: int = 0
    shim: str = "native"


@dataclass(frozen=True)
class RequestSpec:
    """A request as the guest gets it; realm.wit says what the fields mean."""

    model: Any  # SharedModel, or None when the guest needs none
    prompt: bytes = b""
    add_special: bool = True
    parse_special: bool = False
    stops: bytes = b""
    max_tokens: int = 256
    mode: int = 0
    sampling: Any = None  # Sampling
    seed: int = 0
    extra: bytes = b""
    logprobs: bool = False  # deliver Drawn with the tokens
    top_logprobs: int = 0  # and so many of the likeliest at each place
    priority: int = 0  # among the tenant's own requests, higher first
    deadline: float | None = None  # seconds from the start


class DrawnToken(NamedTuple):
    """A token that was drawn, its log probability, and the likeliest at its place, the first one first."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Drawn:
    """Tokens drawn since the last delivery; not the one that ends."""

    tokens: tuple[DrawnToken, ...]


class Work(NamedTuple):
    """What the engine did for a request: times that follow each other, and their steps."""

    queued_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    step_seconds: float = 0.0
    steps: int = 0
    rows: int = 0


@dataclass(frozen=True)
class Ended:
    """The last delivery of a request: its outcome, or why it failed."""

    finish: int = 0
    tokens: tuple[int, ...] = ()
    text: bytes = b""  # what was not streamed
    prompt_tokens: int = 0
    first_seconds: float = 0.0
    total_seconds: float = 0.0
    work: Work = Work()
    extra: bytes = b""
    drawn: tuple[DrawnToken, ...] = ()  # since the last Drawn
    end_token: DrawnToken | None = None
    problem: RealmError | None = None


Delivery = bytes | Drawn | Ended


class Request:
    """One running request. In the pump, `deliver` gets text when streaming, Drawn if asked, Ended once."""

    def __init__(
        self, guest: Guest, spec: RequestSpec, streaming: bool, deliver: Callable[[Delivery], None]
    ) -> None:
        self.guest = guest
        self.spec = spec
        self.streaming = streaming
        self.handle = 0
        self.ended = False
        self.cancelled = False
        self.end_token: DrawnToken | None = None  # where log probabilities are asked for
        self.stalled = False  # text waits in the guest's buffer until the reader has taken what there is
        self._given = self._taken = 0  # bytes of text; the first is the pump's, the second the reader's
        self._deliver = deliver

    @property
    def unread(self) -> int:
        return self._given - self._taken

    def text(self, piece: bytes) -> None:
        if piece and not self.ended:
            self._given += len(piece)
            self._deliver(piece)

    def took(self, size: int) -> None:
        self._taken += size

    def drawn(self, tokens: tuple[DrawnToken, ...]) -> None:
        if tokens and not self.ended:
            self._deliver(Drawn(tokens))

    def end(self, ended: Ended) -> None:
        if not self.ended:
            self.ended = True
            self._deliver(ended)


class Engine:
    """Use Process.current().engine(options). Public methods may be called from any thread."""

    def __init__(self, options: EngineOptions) -> None:
        self.options = options
        self.pid = os.getpid()
        self.runtime = _create_runtime(options)
        self.driver = _create_driver(self.runtime)
        self.models = ModelStore(self)
        self._lock = threading.Lock()
        self._commands: deque[Callable[[], None]] = deque()
        self._free_tags: list[int] = []
        self._next_tag = 1
        self._serial = 0
        self._guests: dict[int, Guest] = {}  # by tag, those with a request so far
        self._requests: dict[tuple[int, int], Request] = {}  # by tag and handle; pump only
        self._tickets: dict[int, Callable[[int, int], None]] = {}  # by tag of a host context; pump only
        self._posts: dict[AbstractEventLoop, list[Callable[[], None]]] = {}  # pump only
        self._unheard = False  # there are commands the pump was not woken for
        self._room = ffi.new("char[]", TEXT_ROOM)  # pump only
        self._stopping = False
        self._connected = False
        self.native = False  # whether guests are entered by unchecked calls; known once there is a sandbox
        self._public_call: Any = ffi.NULL  # must live as long as the driver
        self._pump_thread: threading.Thread | None = None
        atexit.register(self._shut_down)

    # ---- for any thread ----

    @cached_property
    def sandbox(self) -> Sandbox:
        """Where guests run. Loads wasmtime, so what needs no guest starts without it."""
        sandbox = Process.current().sandbox()
        with self._lock:
            if not self._connected:
                self.native = self.options.shim == "native" and sandbox.native
                if self.native:
                    library().shim_driver_connect(self.driver, sandbox.api.struct, ffi.NULL)
                else:
                    self._public_call = ffi.callback("shim_public_call", self._call_public)
                    library().shim_driver_connect(self.driver, ffi.NULL, self._public_call)
                self._connected = True
        return sandbox

    def take_serial(self) -> int:
        with self._lock:
            self._serial += 1
            return self._serial

    def take_tag(self, host: bool = False) -> int:
        """A tag for a new context: a small index that living contexts do not share, below a serial number."""
        if host:
            return self.take_serial() << 32 | FIRST_HOST_INDEX
        with self._lock:
            self._serial += 1
            if self._free_tags:
                index = self._free_tags.pop()
            else:
                index = self._next_tag
                self._next_tag += 1
            return self._serial << 32 | index

    def give_tag(self, tag: int) -> None:
        with self._lock:
            self._free_tags.append(tag & 0xFFFFFFFF)

    def submit(self, command: Callable[[], None]) -> None:
        """Runs a command in the pump thread, soon."""
        self._enqueue(command)
        self._wake()

    def _enqueue(self, command: Callable[[], None]) -> None:
        check_same_process(self.pid)
        self._commands.append(command)
        self._unheard = True
        if self._pump_thread is None:
            with self._lock:
                if self._pump_thread is None:
                    self._pump_thread = threading.Thread(target=self._pump, name="realm-pump", daemon=True)
                    self._pump_thread.start()

    def _wake(self) -> None:
        """Unless somebody else has done so since the last command came."""
        if self._unheard:
            self._unheard = False
            library().shim_wake(self.driver)

    def run(self, action: Callable[[], Any]) -> Any:
        """Runs an action in the pump thread and waits for its result."""
        if threading.current_thread() is self._pump_thread:
            return action()
        future: Future[Any] = Future()

        def command() -> None:
            try:
                future.set_result(action())
            except BaseException as problem:
                future.set_exception(problem)

        self.submit(command)
        return wait_for(future)

    def start(
        self,
        guest: Guest,
        spec: RequestSpec,
        *,
        streaming: bool,
        deliver: Callable[[Delivery], None],
        loop: AbstractEventLoop | None = None,
    ) -> Request:
        """What tasks of an event loop start in one of its turns starts together."""
        request = Request(guest, spec, streaming, deliver)
        self._enqueue(lambda: self._start(request))
        if loop is None:
            self._wake()
        else:
            loop.call_soon(self._wake)
        return request

    def took(self, request: Request, size: int) -> None:
        """The reader of a stream has taken text: more may come."""
        request.took(size)
        if request.stalled and request.unread < UNREAD_BYTES:
            request.stalled = False
            self.submit(lambda: self._output(request))

    def post(self, loop: AbstractEventLoop, action: Callable[[], None]) -> None:
        """In the pump: runs an action in an event loop, which is woken once for all of a turn."""
        self._posts.setdefault(loop, []).append(action)

    def cancel(self, request: Request) -> None:
        """Ends a request soon; harmless when it has already ended."""
        request.cancelled = True
        if not request.ended and not self._stopping:
            self.submit(lambda: self._cancel(request))

    def close_guest(self, guest: Guest) -> None:
        """Fails what still runs in the guest with `closed` and frees it. Waits until that is done."""
        if self.pid == os.getpid() and not self._stopping:
            self.run(
                lambda: self._close_guest(guest, error("closed", "the realm was closed during the request"))
            )

    def discard(self, guest: Guest, problem: RealmError) -> None:
        """In the pump: throws away a guest that misbehaved; its requests fail with the problem."""
        self._close_guest(guest, problem)

    def take_model(self, guest: Guest, model: Any) -> None:
        """In the pump: ends the guest's requests on a model, then takes the model away."""
        problem = error("closed", "the model was unloaded during the request")
        for request in list(self._requests.values()):
            if request.guest is guest and request.spec.model is model:
                self._end(request, Ended(problem=problem, text=self._take_text(request)))
        guest.revoke(model)

    def watch_tickets(self, tag: int, handler: Callable[[int, int], None] | None) -> None:
        """In the pump: handler(ticket, state) hears of the tickets of a host context."""
        if handler is None:
            self._tickets.pop(tag, None)
        else:
            self._tickets[tag] = handler

    # ---- in the pump thread ----

    def _pump(self) -> None:
        events = ffi.new("shim_event[]", EVENTS)
        while not self._stopping:
            self._run_commands()
            count = library().shim_pump(self.driver, 0 if self._commands else FOREVER, events, EVENTS)
            for index in range(count):
                self._handle_safely(events[index])
            self._send_posts()

    def _run_commands(self) -> None:
        """For a moment; guests that have tokens come before the rest of many."""
        if not self._requests and len(self._commands) > 1:
            library().realm_runtime_announce(
                self.runtime
            )  # a first step for all: shim_pump says that they are there
        end = time.monotonic() + (COMMAND_SECONDS if self._requests else FIRST_COMMAND_SECONDS)
        while self._commands and time.monotonic() < end:
            command = self._commands.popleft()
            try:
                command()
            except Exception:
                log.exception("a command of the engine failed")
        self._send_posts()

    def _send_posts(self) -> None:
        posts, self._posts = self._posts, {}
        for loop, actions in posts.items():
            with contextlib.suppress(RuntimeError):  # the loop was closed, and so were its tasks
                loop.call_soon_threadsafe(_run_all, actions)

    def _start(self, request: Request) -> None:
        guest = request.guest
        if request.cancelled or not guest.handle:
            code = "cancelled" if request.cancelled else "closed"
            request.end(Ended(problem=guest.problem or error(code, f"the request was {code}")))
            return
        self.sandbox.clock.start()
        try:
            self._guests[guest.tag] = guest
            request.handle = self._enter_start(guest, request)
        except RealmError as problem:
            self.sandbox.clock.stop()
            request.end(Ended(problem=problem))
            if guest.is_dead():
                self._bury(guest)
            return
        self._requests[guest.tag, request.handle] = request

    def _enter_start(self, guest: Guest, request: Request) -> int:
        handle = guest.grant(request.spec.model) if request.spec.model is not None else 0
        c_request, keep = _marshal(request.spec, handle, request.streaming)
        out = ffi.new("uint32_t *")
        err = new_error()
        check(library().shim_start(guest.handle, c_request, out, err), err)
        del keep
        return int(out[0])

    def _cancel(self, request: Request) -> None:
        if request.ended or not request.guest.handle:
            return
        if request.handle and library().shim_cancel(request.guest.handle, request.handle, ffi.NULL):
            self._bury(request.guest)

    def _handle_safely(self, event: Any) -> None:
        """Whatever one request's event meets (a log handler that raises, say), the others go on."""
        try:
            self._handle(event)
        except Exception:
            log.exception("an event of a request could not be handled")

    def _handle(self, event: Any) -> None:
        lib = library()
        if event.kind == lib.SHIM_TICKET:
            handler = self._tickets.get(event.tag)
            if handler:
                handler(event.request, event.code)
            return
        guest = self._guests.get(event.tag)
        if guest is None or not guest.handle:
            return
        if event.has_log:
            self._forward_log(guest)
        if event.kind == lib.SHIM_DEAD:
            self._bury(guest)
            return
        request = self._requests.get((event.tag, event.request))
        if request is None:
            return
        if event.kind == lib.SHIM_OUTPUT:
            self._output(request)
        elif event.kind == lib.SHIM_DONE:
            self._end(request, self._outcome(request))
        else:
            self._end(request, Ended(problem=_refusal(event.code), text=self._take_text(request)))

    def _output(self, request: Request) -> None:
        """New text of a stream. Where nobody reads it stays in the guest's buffer, and the shim is silent."""
        if self._requests.get((request.guest.tag, request.handle)) is not request:
            return
        if request.unread >= UNREAD_BYTES:
            request.stalled = True  # now a reader who takes some sees it; one who has just done so did not
            if request.unread >= UNREAD_BYTES:
                return
            request.stalled = False
        request.drawn(self._take_drawn(request))
        request.text(self._take_text(request))

    def _outcome(self, request: Request) -> Ended:
        """The guest's report of a finished request; its failure becomes an error."""
        out = ffi.new("shim_outcome *")
        err = new_error()
        drawn = self._take_drawn(request)
        status = library().shim_get_outcome(request.guest.handle, request.handle, out, err)
        text = self._take_text(request)
        if status:
            return Ended(problem=status_error(status, err), text=text)
        finish, code = int(out.finish), status_name(out.error)
        said = ffi.string(out.message).decode("utf-8", "replace")
        problem = said_limit(code, said or _FAILURE_TEXTS.get(code, "the request failed"), out)
        return Ended(
            finish=finish,
            tokens=tuple(ffi.unpack(out.tokens, out.token_count)) if out.token_count else (),
            text=text,
            prompt_tokens=out.prompt_tokens,
            drawn=drawn,
            end_token=request.end_token,
            first_seconds=out.first_ns / 1e9,
            total_seconds=out.total_ns / 1e9,
            work=_work(out.work),
            extra=bytes(ffi.buffer(out.extra, out.extra_size)) if out.extra_size else b"",
            problem=problem if finish == FINISH_FAILED else None,
        )

    def _take_text(self, request: Request) -> bytes:
        lib, guest, room = library(), request.guest, self._room
        size = lib.shim_take_text(guest.handle, request.handle, room, TEXT_ROOM)
        text = bytes(ffi.buffer(room, min(size, TEXT_ROOM)))
        if size <= TEXT_ROOM:
            return text
        rest = ffi.new("char[]", size - TEXT_ROOM)
        lib.shim_take_text(guest.handle, request.handle, rest, size - TEXT_ROOM)
        return text + bytes(ffi.buffer(rest))

    def _take_drawn(self, request: Request) -> tuple[DrawnToken, ...]:
        if not request.spec.logprobs:
            return ()
        lib, guest = library(), request.guest
        count = lib.shim_take_drawn(guest.handle, request.handle, ffi.NULL, 0)
        tokens = ffi.new("realm_token[]", count)
        lib.shim_take_drawn(guest.handle, request.handle, tokens, count)
        pairs = [(int(token.id), float(token.logprob)) for token in tokens]
        size, keep_end = 1 + request.spec.top_logprobs, request.spec.sampling.ignore_end
        found = []
        for at in range(0, count, size):
            token = DrawnToken(*pairs[at], tuple(pairs[at + 1 : at + size]))
            if keep_end or not tokens[at].is_end:
                found.append(token)
            else:
                request.end_token = token
        return tuple(found)

    def _end(self, request: Request, ended: Ended) -> None:
        guest = request.guest
        library().shim_release(guest.handle, request.handle)
        del self._requests[guest.tag, request.handle]
        self.sandbox.clock.stop()
        request.end(ended)
        if guest.is_dead():  # the outcome or the release trapped
            self._bury(guest)

    def _bury(self, guest: Guest) -> None:
        self._close_guest(guest, guest.failure())

    def _close_guest(self, guest: Guest, problem: RealmError) -> None:
        if not guest.handle:
            return
        self._forward_log(guest)
        guest.problem = problem
        for key, request in [item for item in self._requests.items() if item[0][0] == guest.tag]:
            text = self._take_text(request)
            del self._requests[key]
            self.sandbox.clock.stop()
            request.end(Ended(problem=problem, text=text))
        self._guests.pop(guest.tag, None)
        guest.close()

    def _forward_log(self, guest: Guest) -> None:
        text = guest.take_log()
        for line in text.split(b"\n") if text else ():
            if line:
                level = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)[line[0] - ord("0")]
                log.log(level, "%s", line[1:].decode("utf-8", "replace"))

    def _call_public(self, tag: int, function: int, values: Any, count: int) -> int:
        guest = self._guests.get(tag)
        return guest.call_public(function, values, count) if guest else int(library().REALM_E_INTERNAL)

    def _shut_down(self) -> None:
        """At exit: stops the pump, so that no thread is inside the core while Python goes down."""
        if self.pid != os.getpid() or self._stopping:
            return
        self._stopping = True
        library().shim_wake(self.driver)
        if self._pump_thread is not None:
            self._pump_thread.join(timeout=1.0)


FINISH_FAILED = 4
_FAILURE_TEXTS = {
    "context-full": "the prompt and the answer do not fit into the model's context",
    "limit-exceeded": "a limit of the realm was reached",
    "io": "the model's file was cut short or became unreadable while in use: restore it, and load it again",
    "stalled": "the guest waits for nothing",
}


def _work(native: Any) -> Work:
    return Work(
        queued_seconds=native.queued_ns / 1e9,
        prefill_seconds=native.prefill_ns / 1e9,
        decode_seconds=native.decode_ns / 1e9,
        step_seconds=native.step_ns / 1e9,
        steps=native.steps,
        rows=native.rows,
    )


def _refusal(status: int) -> RealmError:
    code = status_name(status)
    return error(code, _FAILURE_TEXTS.get(code, "the guest ended the request with an error"))


def _create_runtime(options: EngineOptions) -> Any:
    native = ffi.new("realm_runtime_options *")
    native.threads = options.threads
    native.features = options.features
    native.executor = options.executor
    native.kv_bytes = options.kv_bytes
    native.batch_rows = options.batch_rows
    out = ffi.new("realm_runtime **")
    err = new_error()
    check(library().realm_runtime_create(native, out, err), err, "starting the engine")
    return out[0]


def _create_driver(runtime: Any) -> Any:
    out = ffi.new("shim_driver **")
    status = library().shim_driver_create(runtime, out)
    if status:
        raise status_error(status, None, "starting the engine")
    return out[0]


def fill_sampling(params: Any, sampling: Any, seed: int) -> list[Any]:
    """Fills a realm_sampling; returns what must stay alive as long as it."""
    params.temperature = sampling.temperature
    params.top_k = sampling.top_k
    params.top_p = sampling.top_p
    params.min_p = sampling.min_p
    params.repetition_penalty = sampling.repetition_penalty
    params.frequency_penalty = sampling.frequency_penalty
    params.presence_penalty = sampling.presence_penalty
    params.penalty_window = sampling.penalty_window
    params.seed = seed
    params.ignore_end = sampling.ignore_end
    params.bias_count = len(sampling.logit_bias)
    ids = ffi.new("uint32_t[]", list(sampling.logit_bias.keys()))
    values = ffi.new("float[]", [float(value) for value in sampling.logit_bias.values()])
    params.bias_ids = ids
    params.bias_values = values
    return [ids, values]


def _marshal(spec: RequestSpec, model: int, streaming: bool) -> tuple[Any, list[Any]]:
    request = ffi.new("shim_request *")
    keep = [ffi.from_buffer(data) for data in (spec.prompt, spec.stops, spec.extra)]
    request.model = model
    request.add_special = spec.add_special
    request.parse_special = spec.parse_special
    request.max_tokens = spec.max_tokens
    request.mode = spec.mode
    request.streaming = streaming
    request.keep_drawn, request.keep_likeliest = spec.logprobs, spec.top_logprobs
    request.priority = spec.priority
    request.deadline_ns = 0 if spec.deadline is None else max(1, round(spec.deadline * 1e9))
    request.prompt, request.prompt_size = keep[0], len(spec.prompt)
    request.stops, request.stops_size = keep[1], len(spec.stops)
    request.extra, request.extra_size = keep[2], len(spec.extra)
    keep += fill_sampling(request.params, spec.sampling, spec.seed)
    return request, keep


def _run_all(actions: list[Callable[[], None]]) -> None:
    for action in actions:
        action()


# ---- waiting in Python ----


def wait_for(future: Future[Any]) -> Any:
    """The future's result; signals get through meanwhile."""
    while True:
        try:
            return future.result(timeout=WAIT_SECONDS)
        except TimeoutError:
            if future.done():
                raise


def next_delivery(deliveries: queue.SimpleQueue[Delivery]) -> Delivery:
    while True:
        try:
            return deliveries.get(timeout=WAIT_SECONDS)
        except queue.Empty:
            continue


def wait_for_end(engine: Engine, guest: Guest, spec: RequestSpec) -> Ended:
    """Runs a request to its end; whatever interrupts the waiting (Ctrl-C above all) cancels it."""
    deliveries: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
    request = engine.start(guest, spec, streaming=False, deliver=deliveries.put)
    try:
        ended = next_delivery(deliveries)
    except BaseException:
        engine.cancel(request)
        raise
    assert isinstance(ended, Ended)
    return ended
