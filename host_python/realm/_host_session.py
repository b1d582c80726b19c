"""A session outside any guest, for what the host itself asks of a model: logits of given tokens, and speed.

Its context lives in the pump thread; the caller waits in Python for the ticket's end.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from ._engine import fill_sampling, wait_for
from ._library import check, ffi, library, new_error, status_error
from ._options import Sampling

if TYPE_CHECKING:
    import numpy

    from ._engine import Engine
    from ._model import SharedModel

READY = 2  # realm_ticket_state; from here on the ticket has ended


class HostSession:
    """Open it in a `with`."""

    def __init__(self, engine: Engine, model: SharedModel, kv_type: int, context_length: int = 0) -> None:
        self._engine = engine
        self._tag = engine.take_tag(host=True)
        self._waiting: dict[int, Future[None]] = {}
        self._context: Any = ffi.NULL
        self._session = 0
        self._alive: list[Any] = []  # memory the core writes to while a ticket runs
        engine.run(lambda: self._open(model, kv_type, context_length))

    def __enter__(self) -> HostSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._engine.run(self._close)

    def forward(self, ids: list[int]) -> None:
        self._run(lambda ticket, err: self._lib_forward(ids, ticket, err))

    def logits(self, ids: list[int], vocab_size: int) -> numpy.ndarray[Any, Any]:
        """float32 (len(ids), vocab_size)"""
        import numpy

        out = numpy.zeros((len(ids), vocab_size), dtype=numpy.float32)
        tokens = ffi.new("uint32_t[]", ids)
        target = ffi.from_buffer("float[]", out, require_writable=True)
        self._alive += [out, tokens, target]

        def submit(ticket: Any, err: Any) -> int:
            lib = library()
            return int(
                lib.realm_forward_logits(self._context, self._session, tokens, len(ids), target, ticket, err)
            )

        self._run(submit)
        return out

    def generate(self, ids: list[int], count: int) -> None:
        """Greedy decoding of exactly `count` tokens after the given ones."""
        params = ffi.new("realm_sampling *")
        sampling = Sampling(temperature=0.0, top_k=0, top_p=1.0, min_p=0.0, ignore_end=True)
        keep = fill_sampling(params, sampling, 0)
        tokens = ffi.new("uint32_t[]", ids)

        def submit(ticket: Any, err: Any) -> int:
            lib = library()
            return int(
                lib.realm_generate(self._context, self._session, tokens, len(ids), params, count, ticket, err)
            )

        self._run(submit)
        del keep

    def publish(self) -> tuple[int, int]:
        """Makes what the session holds public: the publication's number, and how many tokens it shares."""
        err, prefix, shared = new_error(), ffi.new("uint32_t *"), ffi.new("uint32_t *")

        def command() -> None:
            check(library().realm_prefix_publish(self._context, self._session, prefix, shared, err), err)

        self._engine.run(command)
        return int(prefix[0]), int(shared[0])

    def rewind(self) -> None:
        """Forgets all tokens."""
        err = new_error()

        def command() -> None:
            check(library().realm_session_rewind(self._context, self._session, 0, err), err)

        self._engine.run(command)

    # ---- in the pump thread ----

    def _open(self, model: SharedModel, kv_type: int, context_length: int) -> None:
        lib, err = library(), new_error()
        context, handle, session = ffi.new("realm_context **"), ffi.new("uint32_t *"), ffi.new("uint32_t *")
        check(lib.realm_context_create(self._engine.runtime, self._tag, 0, ffi.NULL, context, err), err)
        self._context = context[0]
        try:
            check(lib.realm_context_grant(self._context, model.pointer, handle, err), err)
            options = ffi.new("realm_session_options *")
            options.kv_type, options.context_length, options.no_prefix = kv_type, context_length, 1
            check(lib.realm_session_open(self._context, handle[0], options, session, err), err)
        except BaseException:
            self._close()
            raise
        self._session = session[0]
        self._engine.watch_tickets(self._tag, self._progress)

    def _close(self) -> None:
        self._engine.watch_tickets(self._tag, None)
        if self._context:
            library().realm_context_destroy(self._context)
            self._context = ffi.NULL

    def _lib_forward(self, ids: list[int], ticket: Any, err: Any) -> int:
        tokens = ffi.new("uint32_t[]", ids)
        return int(library().realm_forward(self._context, self._session, tokens, len(ids), ticket, err))

    def _run(self, submit: Callable[[Any, Any], int]) -> None:
        """Submits work in the pump and waits for its ticket's end."""
        future: Future[None] = Future()

        def command() -> None:
            ticket, err = ffi.new("uint32_t *"), new_error()
            check(submit(ticket, err), err)
            self._waiting[ticket[0]] = future
            self._look(ticket[0])

        self._engine.run(command)
        wait_for(future)

    def _look(self, ticket: int) -> None:
        """The ticket may have ended while it was submitted, before anyone watched."""
        state = ffi.new("uint32_t *")
        if not library().realm_ticket_get_state(self._context, ticket, state, ffi.NULL):
            self._progress(ticket, state[0])

    def _progress(self, ticket: int, state: int) -> None:
        if state < READY or ticket not in self._waiting:
            return
        future, err = self._waiting.pop(ticket), new_error()
        status = library().realm_ticket_error(self._context, ticket, err) if state > READY else 0
        library().realm_ticket_drop(self._context, ticket, ffi.NULL)
        if status:
            future.set_exception(status_error(status, err))
        else:
            future.set_result(None)
