"""A thin, checked veneer over realm.h for tests of the core: no guest, no Python host, only the C API."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from realm._library import ffi, library

Floats = NDArray[np.float32]
PENDING, PROGRESS, READY, FAILED = range(4)
WAIT_NS = 20_000_000
PATIENCE = 1500  # waits of WAIT_NS: 30 s


class CoreError(Exception):
    def __init__(self, code: str, message: str, limit: str = "", value: int = 0, retry_ns: int = 0) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.limit = limit
        self.value = value
        self.retry_ns = retry_ns


def check(status: int, err: Any) -> None:
    if status != 0:
        name = ffi.string(library().realm_status_name(status)).decode()
        limit = ffi.string(library().realm_limit_name(err.limit)).decode()
        raise CoreError(name, ffi.string(err.message).decode(), limit, err.limit_value, err.retry_after_ns)


class Runtime:
    def __init__(self, **options: int) -> None:
        self.lib, self.err = library(), ffi.new("realm_error *")
        out = ffi.new("realm_runtime **")
        check(
            self.lib.realm_runtime_create(ffi.new("realm_runtime_options *", options), out, self.err),
            self.err,
        )
        self.handle = out[0]
        self.stepped = bool(options.get("no_driver"))

    def load(self, path: Path, **options: int) -> Any:
        loader, progress, model = ffi.new("realm_loader **"), ffi.new("float *"), ffi.new("realm_model **")
        settings = ffi.new("realm_model_options *", options)
        check(
            self.lib.realm_loader_begin(self.handle, str(path).encode(), settings, loader, self.err), self.err
        )
        while progress[0] < 1.0:
            status = self.lib.realm_loader_step(loader[0], progress, self.err)
            if status != 0:
                self.lib.realm_loader_abandon(loader[0])
                check(status, self.err)
        check(self.lib.realm_loader_finish(loader[0], model, self.err), self.err)
        return model[0]

    def close_model(self, model: Any) -> None:
        self.lib.realm_model_close(model)

    def stats(self) -> Any:
        stats = ffi.new("realm_runtime_stats *")
        self.lib.realm_runtime_get_stats(self.handle, stats)
        return stats

    def wait(self) -> int:
        """One turn of waiting; steps the engine where there is no driver thread."""
        if self.stepped:
            busy = ffi.new("uint32_t *")
            check(self.lib.realm_runtime_step(self.handle, 0, 1 << 16, busy, self.err), self.err)
        events = ffi.new("realm_completion[64]")
        return int(self.lib.realm_runtime_wait(self.handle, events, 64, 0 if self.stepped else WAIT_NS))

    def close(self) -> None:
        self.lib.realm_runtime_destroy(self.handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Context:
    def __init__(self, rt: Runtime, model: Any, *, tenant: int = 1, tag: int = 7, **limits: int) -> None:
        self.rt, self.lib, self.err, self.model = rt, rt.lib, ffi.new("realm_error *"), model
        out = ffi.new("realm_context **")
        created = self.lib.realm_context_create(
            rt.handle, tag, tenant, ffi.new("realm_limits *", limits), out, self.err
        )
        check(created, self.err)
        self.handle = out[0]
        self.model_handle = self._handle("realm_context_grant", model)
        info = ffi.new("realm_model_info *")
        self.lib.realm_model_get_info(model, info)
        self.info = info

    def _handle(self, function: str, *arguments: Any) -> int:
        out = ffi.new("uint32_t *")
        check(getattr(self.lib, function)(self.handle, *arguments, out, self.err), self.err)
        return int(out[0])

    def _call(self, function: str, *arguments: Any) -> None:
        check(getattr(self.lib, function)(self.handle, *arguments, self.err), self.err)

    def close(self) -> None:
        self.lib.realm_context_destroy(self.handle)

    # ---- sessions

    def open(self, **options: int) -> int:
        return self._handle(
            "realm_session_open", self.model_handle, ffi.new("realm_session_options *", options)
        )

    def close_session(self, session: int) -> None:
        self._call("realm_session_close", session)

    def position(self, session: int) -> int:
        return self._handle("realm_session_position", session)

    def rewind(self, session: int, position: int) -> None:
        self._call("realm_session_rewind", session, position)

    # ---- work

    def forward(self, session: int, tokens: Sequence[int]) -> int:
        return self._handle("realm_forward", session, list(tokens), len(tokens))

    def forward_layers(self, session: int, first: int, count: int, tokens: Sequence[int]) -> int:
        return self._handle("realm_forward_layers", session, first, count, list(tokens), len(tokens))

    def score(self, session: int, tokens: Sequence[int]) -> int:
        return self._handle("realm_score", session, list(tokens), len(tokens))

    def generate(self, session: int, tokens: Sequence[int], max_tokens: int, **params: Any) -> int:
        return self._handle(
            "realm_generate", session, list(tokens), len(tokens), sampling(**params), max_tokens
        )

    def sample(self, session: int, **params: Any) -> Any:
        out = ffi.new("realm_token *")
        check(self.lib.realm_sample(self.handle, session, sampling(**params), out, self.err), self.err)
        return out

    def forward_logits(self, session: int, tokens: Sequence[int]) -> Floats:
        out = np.zeros((len(tokens), self.info.vocab_size), dtype=np.float32)
        buffer = ffi.cast("float *", out.ctypes.data)
        self.finish(self._handle("realm_forward_logits", session, list(tokens), len(tokens), buffer))
        return out

    # ---- tickets

    def state(self, ticket: int) -> int:
        return self._handle("realm_ticket_get_state", ticket)

    def work(self, ticket: int) -> Any:
        out = ffi.new("realm_ticket_work *")
        check(self.lib.realm_ticket_get_work(self.handle, ticket, out, self.err), self.err)
        return out

    def cancel(self, ticket: int) -> None:
        self._call("realm_ticket_cancel", ticket)

    def wait(self, ticket: int) -> None:
        """Until the ticket is ready; raises why it failed."""
        for _ in range(PATIENCE * (1000 if self.rt.stepped else 1)):
            state = self.state(ticket)
            if state == FAILED:
                check(self.lib.realm_ticket_error(self.handle, ticket, self.err), self.err)
            if state == READY:
                return
            self.rt.wait()
        raise TimeoutError("the ticket never became ready")

    def finish(self, ticket: int) -> None:
        self.wait(ticket)
        self.drop(ticket)

    def drop(self, ticket: int) -> None:
        self._call("realm_ticket_drop", ticket)

    def tokens(self, ticket: int) -> list[int]:
        out, count = ffi.new("realm_token[4096]"), ffi.new("uint32_t *")
        check(self.lib.realm_ticket_tokens(self.handle, ticket, out, 4096, count, self.err), self.err)
        return [out[i].id for i in range(count[0])]

    def scores(self, ticket: int) -> Floats:
        out, count = ffi.new("float[4096]"), ffi.new("uint32_t *")
        check(self.lib.realm_ticket_scores(self.handle, ticket, out, 4096, count, self.err), self.err)
        return np.array([out[i] for i in range(count[0])], dtype=np.float32)

    # ---- tensors

    def tensor(self, data: Floats) -> int:
        rows, cols = data.shape
        flat = np.ascontiguousarray(data, dtype=np.float32)
        return self._handle("realm_tensor_create", rows, cols, ffi.cast("float *", flat.ctypes.data))

    def weight(self, name: str) -> int:
        return self._handle("realm_tensor_weight", self.model_handle, name.encode(), len(name))

    def read(self, tensor: int) -> Floats:
        rows, cols, count = ffi.new("uint32_t *"), ffi.new("uint32_t *"), ffi.new("size_t *")
        check(self.lib.realm_tensor_shape(self.handle, tensor, rows, cols, self.err), self.err)
        out = np.zeros((rows[0], cols[0]), dtype=np.float32)
        buffer = ffi.cast("float *", out.ctypes.data)
        check(self.lib.realm_tensor_read(self.handle, tensor, buffer, out.size, count, self.err), self.err)
        return out

    def product(self, a: int, b: int, *, transposed: bool) -> int:
        ticket = self._handle("realm_matmul_transposed" if transposed else "realm_matmul", a, b)
        self.wait(ticket)
        return self._handle("realm_ticket_tensor", ticket)

    def store(self, address: int, tensor: int) -> None:
        self._call("realm_store_layer", address, tensor)

    def load(self, address: int) -> int:
        ticket = self._handle("realm_load_layer", address)
        self.wait(ticket)
        return self._handle("realm_ticket_tensor", ticket)


def sampling(**params: Any) -> Any:
    settings = {"temperature": 0.0, "top_p": 1.0, "repetition_penalty": 1.0} | params
    return ffi.new("realm_sampling *", settings)
