# Generated from guest_src/realm.wit by realm_build gen; do not edit.
"""The interface between host and guest by the canonical ABI; docs/interface.md describes it."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar, Protocol

Raw = bytes  # under a name that no field of a record has
Buffer = bytes | bytearray | memoryview
PACKAGE = "realm:orchestrator@0.1.0"
IMPORT_MODULE = "realm:orchestrator/host@0.1.0"
EXPORT_MODULE = "realm:orchestrator/guest@0.1.0"


class AbiError(ValueError):
    """The guest broke the canonical ABI: an address outside its memory, a value that does not exist."""


class InterfaceError(Exception):
    """The error of a result, in either direction."""

    def __init__(self, code: ErrorCode) -> None:
        super().__init__(code.wit_name)
        self.code = code


class GuestMemory(Protocol):
    """The memory of one instance."""

    def view(self) -> memoryview:
        """All of it, writable, as it is now: any call into the guest may move it."""

    def allocate(self, size: int, align: int) -> int:
        """The guest's cabi_realloc for new memory: its address."""


def span(memory: Buffer, address: int, count: int, size: int, align: int) -> slice:
    """Where `count` items of `size` bytes stand, once checked to be aligned and inside the memory."""
    if address % align or address + count * size > len(memory):
        raise AbiError(f"{count} items of {size} bytes at address {address} are not inside the memory")
    return slice(address, address + count * size)


def read_bytes(memory: Buffer, address: int, count: int) -> bytes:
    return bytes(memory[span(memory, address, count, 1, 1)])


def read_values(memory: Buffer, address: int, count: int, code: str) -> tuple[int, ...]:
    size = struct.calcsize(code)
    return struct.unpack(f"<{count}{code}", memory[span(memory, address, count, size, size)])


def read_items(
    memory: Buffer, address: int, count: int, layout: struct.Struct, align: int
) -> Iterator[tuple[Any, ...]]:
    return layout.iter_unpack(memory[span(memory, address, count, layout.size, align)])


def write_list(memory: GuestMemory, data: bytes, count: int, align: int) -> tuple[int, int]:
    """Puts a list's bytes into the guest: its address and length."""
    if not data:
        return align, 0
    address = memory.allocate(len(data), align)
    view = memory.view()
    view[span(view, address, len(data), 1, 1)] = data
    return address, count


def write_values(memory: GuestMemory, values: Sequence[int | float], code: str) -> tuple[int, int]:
    data = struct.pack(f"<{len(values)}{code}", *values)
    return write_list(memory, data, len(values), struct.calcsize(code))


def write_error(memory: GuestMemory, address: int, offset: int, code: ErrorCode) -> None:
    """Writes the error case of a result whose payload stands at `offset`."""
    view = memory.view()
    span(view, address, 1, offset + 1, 1)
    view[address] = 1
    view[address + offset] = code


class _NamedEnum(IntEnum):
    @property
    def wit_name(self) -> str:
        """The name in the interface's own spelling, for example "context-full"."""
        return self.name.lower().replace("_", "-")


class ErrorCode(_NamedEnum):
    """
    Stable codes of every failure, the same in every host. In C: REALM_E_<NAME> = index + 1, REALM_OK = 0.
    """

    # A value is outside its allowed range.
    INVALID_ARGUMENT = 0
    # A handle that was never given to this realm, or is closed.
    INVALID_HANDLE = 1
    # Memory could not be allocated.
    OUT_OF_MEMORY = 2
    # The file does not exist.
    NOT_FOUND = 3
    # The file exists but cannot be read or mapped.
    IO = 4
    # The bytes are not a well-formed GGUF file.
    INVALID_GGUF = 5
    # A GGUF version other than 2 and 3, or a byte order this build cannot read.
    UNSUPPORTED_GGUF = 6
    # A tensor of a block type the core cannot compute with.
    UNSUPPORTED_TENSOR_TYPE = 7
    # An architecture no plan is known for.
    UNSUPPORTED_ARCHITECTURE = 8
    # A tokenizer or pre-tokenizer the core does not know.
    UNSUPPORTED_TOKENIZER = 9
    # Metadata and tensors do not fit each other.
    INVALID_MODEL = 10
    # The tokenizer's metadata is inconsistent.
    INVALID_TOKENIZER = 11
    # The file holds only a vocabulary.
    NO_WEIGHTS = 12
    # The session's context length is used up.
    CONTEXT_FULL = 13
    # A limit of the realm or of the runtime would be exceeded.
    LIMIT_EXCEEDED = 14
    # The session already has work in flight.
    BUSY = 15
    # The work was cancelled.
    CANCELLED = 16
    # The object was closed.
    CLOSED = 17
    # The guest waits for nothing: pending with no open ticket.
    STALLED = 18
    # A time limit ran out.
    TIMED_OUT = 19
    # The guest trapped.
    GUEST_TRAP = 20
    # The guest asked for more memory than it may have.
    GUEST_MEMORY = 21
    # The module does not implement the interface.
    GUEST_INVALID = 22
    # This machine or build does not have the backend that was asked for.
    BACKEND_UNAVAILABLE = 23
    # The chat template is missing, broken or over its limits.
    TEMPLATE_ERROR = 24
    # Not possible with this model or build.
    UNSUPPORTED = 25
    # A fault of Realm itself: please report it.
    INTERNAL = 26
    # The device that computes (a GPU) was lost, and all it held: load the model again.
    DEVICE_LOST = 27


@dataclass(frozen=True, slots=True)
class ModelProperties:
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<IIIIII")
    ALIGN: ClassVar[int] = 4

    vocab_size: int
    context_length: int
    layer_count: int
    embedding_length: int
    # Token ids; 0xffffffff when the model has none.
    bos: int
    eos: int

    def pack(self) -> Raw:
        return self.LAYOUT.pack(
            self.vocab_size, self.context_length, self.layer_count, self.embedding_length, self.bos, self.eos
        )

    @classmethod
    def unpack(cls, memory: Buffer, address: int) -> ModelProperties:
        place = span(memory, address, 1, cls.LAYOUT.size, cls.ALIGN)
        return cls(*cls.LAYOUT.unpack(memory[place]))


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is drawn. 0 or 1 switches a filter off as said at each."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<fIfffffIQ?7x")
    ALIGN: ClassVar[int] = 8

    # 0: greedy.
    temperature: float
    # 0: off.
    top_k: int
    # 1: off.
    top_p: float
    # 0: off.
    min_p: float
    # 1: off.
    repetition_penalty: float
    # 0: off.
    frequency_penalty: float
    # 0: off.
    presence_penalty: float
    # How many of the last tokens the penalties look at; 0: 64.
    penalty_window: int
    seed: int
    # End tokens neither stop nor are drawn.
    ignore_end: bool

    def pack(self) -> Raw:
        return self.LAYOUT.pack(
            self.temperature,
            self.top_k,
            self.top_p,
            self.min_p,
            self.repetition_penalty,
            self.frequency_penalty,
            self.presence_penalty,
            self.penalty_window,
            self.seed,
            self.ignore_end,
        )

    @classmethod
    def unpack(cls, memory: Buffer, address: int) -> Sampling:
        place = span(memory, address, 1, cls.LAYOUT.size, cls.ALIGN)
        return cls(*cls.LAYOUT.unpack(memory[place]))


@dataclass(frozen=True, slots=True)
class Bias:
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<If")
    ALIGN: ClassVar[int] = 4

    token: int
    value: float

    def pack(self) -> Raw:
        return self.LAYOUT.pack(self.token, self.value)

    @classmethod
    def unpack(cls, memory: Buffer, address: int) -> Bias:
        place = span(memory, address, 1, cls.LAYOUT.size, cls.ALIGN)
        return cls(*cls.LAYOUT.unpack(memory[place]))


@dataclass(frozen=True, slots=True)
class Token:
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<I?3xf")
    ALIGN: ClassVar[int] = 4

    id: int
    is_end: bool
    # Natural log of its probability under the unmodified logits.
    logprob: float

    def pack(self) -> Raw:
        return self.LAYOUT.pack(self.id, self.is_end, self.logprob)

    @classmethod
    def unpack(cls, memory: Buffer, address: int) -> Token:
        place = span(memory, address, 1, cls.LAYOUT.size, cls.ALIGN)
        return cls(*cls.LAYOUT.unpack(memory[place]))


class TicketState(_NamedEnum):
    PENDING = 0
    # generate only: tokens can be taken, more will come.
    PROGRESS = 1
    READY = 2
    FAILED = 3


@dataclass(frozen=True, slots=True)
class CacheInfo:
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<QQQQQ")
    ALIGN: ClassVar[int] = 8

    layers: int
    bytes: int
    hits: int
    misses: int
    evictions: int

    def pack(self) -> Raw:
        return self.LAYOUT.pack(self.layers, self.bytes, self.hits, self.misses, self.evictions)

    @classmethod
    def unpack(cls, memory: Buffer, address: int) -> CacheInfo:
        place = span(memory, address, 1, cls.LAYOUT.size, cls.ALIGN)
        return cls(*cls.LAYOUT.unpack(memory[place]))


class Mode(_NamedEnum):
    # encode, forward, sample, decode as separate imports.
    GRANULAR = 0
    # one generate import.
    WHOLE = 1
    # granular, with the forward pass split into layer slices by forward-layers.
    LAYERS = 2


@dataclass(frozen=True, slots=True)
class Request:
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<III??2xIIIB3x48sIIII")
    ALIGN: ClassVar[int] = 8

    model: int
    # The rendered prompt (chat templates are rendered by the host, which marks them with parse-special).
    prompt: bytes
    add_special: bool
    parse_special: bool
    # Stop strings, each preceded by its length as u32 little-endian.
    stops: bytes
    max_tokens: int
    mode: Mode
    params: Sampling
    biases: Sequence[Bias]
    # An own guest's parameters, opaque to the host.
    extra: bytes

    def pack(self, memory: GuestMemory) -> Raw:
        """The record's own bytes; its lists are put into the guest's memory."""
        return self.LAYOUT.pack(
            self.model,
            *write_list(memory, self.prompt, len(self.prompt), 1),
            self.add_special,
            self.parse_special,
            *write_list(memory, self.stops, len(self.stops), 1),
            self.max_tokens,
            self.mode,
            self.params.pack(),
            *write_list(memory, b"".join(item.pack() for item in self.biases), len(self.biases), 4),
            *write_list(memory, self.extra, len(self.extra), 1),
        )

    @classmethod
    def unpack(cls, memory: Buffer, address: int) -> Request:
        place = span(memory, address, 1, cls.LAYOUT.size, cls.ALIGN)
        (
            model,
            prompt,
            prompt_len,
            add_special,
            parse_special,
            stops,
            stops_len,
            max_tokens,
            mode,
            params,
            biases,
            biases_len,
            extra,
            extra_len,
        ) = cls.LAYOUT.unpack(memory[place])
        return cls(
            model,
            read_bytes(memory, prompt, prompt_len),
            add_special,
            parse_special,
            read_bytes(memory, stops, stops_len),
            max_tokens,
            Mode(mode),
            Sampling.unpack(params, 0),
            [Bias(*item) for item in read_items(memory, biases, biases_len, Bias.LAYOUT, Bias.ALIGN)],
            read_bytes(memory, extra, extra_len),
        )


class Step(_NamedEnum):
    PENDING = 0
    OUTPUT = 1
    DONE = 2


class Finish(_NamedEnum):
    END = 0
    STOP = 1
    LENGTH = 2
    CANCELLED = 3
    FAILED = 4


@dataclass(frozen=True, slots=True)
class Report:
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<BB2xIIIII")
    ALIGN: ClassVar[int] = 4

    finish: Finish
    # Why, when finish is failed.
    error: ErrorCode
    prompt_tokens: int
    # The generated tokens, without an end token; with a stop string, up to the token that completed it.
    tokens: Sequence[int]
    # An own guest's result, opaque to the host.
    extra: bytes

    def pack(self, memory: GuestMemory) -> Raw:
        """The record's own bytes; its lists are put into the guest's memory."""
        return self.LAYOUT.pack(
            self.finish,
            self.error,
            self.prompt_tokens,
            *write_values(memory, self.tokens, "I"),
            *write_list(memory, self.extra, len(self.extra), 1),
        )

    @classmethod
    def unpack(cls, memory: Buffer, address: int) -> Report:
        place = span(memory, address, 1, cls.LAYOUT.size, cls.ALIGN)
        finish, error, prompt_tokens, tokens, tokens_len, extra, extra_len = cls.LAYOUT.unpack(memory[place])
        return cls(
            Finish(finish),
            ErrorCode(error),
            prompt_tokens,
            read_values(memory, tokens, tokens_len, "I"),
            read_bytes(memory, extra, extra_len),
        )


class Host(Protocol):
    """The imports as methods. A result's error is raised as InterfaceError."""

    def model_info(self, model: int) -> ModelProperties:
        """The n-th model granted to this realm is handle n (1, 2, ...)."""

    def encode(self, model: int, text: bytes, add_special: bool, parse_special: bool) -> Sequence[int]:
        """Text -> token ids. Special tokens written in the text are only parsed when asked."""

    def decode(self, model: int, tokens: Sequence[int], special: bool, text_start: bool) -> bytes:
        """
        Token ids -> bytes, which may end inside a UTF-8 character. text-start undoes the space some
        tokenizers put first.
        """

    def session_open(self, model: int) -> int: ...

    def session_close(self, session: int) -> None: ...

    def session_position(self, session: int) -> int: ...

    def session_rewind(self, session: int, position: int) -> int: ...

    def forward(self, session: int, tokens: Sequence[int]) -> int:
        """
        Submits tokens; returns a ticket. When it is ready the logits after the last token can be sampled.
        """

    def forward_layers(self, session: int, first: int, count: int, tokens: Sequence[int]) -> int:
        """The same for layers [first, first + count); tokens only with the first slice."""

    def score(self, session: int, tokens: Sequence[int]) -> int:
        """Like forward; the ticket yields the log probability of each token given those before it."""

    def sample(self, session: int, params: Sampling, biases: Sequence[Bias]) -> Token: ...

    def generate(
        self, session: int, tokens: Sequence[int], params: Sampling, biases: Sequence[Bias], max_tokens: int
    ) -> int:
        """
        The whole loop in one call; the ticket yields tokens as they come. An end token that ends it is
        yielded too, as the last
        one. When the context is full the ticket is ready with fewer tokens than asked for.
        """

    def ticket_ready(self, ticket: int) -> TicketState: ...

    def ticket_error(self, ticket: int) -> ErrorCode: ...

    def ticket_tokens(self, ticket: int) -> Sequence[Token]: ...

    def ticket_scores(self, ticket: int) -> Sequence[float]: ...

    def ticket_tensor(self, ticket: int) -> int: ...

    def ticket_cancel(self, ticket: int) -> None: ...

    def ticket_drop(self, ticket: int) -> None: ...

    def tensor_create(self, rows: int, cols: int, data: Sequence[float]) -> int:
        """Host tensors: f32, row-major, charged to the realm's limits."""

    def tensor_weight(self, model: int, name: str) -> int: ...

    def tensor_read(self, tensor: int) -> Sequence[float]: ...

    def tensor_drop(self, tensor: int) -> None: ...

    def matmul(self, a: int, b: int) -> int:
        """a (m, k) @ b (k, n), by ticket."""

    def matmul_transposed(self, a: int, b: int) -> int:
        """a (m, k) @ b (n, k) transposed, by ticket."""

    def store_layer(self, address: int, tensor: int) -> int:
        """Keeps a copy of a tensor under a 64-bit address."""

    def load_layer(self, address: int) -> int:
        """Brings it back, by ticket."""

    def cache_stats(self) -> CacheInfo: ...

    def emit(self, request: int, text: bytes) -> None:
        """Text of a running request for the application; always whole UTF-8 characters."""

    def log(self, level: int, text: str) -> None:
        """level: 0 debug, 1 info, 2 warning, 3 error."""


def import_model_info(host: Host, memory: GuestMemory, model: int, result: int) -> None:
    model &= 0xFFFFFFFF
    result &= 0xFFFFFFFF
    try:
        value = host.model_info(model)
    except InterfaceError as error:
        return write_error(memory, result, 4, error.code)
    raw = value.pack()
    view = memory.view()
    span(view, result, 1, 28, 4)
    view[result + 4 : result + 28] = raw
    view[result] = 0
    return None


def import_encode(
    host: Host,
    memory: GuestMemory,
    model: int,
    text: int,
    text_len: int,
    add_special: int,
    parse_special: int,
    result: int,
) -> None:
    model &= 0xFFFFFFFF
    text &= 0xFFFFFFFF
    text_len &= 0xFFFFFFFF
    add_special &= 0xFFFFFFFF
    parse_special &= 0xFFFFFFFF
    result &= 0xFFFFFFFF
    view = memory.view()
    text_value = read_bytes(view, text, text_len)
    try:
        value = host.encode(model, text_value, bool(add_special), bool(parse_special))
    except InterfaceError as error:
        return write_error(memory, result, 4, error.code)
    raw = struct.pack("<II", *write_values(memory, value, "I"))
    view = memory.view()
    span(view, result, 1, 12, 4)
    view[result + 4 : result + 12] = raw
    view[result] = 0
    return None


def import_decode(
    host: Host,
    memory: GuestMemory,
    model: int,
    tokens: int,
    tokens_len: int,
    special: int,
    text_start: int,
    result: int,
) -> None:
    model &= 0xFFFFFFFF
    tokens &= 0xFFFFFFFF
    tokens_len &= 0xFFFFFFFF
    special &= 0xFFFFFFFF
    text_start &= 0xFFFFFFFF
    result &= 0xFFFFFFFF
    view = memory.view()
    tokens_value = read_values(view, tokens, tokens_len, "I")
    try:
        value = host.decode(model, tokens_value, bool(special), bool(text_start))
    except InterfaceError as error:
        return write_error(memory, result, 4, error.code)
    raw = struct.pack("<II", *write_list(memory, value, len(value), 1))
    view = memory.view()
    span(view, result, 1, 12, 4)
    view[result + 4 : result + 12] = raw
    view[result] = 0
    return None


def import_session_open(host: Host, memory: GuestMemory, model: int, result: int) -> None:
    model &= 0xFFFFFFFF
    result &= 0xFFFFFFFF
    try:
        value = host.session_open(model)
    except InterfaceError as error:
        return write_error(memory, result, 4, error.code)
    raw = struct.pack("<I", value)
    view = memory.view()
    span(view, result, 1, 8, 4)
    view[result + 4 : result + 8] = raw
    view[result] = 0
    return None


def import_session_close(host: Host, memory: GuestMemory, session: int) -> None:
    session &= 0xFFFFFFFF
    host.session_close(session)


def import_session_position(host: Host, memory: GuestMemory, session: int, result: int) -> None:
    session &= 0xFFFFFFFF
    result &= 0xFFFFFFFF
    try:
        value = host.session_position(session)
    except InterfaceError as error:
        return write_error(memory, result, 4, error.code)
    raw = struct.pack("<I", value)
    view = memory.view()
    span(view, result, 1, 8, 4)
    view[result + 4 : result + 8] = raw
    view[result] = 0
    return None


def import_session_rewind(host: Host, memory: GuestMemory, session: int, position: int, result: int) -> None:
    session &= 0xFFFFFFFF
    position &= 0xFFFFFFFF
    result &= 0xFFFFFFFF
    try:
        value = host.session_rewind(session, position)
    except InterfaceError as error:
        return write_error(memory, result, 4, error.code)
    raw = struct.pack("<I", value)
    view = memory.view()
    span(view, result, 1, 8, 4)
    view[result + 4 : result + 8] = raw
    view[result] = 0
    return None


def import_forward(
    host: Host, memory: GuestMemory, session: int, tokens: int, tokens_len: int, result: int
) -> None:
    session &= 0xFFFFFFFF
    tokens &= 0xFFFFFFFF
    tokens_len &= 0xFFFFFFFF
    result &= 0xFFFFFFFF
    view = memory.view()
    tokens_value = read_values(view, tokens, tokens_len, "I")
    try:
        value = host.forward(session, tokens_value)
    except InterfaceError as error:
        return write_error(memory, result, 4, error.code)
    raw = struct.pack("<I", value)
    view = memory.view()
    span(view, result, 1, 8, 4)
    view[result + 4 : result + 8] = raw
    view[result] = 0
    return None


def import_forward_layers(
    host: Host,
    memory: GuestMemory,
    session: int,
    first: int,
    count: int,
    tokens: int,
    tokens_len: int,
    result: int,
) -> None:
    session &= 0xFFFFFFFF
    first &= 0xFFFFFFFF
    count &= 0xFFFFFFFF
    tokens &= 0xFFFFFFFF
    tokens_len &= 0xFFFFFFFF
    result &= 0xFFFFFFFF
    view = memory.view()
    tokens_value = read_values(view, tokens, tokens_len, "I")
    try:
        value = host.forward_layers(session, first, count, tokens_value)
    except InterfaceError as error:
        return write_error(memory, result, 4, error.code)
    raw = struct.pack("<I", value)
    view = memory.view()
    span(view, result, 1, 8, 4)
    view[result + 4 : result + 8] = raw
    view[result] = 0
    return None


def import_score(
    host: Host, memory: GuestMemory, session: int, tokens: int, tokens_len: int, result: int
) -> None:
    session &= 0xFFFFFFFF
    tokens &= 0xFFFFFFFF
    tokens_len &= 0xFFFFFFFF
    result &= 0xFFFFFFFF
    view = memory.view()
    tokens_value = read_values(view, tokens, tokens_len, "I")
    try:
        value = host.score(session, tokens_value)
    except InterfaceError as error:
        return write_error(memory, result, 4, error.code)
    raw = struct.pack("<I", value)
    view = memory.view()
    span(view, result, 1, 8, 4)
    view[result + 4 : result + 8] = raw
    view[result] = 0
    return None


def import_sample(
    host: Host,
    memory: GuestMemory,
    session: int,
    params_temperature: float,
    params_top_k: int,
    params_top_p: float,
    params_min_p: float,
    params_repetition_penalty: float,
    params_frequency_penalty: float,
    params_presence_penalty: float,
    params_penalty_window: int,
    params_seed: int,
    params_ignore_end: int,
    biases: int,
    biases_len: int,
    result: int,
) -> None:
    session &= 0xFFFFFFFF
    params_top_k &= 0xFFFFFFFF
    params_penalty_window &= 0xFFFFFFFF
    params_seed &= 0xFFFFFFFFFFFFFFFF
    params_ignore_end &= 0xFFFFFFFF
    biases &= 0xFFFFFFFF
    biases_len &= 0xFFFFFFFF
    result &= 0xFFFFFFFF
    view = memory.view()
    params_value = Sampling(
        params_temperature,
        params_top_k,
        params_top_p,
        params_min_p,
        params_repetition_penalty,
        params_frequency_penalty,
        params_presence_penalty,
        params_penalty_window,
        params_seed,
        bool(params_ignore_end),
    )
    biases_value = [Bias(*item) for item in read_items(view, biases, biases_len, Bias.LAYOUT, Bias.ALIGN)]
    try:
        value = host.sample(session, params_value, biases_value)
    except InterfaceError as error:
        return write_error(memory, result, 4, error.code)
    raw = value.pack()
    view = memory.view()
    span(view, result, 1, 16, 4)
    view[result + 4 : result + 16] = raw
    view[result] = 0
    return None


def import_generate(
    host: Host,
    memory: GuestMemory,
    session: int,
    tokens: int,
    tokens_len: int,
    params_temperature: float,
    params_top_k: int,
    params_top_p: float,
    params_min_p: float,
    params_repetition_penalty: float,
    params_frequency_penalty: float,
    params_presence_penalty: float,
    params_penalty_window: int,
    params_seed: int,
    params_ignore_end: int,
    biases: int,
    biases_len: int,
    max_tokens: int,
    result: int,
) -> None:
    session &= 0xFFFFFFFF
    tokens &= 0xFFFFFFFF
    tokens_len &= 0xFFFFFFFF
    params_top_k &= 0xFFFFFFFF
    params_penalty_window &= 0xFFFFFFFF
    params_seed &= 0xFFFFFFFFFFFFFFFF
    params_ignore_end &= 0xFFFFFFFF
    biases &= 0xFFFFFFFF
    biases_len &= 0xFFFFFFFF
    max_tokens &= 0xFFFFFFFF
    result &= 0xFFFFFFFF
    view = memory.view()
    tokens_value = read_values(view, tokens, tokens_len, "I")
    params_value = Sampling(
        params_temperature,
        params_top_k,
        params_top_p,
        params_min_p,
        params_repetition_penalty,
        params_frequency_penalty,
        params_presence_penalty,
        params_penalty_window,
        params_seed,
        bool(params_ignore_end),
    )
    biases_value = [Bias(*item) for item in read_items(view, biases, biases_len, Bias.LAYOUT, Bias.ALIGN)]
    try:
        value = host.generate(session, tokens_value, params_value, biases_value, max_tokens)
    except InterfaceError as error:
        return write_error(memory, result, 4, error.code)
    raw = struct.pack("<I", value)
    view = memory.view()
    span(view, result, 1, 8, 4)
    view[result + 4 : result + 8] = raw
    view[result] = 0
    return None


def import_ticket_ready(host: Host, memory: GuestMemory, ticket: int) -> int:
    ticket &= 0xFFFFFFFF
    return host.ticket_ready(ticket)


def import_ticket_error(host: Host, memory: GuestMemory, ticket: int) -> int:
    ticket &= 0xFFFFFFFF
    return host.ticket_error(ticket)


def import_ticket_tokens(host: Host, memory: GuestMemory, ticket: int, result: int) -> None:
    ticket &= 0xFFFFFFFF
    result &= 0xFFFFFFFF
    try:
        value = host.ticket_tokens(ticket)
    except InterfaceError as error:
        return write_error(memory, result, 4, error.code)
    raw = struct.pack("<II", *write_list(memory, b"".join(item.pack() for item in value), len(value), 4))
    view = memory.view()
    span(view, result, 1, 12, 4)
    view[result + 4 : result + 12] = raw
    view[result] = 0
    return None


def import_ticket_scores(host: Host, memory: GuestMemory, ticket: int, result: int) -> None:
    ticket &= 0xFFFFFFFF
    result &= 0xFFFFFFFF
    try:
        value = host.ticket_scores(ticket)
    except InterfaceError as error:
        return write_error(memory, result, 4, error.code)
    raw = struct.pack("<II", *write_values(memory, value, "f"))
    view = memory.view()
    span(view, result, 1, 12, 4)
    view[result + 4 : result + 12] = raw
    view[result] = 0
    return None


def import_ticket_tensor(host: Host, memory: GuestMemory, ticket: int, result: int) -> None:
    ticket &= 0xFFFFFFFF
    result &= 0xFFFFFFFF
    try:
        value = host.ticket_tensor(ticket)
    except InterfaceError as error:
        return write_error(memory, result, 4, error.code)
    raw = struct.pack("<I", value)
    view = memory.view()
    span(view, result, 1, 8, 4)
    view[result + 4 : result + 8] = raw
    view[result] = 0
    return None


def import_ticket_cancel(host: Host, memory: GuestMemory, ticket: int) -> None:
    ticket &= 0xFFFFFFFF
    host.ticket_cancel(ticket)


def import_ticket_drop(host: Host, memory: GuestMemory, ticket: int) -> None:
    ticket &= 0xFFFFFFFF
    host.ticket_drop(ticket)


def import_tensor_create(
    host: Host, memory: GuestMemory, rows: int, cols: int, data: int, data_len: int, result: int
) -> None:
    rows &= 0xFFFFFFFF
    cols &= 0xFFFFFFFF
    data &= 0xFFFFFFFF
    data_len &= 0xFFFFFFFF
    result &= 0xFFFFFFFF
    view = memory.view()
    data_value = read_values(view, data, data_len, "f")
    try:
        value = host.tensor_create(rows, cols, data_value)
    except InterfaceError as error:
        return write_error(memory, result, 4, error.code)
    raw = struct.pack("<I", value)
    view = memory.view()
    span(view, result, 1, 8, 4)
    view[result + 4 : result + 8] = raw
    view[result] = 0
    return None


def import_tensor_weight(
    host: Host, memory: GuestMemory, model: int, name: int, name_len: int, result: int
) -> None:
    model &= 0xFFFFFFFF
    name &= 0xFFFFFFFF
    name_len &= 0xFFFFFFFF
    result &= 0xFFFFFFFF
    view = memory.view()
    name_value = read_bytes(view, name, name_len).decode()
    try:
        value = host.tensor_weight(model, name_value)
    except InterfaceError as error:
        return write_error(memory, result, 4, error.code)
    raw = struct.pack("<I", value)
    view = memory.view()
    span(view, result, 1, 8, 4)
    view[result + 4 : result + 8] = raw
    view[result] = 0
    return None


def import_tensor_read(host: Host, memory: GuestMemory, tensor: int, result: int) -> None:
    tensor &= 0xFFFFFFFF
    result &= 0xFFFFFFFF
    try:
        value = host.tensor_read(tensor)
    except InterfaceError as error:
        return write_error(memory, result, 4, error.code)
    raw = struct.pack("<II", *write_values(memory, value, "f"))
    view = memory.view()
    span(view, result, 1, 12, 4)
    view[result + 4 : result + 12] = raw
    view[result] = 0
    return None


def import_tensor_drop(host: Host, memory: GuestMemory, tensor: int) -> None:
    tensor &= 0xFFFFFFFF
    host.tensor_drop(tensor)


def import_matmul(host: Host, memory: GuestMemory, a: int, b: int, result: int) -> None:
    a &= 0xFFFFFFFF
    b &= 0xFFFFFFFF
    result &= 0xFFFFFFFF
    try:
        value = host.matmul(a, b)
    except InterfaceError as error:
        return write_error(memory, result, 4, error.code)
    raw = struct.pack("<I", value)
    view = memory.view()
    span(view, result, 1, 8, 4)
    view[result + 4 : result + 8] = raw
    view[result] = 0
    return None


def import_matmul_transposed(host: Host, memory: GuestMemory, a: int, b: int, result: int) -> None:
    a &= 0xFFFFFFFF
    b &= 0xFFFFFFFF
    result &= 0xFFFFFFFF
    try:
        value = host.matmul_transposed(a, b)
    except InterfaceError as error:
        return write_error(memory, result, 4, error.code)
    raw = struct.pack("<I", value)
    view = memory.view()
    span(view, result, 1, 8, 4)
    view[result + 4 : result + 8] = raw
    view[result] = 0
    return None


def import_store_layer(host: Host, memory: GuestMemory, address: int, tensor: int, result: int) -> None:
    address &= 0xFFFFFFFFFFFFFFFF
    tensor &= 0xFFFFFFFF
    result &= 0xFFFFFFFF
    try:
        value = host.store_layer(address, tensor)
    except InterfaceError as error:
        return write_error(memory, result, 4, error.code)
    raw = struct.pack("<I", value)
    view = memory.view()
    span(view, result, 1, 8, 4)
    view[result + 4 : result + 8] = raw
    view[result] = 0
    return None


def import_load_layer(host: Host, memory: GuestMemory, address: int, result: int) -> None:
    address &= 0xFFFFFFFFFFFFFFFF
    result &= 0xFFFFFFFF
    try:
        value = host.load_layer(address)
    except InterfaceError as error:
        return write_error(memory, result, 4, error.code)
    raw = struct.pack("<I", value)
    view = memory.view()
    span(view, result, 1, 8, 4)
    view[result + 4 : result + 8] = raw
    view[result] = 0
    return None


def import_cache_stats(host: Host, memory: GuestMemory, result: int) -> None:
    result &= 0xFFFFFFFF
    value = host.cache_stats()
    raw = value.pack()
    view = memory.view()
    span(view, result, 1, 40, 8)
    view[result + 0 : result + 40] = raw


def import_emit(host: Host, memory: GuestMemory, request: int, text: int, text_len: int) -> None:
    request &= 0xFFFFFFFF
    text &= 0xFFFFFFFF
    text_len &= 0xFFFFFFFF
    view = memory.view()
    text_value = read_bytes(view, text, text_len)
    host.emit(request, text_value)


def import_log(host: Host, memory: GuestMemory, level: int, text: int, text_len: int) -> None:
    level &= 0xFFFFFFFF
    text &= 0xFFFFFFFF
    text_len &= 0xFFFFFFFF
    view = memory.view()
    text_value = read_bytes(view, text, text_len).decode()
    host.log(level, text_value)


@dataclass(frozen=True, slots=True)
class Import:
    name: str
    params: str  # core types, separated by a space
    results: str
    adapter: Callable[..., int | None]  # (host, memory, *core values)


IMPORTS: tuple[Import, ...] = (
    Import("model-info", "i32 i32", "", import_model_info),
    Import("encode", "i32 i32 i32 i32 i32 i32", "", import_encode),
    Import("decode", "i32 i32 i32 i32 i32 i32", "", import_decode),
    Import("session-open", "i32 i32", "", import_session_open),
    Import("session-close", "i32", "", import_session_close),
    Import("session-position", "i32 i32", "", import_session_position),
    Import("session-rewind", "i32 i32 i32", "", import_session_rewind),
    Import("forward", "i32 i32 i32 i32", "", import_forward),
    Import("forward-layers", "i32 i32 i32 i32 i32 i32", "", import_forward_layers),
    Import("score", "i32 i32 i32 i32", "", import_score),
    Import("sample", "i32 f32 i32 f32 f32 f32 f32 f32 i32 i64 i32 i32 i32 i32", "", import_sample),
    Import(
        "generate", "i32 i32 i32 f32 i32 f32 f32 f32 f32 f32 i32 i64 i32 i32 i32 i32 i32", "", import_generate
    ),
    Import("ticket-ready", "i32", "i32", import_ticket_ready),
    Import("ticket-error", "i32", "i32", import_ticket_error),
    Import("ticket-tokens", "i32 i32", "", import_ticket_tokens),
    Import("ticket-scores", "i32 i32", "", import_ticket_scores),
    Import("ticket-tensor", "i32 i32", "", import_ticket_tensor),
    Import("ticket-cancel", "i32", "", import_ticket_cancel),
    Import("ticket-drop", "i32", "", import_ticket_drop),
    Import("tensor-create", "i32 i32 i32 i32 i32", "", import_tensor_create),
    Import("tensor-weight", "i32 i32 i32 i32", "", import_tensor_weight),
    Import("tensor-read", "i32 i32", "", import_tensor_read),
    Import("tensor-drop", "i32", "", import_tensor_drop),
    Import("matmul", "i32 i32 i32", "", import_matmul),
    Import("matmul-transposed", "i32 i32 i32", "", import_matmul_transposed),
    Import("store-layer", "i64 i32 i32", "", import_store_layer),
    Import("load-layer", "i64 i32", "", import_load_layer),
    Import("cache-stats", "i32", "", import_cache_stats),
    Import("emit", "i32 i32 i32", "", import_emit),
    Import("log", "i32 i32 i32", "", import_log),
)


Export = Callable[..., int]  # of core values; what an export without a result returns is not used


def required(export: Callable[[str], Export | None], name: str) -> Export:
    function = export(name)
    if function is None:
        raise AbiError(f"the guest does not export {name}")
    return function


class Guest:
    """Typed calls of a guest's exports."""

    # name: core parameters, core results
    EXPORTS: ClassVar[Mapping[str, tuple[str, str]]] = {
        "realm:orchestrator/guest@0.1.0#start": ("i32", "i32"),
        "realm:orchestrator/guest@0.1.0#poll": ("i32", "i32"),
        "realm:orchestrator/guest@0.1.0#outcome": ("i32", "i32"),
        "realm:orchestrator/guest@0.1.0#cancel": ("i32", ""),
        "realm:orchestrator/guest@0.1.0#release": ("i32", ""),
    }

    def __init__(self, memory: GuestMemory, export: Callable[[str], Export | None]) -> None:
        self.memory = memory
        self._start = required(export, "realm:orchestrator/guest@0.1.0#start")
        self._poll = required(export, "realm:orchestrator/guest@0.1.0#poll")
        self._outcome = required(export, "realm:orchestrator/guest@0.1.0#outcome")
        self._post_outcome = export("cabi_post_realm:orchestrator/guest@0.1.0#outcome")
        self._cancel = required(export, "realm:orchestrator/guest@0.1.0#cancel")
        self._release = required(export, "realm:orchestrator/guest@0.1.0#release")

    def start(self, request: Request) -> int:
        """
        Returns the handle of a running request, to be polled at once. Fails only for what is wrong with the
        request itself
        (invalid-argument, limit-exceeded, out-of-memory); failures of the work are in the report.
        """
        memory = self.memory
        data = request.pack(memory)
        arguments = write_list(memory, data, len(data), request.ALIGN)[0]
        address = self._start(arguments) & 0xFFFFFFFF
        view = self.memory.view()
        span(view, address, 1, 8, 4)
        if view[address]:
            raise InterfaceError(ErrorCode(view[address + 4]))
        value = int(struct.unpack_from("<I", view, address + 4)[0])
        return value

    def poll(self, request: int) -> Step:
        """
        pending: wait for a ticket. output: the same, and text was emitted since the last poll. done: ask
        outcome.
        """
        address = self._poll(request) & 0xFFFFFFFF
        view = self.memory.view()
        span(view, address, 1, 2, 1)
        if view[address]:
            raise InterfaceError(ErrorCode(view[address + 1]))
        value = Step(view[address + 1])
        return value

    def outcome(self, request: int) -> Report:
        """The report of a request that is done; busy while it runs."""
        address = self._outcome(request) & 0xFFFFFFFF
        view = self.memory.view()
        span(view, address, 1, 28, 4)
        if view[address]:
            raise InterfaceError(ErrorCode(view[address + 4]))
        value = Report.unpack(view, address + 4)
        if self._post_outcome is not None:
            self._post_outcome(address)
        return value

    def cancel(self, request: int) -> None:
        """Ends a running request as cancelled; the text so far stands."""
        self._cancel(request)

    def release(self, request: int) -> None:
        """Forgets the request (cancelling it when it still runs) and frees what it held."""
        self._release(request)
