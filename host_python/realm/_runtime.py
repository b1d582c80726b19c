"""Own guest modules: `Runtime` loads them, calls their exports, and runs them as orchestrators."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._api import FINISH, Timings, abandon, engine_options, make_sampling, pack_stops
from ._engine import Ended, Engine, RequestSpec, wait_for_end
from ._errors import RealmError, error
from ._model import Model, ModelOptions, Progress, encode_text
from ._options import MODES, ResourceLimits, check_max_tokens, choice
from ._process import Process, check_same_process
from ._tenant import set_tenant_limits, tenant_number

if TYPE_CHECKING:
    from ._sandbox import Module

Number = int | float
MAX_MODULE_BYTES = 16 << 20


@dataclass(frozen=True)
class GuestResult:
    """What an orchestrator made of a request. `extra` is its own result, in whatever form it chose."""

    text: str
    tokens: tuple[int, ...]
    prompt_tokens: int
    finish_reason: str
    extra: bytes
    timings: Timings


class Runtime:
    """A place for own guests and the models they may use. Close it, or use it in a `with`."""

    def __init__(
        self,
        *,
        backend: str = "auto",
        threads: int | None = None,
        limits: ResourceLimits | None = None,
        cpu_features: Sequence[str] | None = None,
        shim: str = "native",
        executor: int = 0,
    ) -> None:
        self._engine = Process.current().engine(
            engine_options(backend, threads, cpu_features, shim, executor)
        )
        self.limits = limits or ResourceLimits()
        self._lock = threading.Lock()
        self._closed = False
        self._guests: list[GuestModule] = []
        self._models: list[Model] = []

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all guests and gives the models back. Doing it again does nothing."""
        with self._lock:
            self._closed = True
            guests, self._guests = self._guests, []
            models, self._models = self._models, []
        for guest in guests:
            guest.close()
        for model in models:
            model.close()

    def load_model(
        self,
        path: str | os.PathLike[str],
        context_length: int = 0,
        kv_type: str = "f16",
        progress: Progress | None = None,
    ) -> Model:
        self._check_open()
        model = Model.load(self._engine, Path(path), ModelOptions("full", context_length, kv_type), progress)
        with self._lock:
            self._models.append(model)
        return model

    def load_wasm(
        self, source: str | os.PathLike[str] | bytes, *, limits: ResourceLimits | None = None
    ) -> GuestModule:
        """Loads a module (bytes, or the path of a file) and makes a guest of it."""
        self._check_open()
        module = self._engine.sandbox.module(read_wasm(source))
        guest = GuestModule(self._engine, module, limits or self.limits)
        with self._lock:
            self._guests.append(guest)
        return guest

    def call_function(self, name: str, *arguments: Number) -> Any:
        """Calls an export of the guest loaded last."""
        self._check_open()
        if not self._guests:
            raise error("invalid-argument", "no module is loaded; call load_wasm first")
        return self._guests[-1].call_function(name, *arguments)

    def _check_open(self) -> None:
        check_same_process(self._engine.pid)
        if self._closed:
            raise error("closed", "this runtime was closed; make a new one")


class GuestModule:
    """An own guest: an instance of a module with its own memory and limits."""

    def __init__(
        self, engine: Engine, module: Module, limits: ResourceLimits, tenant: int | None = None
    ) -> None:
        from ._guest import Guest  # loads wasmtime

        self._engine = engine
        self._module = module
        self._closed = False
        number = tenant_number(engine, tenant)
        if tenant is None:  # else its own realm has said them
            set_tenant_limits(engine, number, limits)
        self._guest = Guest(engine, module, limits, number, plain=True)
        self._finalizer = weakref.finalize(self, abandon, engine, self._guest)
        self._finalizer.atexit = False

    def __enter__(self) -> GuestModule:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._finalizer.detach()
            self._engine.close_guest(self._guest)

    @property
    def exports(self) -> list[str]:
        return sorted(self._module.exports)

    def call_function(self, name: str, *arguments: Number) -> Any:
        """Calls an export that takes and returns numbers."""
        self._check_open()
        checked = check_arguments(name, self._module.parameters(name), arguments)
        return self._engine.run(lambda: self._call(name, checked))

    def _call(self, name: str, arguments: tuple[Number, ...]) -> Any:
        """In the pump; a guest that trapped is thrown away."""
        if not self._guest.handle:
            raise self._guest.problem or error("closed", "this guest was closed")
        try:
            with self._engine.sandbox.clock.running():
                return self._guest.call_export(name, arguments)
        except RealmError as problem:
            self._engine.discard(self._guest, problem)
            raise

    def run(
        self,
        prompt: str | bytes = b"",
        *,
        model: Model | None = None,
        extra: bytes = b"",
        max_tokens: int = 256,
        stop: str | Sequence[str] = (),
        mode: str = "granular",
        add_special: bool = True,
        parse_special: bool = False,
        **settings: Any,
    ) -> GuestResult:
        """Runs the guest as an orchestrator: start, polls, outcome. `settings` are the fields of Sampling."""
        self._check_open()
        self._module.require_orchestrator()
        sampling = make_sampling(None, settings)
        spec = RequestSpec(
            model=model.shared() if model else None,
            prompt=encode_text(prompt),
            add_special=add_special,
            parse_special=parse_special,
            stops=pack_stops(stop),
            max_tokens=check_max_tokens(max_tokens),
            mode=choice("mode", mode, MODES),
            sampling=sampling,
            seed=sampling.actual_seed(),
            extra=bytes(extra),
        )
        return guest_result(wait_for_end(self._engine, self._guest, spec))

    def _check_open(self) -> None:
        check_same_process(self._engine.pid)
        if self._closed:
            raise error("closed", "this guest was closed; load the module again")
        if self._guest.problem is not None:
            problem = self._guest.problem
            raise error(problem.code, f"this guest was stopped: {problem.message}; load the module again")


def read_wasm(source: str | os.PathLike[str] | bytes) -> bytes:
    if isinstance(source, (bytes, bytearray)):
        return bytes(source)
    try:
        with Path(source).open("rb") as file:
            return file.read(MAX_MODULE_BYTES + 1)
    except FileNotFoundError:
        raise error("not-found", f"there is no module {source}") from None
    except (OSError, ValueError) as problem:
        raise error("io", f"the module {source} cannot be read: {problem}") from None


def check_arguments(name: str, types: list[str], arguments: tuple[Number, ...]) -> tuple[Number, ...]:
    if len(types) != len(arguments):
        raise error("invalid-argument", f"{name} takes {len(types)} arguments, not {len(arguments)}")
    for wanted, value in zip(types, arguments, strict=True):
        if wanted not in ("i32", "i64", "f32", "f64"):
            raise error("unsupported", f"{name} takes a {wanted}; only numbers can be passed")
        whole = isinstance(value, int) and not isinstance(value, bool)
        bits = 32 if wanted == "i32" else 64
        fits = (
            whole and -(1 << (bits - 1)) <= value < 1 << bits
            if wanted[0] == "i"
            else isinstance(value, (int, float))
        )
        if not fits:
            raise error("invalid-argument", f"{name} takes an {wanted}, not {value!r}")
    return tuple(signed(value, wanted) for wanted, value in zip(types, arguments, strict=True))


def signed(value: Number, wanted: str) -> Number:
    if wanted[0] == "f":
        return float(value)
    bits = 32 if wanted == "i32" else 64
    return value - (1 << bits) if value >= 1 << (bits - 1) else value


def guest_result(ended: Ended) -> GuestResult:
    if ended.problem is not None:
        raise ended.problem
    return GuestResult(
        text=ended.text.decode("utf-8", "replace"),
        tokens=ended.tokens,
        prompt_tokens=ended.prompt_tokens,
        finish_reason=FINISH[min(ended.finish, len(FINISH) - 1)],
        extra=ended.extra,
        timings=Timings(ended.first_seconds, ended.total_seconds, *ended.work),
    )
