"""A host for guest modules in Python over the generated glue, with a scripted model.

The "model" answers the n-th sample of a session with the n-th token of a script, so tests know every
token; `expected` says from Python's own decoder and string search what a guest has to make of it.
"""

from __future__ import annotations

import codecs
import ctypes
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import wasmtime
from realm._generated import abi

MODEL = 1
END = 0  # the end token's id
GREEDY = abi.Sampling(0.0, 0, 1.0, 0.0, 1.0, 0.0, 0.0, 0, 7, False)


@dataclass
class Session:
    tokens: list[int] = field(default_factory=list)
    sampled: int = 0
    layer: int = 0  # the next one, while a forward pass in slices is under way
    busy: bool = False
    logits: bool = False


@dataclass
class Ticket:
    session: Session | None
    wait: int  # how often it is still to be found pending
    complete: Callable[[], None]
    scores: list[float] = field(default_factory=list)
    tokens: list[abi.Token] = field(default_factory=list)  # not yet taken
    source: Any = None  # generate: yields the tokens
    error: abi.ErrorCode | None = None
    ended: bool = False


class ScriptedHost:
    """abi.Host for one realm. What it does not implement, the guests under test do not import."""

    def __init__(self, vocabulary: Sequence[bytes], script: Sequence[int], **options: Any) -> None:
        self.vocabulary = vocabulary
        self.script = script
        self.context_length: int = options.get("context_length", 1000)
        self.delay: int = options.get("delay", 1)
        self.layers: int = options.get("layers", 7)
        self.prompt_tokens: int | None = options.get("prompt_tokens")
        self.fail_forward: int | None = options.get("fail_forward")  # the n-th forward's ticket fails
        self.scores: Callable[[list[int], int], float] = options.get("scores", lambda before, token: -1.0)
        self.sessions: dict[int, Session] = {}
        self.tickets: dict[int, Ticket] = {}
        self.next_handle = 100
        self.forwards = 0
        self.slices: list[tuple[int, int]] = []
        self.cancelled = 0
        self.settings: list[tuple[abi.Sampling, list[abi.Bias]]] = []  # of every sample and generate
        self.text: dict[int, str] = {}

    # -- models --

    def model_info(self, model: int) -> abi.ModelProperties:
        self.check_model(model)
        return abi.ModelProperties(len(self.vocabulary), self.context_length, self.layers, 64, 1, END)

    def check_model(self, model: int) -> None:
        if model != MODEL:
            raise abi.InterfaceError(abi.ErrorCode.INVALID_HANDLE)

    def encode(self, model: int, text: bytes, add_special: bool, parse_special: bool) -> list[int]:
        """One token for each byte, 1000 + byte; 1 first when asked."""
        self.check_model(model)
        ids = [1] * add_special + [1000 + byte for byte in text]
        return ids if self.prompt_tokens is None else [1] * self.prompt_tokens

    def decode(self, model: int, tokens: Sequence[int], special: bool, text_start: bool) -> bytes:
        data = b"".join(self.vocabulary[token] for token in tokens)
        return data.removeprefix(b" ") if text_start else data

    # -- sessions --

    def handle(self) -> int:
        self.next_handle += 1
        return self.next_handle

    def session_open(self, model: int) -> int:
        self.check_model(model)
        handle = self.handle()
        self.sessions[handle] = Session()
        return handle

    def session_close(self, session: int) -> None:
        del self.sessions[session]

    def session_position(self, session: int) -> int:
        return len(self.sessions[session].tokens)

    def session_rewind(self, session: int, position: int) -> int:
        del self.sessions[session].tokens[position:]
        return position

    # -- work --

    def submit(self, session: Session, complete: Callable[[], None]) -> int:
        if session.busy:
            raise abi.InterfaceError(abi.ErrorCode.BUSY)
        session.busy = True
        handle = self.handle()
        self.tickets[handle] = Ticket(session, self.delay, complete)
        self.forwards += 1
        if self.forwards == self.fail_forward:
            self.tickets[handle].error = abi.ErrorCode.INTERNAL
        return handle

    def add(self, session: Session, tokens: Sequence[int]) -> None:
        if not tokens:
            raise abi.InterfaceError(abi.ErrorCode.INVALID_ARGUMENT)
        if len(session.tokens) + len(tokens) > self.context_length:
            raise abi.InterfaceError(abi.ErrorCode.CONTEXT_FULL)
        session.tokens += tokens

    def forward(self, session: int, tokens: Sequence[int]) -> int:
        state = self.sessions[session]
        self.add(state, tokens)
        return self.submit(state, lambda: setattr(state, "logits", True))

    def forward_layers(self, session: int, first: int, count: int, tokens: Sequence[int]) -> int:
        state = self.sessions[session]
        if first != state.layer or count == 0 or first + count > self.layers or bool(tokens) != (first == 0):
            raise abi.InterfaceError(abi.ErrorCode.INVALID_ARGUMENT)
        if first == 0:
            self.add(state, tokens)
        self.slices.append((first, count))
        state.layer = (first + count) % self.layers

        def complete() -> None:
            state.logits = state.layer == 0

        return self.submit(state, complete)

    def score(self, session: int, tokens: Sequence[int]) -> int:
        state = self.sessions[session]
        before = list(state.tokens)
        self.add(state, tokens)
        handle = self.submit(state, lambda: None)
        for token in tokens:
            self.tickets[handle].scores.append(self.scores(before, token))
            before.append(token)
        return handle

    def sample(self, session: int, params: abi.Sampling, biases: Sequence[abi.Bias]) -> abi.Token:
        state = self.sessions[session]
        if not state.logits or state.busy:
            raise abi.InterfaceError(abi.ErrorCode.INVALID_ARGUMENT)
        self.settings.append((params, list(biases)))
        return self.draw(state)

    def draw(self, state: Session) -> abi.Token:
        state.logits = False
        token = self.script[state.sampled] if state.sampled < len(self.script) else END
        state.sampled += 1
        return abi.Token(token, token == END, -0.5)

    def generate(
        self,
        session: int,
        tokens: Sequence[int],
        params: abi.Sampling,
        biases: Sequence[abi.Bias],
        max_tokens: int,
    ) -> int:
        state = self.sessions[session]
        self.settings.append((params, list(biases)))
        self.add(state, tokens)
        handle = self.submit(state, lambda: None)
        self.tickets[handle].source = self.run(state, max_tokens)
        return handle

    def run(self, state: Session, max_tokens: int) -> Any:
        for _ in range(max_tokens):
            token = self.draw(state)
            yield token
            if token.is_end or len(state.tokens) == self.context_length:
                return
            self.add(state, [token.id])

    # -- tickets --

    def ticket_ready(self, ticket: int) -> abi.TicketState:
        work = self.tickets[ticket]
        if work.ended:
            return abi.TicketState.FAILED if work.error else abi.TicketState.READY
        if work.wait:
            work.wait -= 1
            return abi.TicketState.PENDING
        work.wait = self.delay
        if work.error is None and work.source is not None and self.progress(work):
            return abi.TicketState.PROGRESS
        return self.end(work)

    def progress(self, work: Ticket) -> bool:
        """Two more tokens of generate; False when there are no more."""
        try:
            for _ in range(2):
                work.tokens.append(next(work.source))
        except StopIteration:
            return False
        except abi.InterfaceError as error:
            work.error = error.code
            return False
        return True

    def end(self, work: Ticket) -> abi.TicketState:
        work.ended = True
        if work.session is not None:
            work.session.busy = False
        if work.error is not None:
            return abi.TicketState.FAILED
        work.complete()
        return abi.TicketState.READY

    def ticket_error(self, ticket: int) -> abi.ErrorCode:
        error = self.tickets[ticket].error
        assert error is not None
        return error

    def ticket_tokens(self, ticket: int) -> list[abi.Token]:
        work = self.tickets[ticket]
        taken, work.tokens = work.tokens, []
        return taken

    def ticket_scores(self, ticket: int) -> list[float]:
        return self.tickets[ticket].scores

    def ticket_cancel(self, ticket: int) -> None:
        work = self.tickets[ticket]
        if not work.ended:
            self.cancelled += 1
            work.error = abi.ErrorCode.CANCELLED
            self.end(work)

    def ticket_drop(self, ticket: int) -> None:
        self.ticket_cancel(ticket)
        del self.tickets[ticket]

    # -- output --

    def emit(self, request: int, text: bytes) -> None:
        self.text[request] = self.text.get(request, "") + text.decode()  # strict: always whole characters


# ---- an instance ----


class Memory:
    """abi.GuestMemory of a wasmtime instance."""

    def __init__(self, store: wasmtime.Store) -> None:
        self.store = store
        self.memory: Any = None
        self.realloc: Any = None

    def view(self) -> memoryview:
        size = self.memory.data_len(self.store)
        address = ctypes.addressof(self.memory.data_ptr(self.store).contents)
        return memoryview((ctypes.c_uint8 * size).from_address(address)).cast("B")

    def allocate(self, size: int, align: int) -> int:
        return int(self.realloc(self.store, 0, 0, align, size)) & 0xFFFFFFFF

    @property
    def pages(self) -> int:
        return int(self.memory.size(self.store))


def core_type(names: str) -> list[wasmtime.ValType]:
    return [getattr(wasmtime.ValType, name)() for name in names.split()]


@functools.cache
def compiled(path: Path, changed: float) -> tuple[wasmtime.Engine, wasmtime.Module]:
    engine = wasmtime.Engine()
    return engine, wasmtime.Module.from_file(engine, str(path))


def instantiate(path: Path, host: ScriptedHost) -> tuple[abi.Guest, Memory]:
    engine, module = compiled(path, path.stat().st_mtime)
    store = wasmtime.Store(engine)
    memory = Memory(store)
    linker = wasmtime.Linker(engine)
    for item in abi.IMPORTS:
        kind = wasmtime.FuncType(core_type(item.params), core_type(item.results))
        linker.define_func(abi.IMPORT_MODULE, item.name, kind, partial(item.adapter, host, memory))
    exports = linker.instantiate(store, module).exports(store)
    memory.memory = exports["memory"]
    memory.realloc = exports["cabi_realloc"]

    def export(name: str) -> Callable[..., int] | None:
        function: Any = exports.get(name)
        return partial(function, store) if function is not None else None

    return abi.Guest(memory, export), memory


# ---- requests and what is expected of them ----


def request(**values: Any) -> abi.Request:
    stops = b"".join(len(stop).to_bytes(4, "little") + stop for stop in values.pop("stops", []))
    given: dict[str, Any] = {
        "model": MODEL, "prompt": b"prompt", "add_special": True, "parse_special": False, "stops": stops,
        "max_tokens": 100, "mode": abi.Mode.GRANULAR, "params": GREEDY, "biases": [], "extra": b"",
    }  # fmt: skip
    return abi.Request(**{**given, **values})


def drive(guest: abi.Guest, handle: int, polls: int = 10000) -> abi.Report:
    for _ in range(polls):
        if guest.poll(handle) is abi.Step.DONE:
            return guest.outcome(handle)
    raise AssertionError("the request does not end")


@dataclass(frozen=True)
class Expected:
    finish: abi.Finish
    text: str
    tokens: list[int]


def expected(
    vocabulary: Sequence[bytes], script: Sequence[int], stops: Sequence[str], max_tokens: int
) -> Expected:
    """What a request means: tokens up to an end, decoded by Python, cut at the stop string complete first."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text, tokens = "", list[int]()
    finish = abi.Finish.LENGTH
    for token in [*script, END][:max_tokens]:
        if token == END:
            finish = abi.Finish.END
            break
        tokens.append(token)
        text += decoder.decode(vocabulary[token])
        cut = first_stop(text, stops)
        if cut is not None:
            return Expected(abi.Finish.STOP, text[:cut], tokens)
    text += decoder.decode(b"", final=True)
    cut = first_stop(text, stops)
    return Expected(finish, text, tokens) if cut is None else Expected(abi.Finish.STOP, text[:cut], tokens)


def first_stop(text: str, stops: Sequence[str]) -> int | None:
    """Where the text ends: before the stop string that is complete first, of several the longest."""
    found = [(text.find(stop) + len(stop), -len(stop)) for stop in stops if stop in text]
    if not found:
        return None
    end, size = min(found)
    return end + size
