"""A session outside any guest, for what the host itself asks of a model: logits of given tokens, and speed.

Its context lives in the pump thread; the caller waits in Python for the ticket's end.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from ._engine import fill_sampling, wait_for
from ._errors import error
from ._library import check, ffi, library, new_error, status_error
from ._options import Sampling

if TYPE_CHECKING:
    import numpy

    from ._engine import Engine
    from ._model import SharedModel

HOLD_NS = 1_000_000_000  # nobody here asks for tokens before the end
READY = 2  # realm_ticket_state; from here on the ticket has ended


class HostSession:
    """Open it in a `with`; without one the first work opens it, and close() is the caller's to call."""

    def __init__(
        self,
        engine: Engine,
        model: SharedModel,
        kv_type: int,
        context_length: int = 0,
        *,
        tenant: int = 0,  # whose limits and share it counts against; 0: the host's own
        priority: int = 0,
        deadline: float | None = None,
    ) -> None:
        self._engine = engine
        self._model = model
        self._tenant = tenant
        self._options: Any = ffi.new("realm_session_options *")
        self._options.kv_type, self._options.context_length = kv_type, context_length
        self._options.no_prefix, self._options.priority = tenant == 0, priority
        self._options.deadline_ns = 0 if deadline is None else max(1, round(deadline * 1e9))
        self._tag = engine.take_tag(host=True)
        self._waiting: dict[int, Future[None]] = {}
        self._context: Any = ffi.NULL
        self._session = 0
        self._closed = False
        self._alive: list[Any] = []  # memory the core writes to while a ticket runs

    def __enter__(self) -> HostSession:
        self._engine.run(self._open)
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.run(self._close)

    def close(self) -> None:
        """Soon, and without waiting; what runs fails with `closed`."""
        self._engine.submit(self._close)

    def forward(self, ids: list[int]) -> None:
        wait_for(self._submit(lambda ticket, err: self._lib_forward(ids, ticket, err)))

    def logits(self, ids: list[int], vocab_size: int) -> numpy.ndarray[Any, Any]:
        """float32 (len(ids), vocab_size)"""
        out, done = self.begin_logits(ids, vocab_size)
        wait_for(done)
        return out

    def begin_logits(self, ids: list[int], vocab_size: int) -> tuple[numpy.ndarray[Any, Any], Future[None]]:
        """The same without waiting: they are there when the future is done."""
        import numpy

        out = numpy.zeros((len(ids), vocab_size), dtype=numpy.float32)
        tokens = ffi.new("uint32_t[]", ids)
        target = ffi.from_buffer("float[]", out, require_writable=True)
        self._alive = [out, tokens, target]

        def submit(ticket: Any, err: Any) -> int:
            lib = library()
            return int(
                lib.realm_forward_logits(self._context, self._session, tokens, len(ids), target, ticket, err)
            )

        return out, self._submit(submit)

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

        wait_for(self._submit(submit))
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

    def _open(self) -> None:
        if self._closed:
            raise error("closed", "the session was closed")
        if self._context:
            return
        lib, err = library(), new_error()
        context, handle, session = ffi.new("realm_context **"), ffi.new("uint32_t *"), ffi.new("uint32_t *")
        runtime = self._engine.runtime
        check(lib.realm_context_create(runtime, self._tag, self._tenant, ffi.NULL, context, err), err)
        self._context = context[0]
        lib.realm_context_hold_progress(self._context, HOLD_NS)
        try:
            check(lib.realm_context_grant(self._context, self._model.pointer, handle, err), err)
            check(lib.realm_session_open(self._context, handle[0], self._options, session, err), err)
        except BaseException:
            self._close()
            raise
        self._session = session[0]
        self._engine.watch_tickets(self._tag, self._progress)

    def _close(self) -> None:
        self._closed = True
        self._engine.watch_tickets(self._tag, None)
        if self._context:
            library().realm_context_destroy(self._context)
            self._context = ffi.NULL
        for future in self._waiting.values():
            future.set_exception(error("closed", "the session was closed during its work"))
        self._waiting.clear()

    def _lib_forward(self, ids: list[int], ticket: Any, err: Any) -> int:
        tokens = ffi.new("uint32_t[]", ids)
        return int(library().realm_forward(self._context, self._session, tokens, len(ids), ticket, err))

    def _submit(self, submit: Callable[[Any, Any], int]) -> Future[None]:
        """Submits work in the pump; the future ends with its ticket."""
        future: Future[None] = Future()
        future.set_running_or_notify_cancel()  # who no longer waits cannot cancel it: close() does

        def command() -> None:
            ticket, err = ffi.new("uint32_t *"), new_error()
            try:
                self._open()
                check(submit(ticket, err), err)
            except BaseException as problem:
                future.set_exception(problem)
                return
            self._waiting[ticket[0]] = future
            self._look(ticket[0])

        self._engine.submit(command)
        return future

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
