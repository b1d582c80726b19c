"""wasmtime for all realms of the process: one engine, compiled modules (cached on disk), our imports.

Guests are entered by wasmtime's unchecked calls when `_probe` finds its C interface as expected, else by its
public Python interface ("public"); both end in the same C code of the shim.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import wasmtime
from wasmtime import _bindings as bindings
from wasmtime import _ffi as wasmtime_ffi

from ._errors import error
from ._library import asset, ffi, library

WASMTIME_VERSION = "50.0.1"  # whose C layouts the shim was checked against
TICK_SECONDS = 0.02
MEMORY_RESERVATION = 1 << 20  # address space of a guest's memory before it has to move
MEMORY_GUARD = 64 << 10
MAX_WASM_STACK = 512 << 10
MAX_MODULE_BYTES = 16 << 20

# The core types of SHIM_REALLOC ... SHIM_POST_OUTCOME: parameters, results. The last one may be missing.
EXPORT_TYPES = (("iiii", "i"), ("i", "i"), ("i", "i"), ("i", "i"), ("i", ""), ("i", ""), ("i", ""))
OPTIONAL_EXPORTS = 1

_TYPES = {"i": wasmtime.ValType.i32, "l": wasmtime.ValType.i64, "f": wasmtime.ValType.f32}
_LETTERS = {"i32": "i", "i64": "l", "f32": "f"}


@cache
def export_names() -> list[str]:
    """What an orchestrator exports, in the shim's order."""
    return [
        ffi.string(library().shim_export_name(function)).decode() for function in range(len(EXPORT_TYPES))
    ]


@cache
def import_module() -> str:
    """The module an orchestrator imports from."""
    return str(ffi.string(library().shim_import_module()).decode())


class Sandbox:
    """Made once per process; see `Process` in _process.py."""

    def __init__(self) -> None:
        self.engine = wasmtime.Engine(_config())
        self.clock = Clock(self.engine)
        self.api = _NativeApi()
        self.native = (
            _installed_version() == WASMTIME_VERSION and self.api.usable and _probe(self.engine, self.api)
        )
        self._lock = threading.Lock()
        self._modules: dict[str, Module] = {}
        self._linker: wasmtime.Linker | None = None

    def standard_module(self) -> Module:
        path = asset("_native/realm.wasm", "build/guest/realm.wasm")
        if "standard" not in self._modules:
            self._modules["standard"] = self.module(_read_module(path))
        return self._modules["standard"]

    def module(self, wasm: bytes) -> Module:
        """The compiled module of these bytes: from memory, from the disk cache, or compiled now."""
        key = hashlib.sha256(wasm).hexdigest()
        with self._lock:
            if key not in self._modules:
                self._modules[key] = Module(self, _load_compiled(self.engine, wasm, key))
            return self._modules[key]

    def linker(self) -> wasmtime.Linker:
        if self._linker is None:
            self._linker = self.api.make_linker(self.engine)
        return self._linker


class Module:
    """A compiled guest module, with its exports' types read once."""

    def __init__(self, sandbox: Sandbox, module: wasmtime.Module) -> None:
        self.compiled = module
        self.exports = {export.name: export.type for export in module.exports}
        self._sandbox = sandbox
        self._pre: wasmtime.InstancePre | None = None
        self._lock = threading.Lock()
        self._checked = False

    def require_orchestrator(self) -> None:
        """Raises guest-invalid unless the module exports the memory and functions of realm.wit."""
        if self._checked:
            return
        self._check_exports()
        self._checked = True

    def _check_exports(self) -> None:
        if not isinstance(self.exports.get("memory"), wasmtime.MemoryType):
            raise error("guest-invalid", "the module does not export a memory named 'memory'")
        required = list(zip(export_names(), EXPORT_TYPES, strict=True))[:-OPTIONAL_EXPORTS]
        for name, (parameters, results) in required:
            found = self.exports.get(name)
            if not isinstance(found, wasmtime.FuncType):
                raise error("guest-invalid", f"the module does not export the function {name}")
            if _letters(found.params) != parameters or _letters(found.results) != results:
                raise error("guest-invalid", f"the export {name} has the wrong type")

    def parameters(self, name: str) -> list[str]:
        """The types of an exported function's parameters: i32, f64, ..."""
        kind = self.exports.get(name)
        if not isinstance(kind, wasmtime.FuncType):
            raise error("guest-invalid", f"the module exports no function {name!r}")
        return [str(parameter) for parameter in kind.params]

    def instantiate(self, store: wasmtime.Store) -> wasmtime.Instance:
        """By the native linker. Import errors are guest-invalid."""
        with self._lock:
            if self._pre is None:
                self._pre = guarded(lambda: self._sandbox.linker().instantiate_pre(self.compiled))
        return self._pre.instantiate(store)


def guarded(action: Any) -> Any:
    """Runs a step of linking; a module that does not fit is guest-invalid."""
    try:
        return action()
    except wasmtime.WasmtimeError as problem:
        raise error(
            "guest-invalid", f"the module does not fit the interface: {first_line(problem)}"
        ) from None


def first_line(problem: BaseException) -> str:
    return str(problem).strip().split("\n", 1)[0]


def trap_cause(problem: BaseException) -> str:
    """The reason at the end of wasmtime's message, without the backtrace before it."""
    return " ".join(str(problem).rpartition("Caused by:")[2].split())


class Clock:
    """Advances the engine's epoch while someone runs guests, so that a runaway guest meets its deadline."""

    def __init__(self, engine: wasmtime.Engine) -> None:
        self._engine = engine
        self._users = 0
        self._lock = threading.Lock()
        self._needed = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        self.start()
        try:
            yield
        finally:
            self.stop()

    def start(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._needed.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._tick, name="realm-clock", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._needed.clear()

    def _tick(self) -> None:
        while True:
            self._needed.wait()
            time.sleep(TICK_SECONDS)
            self._engine.increment_epoch()


# ---- wasmtime's C interface ----


class _NativeApi:
    """The addresses of wasmtime's C functions for the shim, and the callbacks that lead back into it."""

    NAMES = {
        "func_call_unchecked": "wasmtime_func_call_unchecked",
        "caller_context": "wasmtime_caller_context",
        "context_get_data": "wasmtime_context_get_data",
        "context_set_data": "wasmtime_context_set_data",
        "context_set_epoch_deadline": "wasmtime_context_set_epoch_deadline",
        "memory_data": "wasmtime_memory_data",
        "memory_data_size": "wasmtime_memory_data_size",
        "trap_new": "wasmtime_trap_new",
        "trap_code": "wasmtime_trap_code",
        "trap_message": "wasm_trap_message",
        "trap_delete": "wasm_trap_delete",
        "error_message": "wasmtime_error_message",
        "error_delete": "wasmtime_error_delete",
        "byte_vec_delete": "wasm_byte_vec_delete",
    }

    def __init__(self) -> None:
        self.struct = ffi.new("shim_wasmtime *")
        self.usable = self._fill() and self._sizes_fit()
        self._bindings: Any = None

    def _fill(self) -> bool:
        dll = wasmtime_ffi.dll
        for member, name in self.NAMES.items():
            function = getattr(dll, name, None)
            if function is None:
                return False
            kind = ffi.typeof(getattr(self.struct, member))
            setattr(self.struct, member, ffi.cast(kind, ctypes.cast(function, ctypes.c_void_p).value))
        self.struct.trap_interrupt = wasmtime.TrapCode.INTERRUPT.value
        self.struct.trap_unreachable = wasmtime.TrapCode.UNREACHABLE.value
        return True

    @staticmethod
    def _sizes_fit() -> bool:
        room = library().SHIM_OBJECT_SIZE
        return (
            sys.byteorder == "little"
            and ctypes.sizeof(bindings.wasmtime_val_raw_t) == ffi.sizeof("shim_value")
            and ctypes.sizeof(bindings.wasmtime_func_t) <= room
            and ctypes.sizeof(bindings.wasmtime_memory_t) <= room
        )

    def make_linker(self, engine: wasmtime.Engine) -> wasmtime.Linker:
        lib = library()
        linker = wasmtime.Linker(engine)
        count = lib.shim_import_count()
        self._bindings = ffi.new("shim_binding[]", count)
        callback = native_callback("shim_callback")
        for index in range(count):
            info = lib.shim_import_at(index)
            self._bindings[index].api = self.struct
            self._bindings[index].index = index
            env = int(ffi.cast("uintptr_t", self._bindings + index))
            define_unchecked(
                linker, import_module(), ffi.string(info.name).decode(), import_type(info), callback, env
            )
        return linker


def import_type(info: Any) -> wasmtime.FuncType:
    parameters = [_TYPES[letter]() for letter in ffi.string(info.parameters).decode()]
    return wasmtime.FuncType(parameters, [wasmtime.ValType.i32()] if info.has_result else [])


def native_callback(name: str) -> Any:
    address = int(ffi.cast("uintptr_t", ffi.addressof(library(), name)))
    return ctypes.cast(address, bindings.wasmtime_func_unchecked_callback_t)


def define_unchecked(
    linker: wasmtime.Linker, module: str, name: str, kind: wasmtime.FuncType, callback: Any, env: int
) -> None:
    no_finalizer = ctypes.cast(0, ctypes.CFUNCTYPE(None, ctypes.c_void_p))
    module_bytes, name_bytes = module.encode(), name.encode()
    problem = bindings.wasmtime_linker_define_func_unchecked(
        linker.ptr(),
        ctypes.create_string_buffer(module_bytes),
        len(module_bytes),
        ctypes.create_string_buffer(name_bytes),
        len(name_bytes),
        kind.ptr(),
        callback,
        env,
        no_finalizer,
    )
    if problem:
        raise wasmtime.WasmtimeError._from_ptr(problem)


@cache
@cache
def _installed_version() -> str:
    """Looks for the pinned one's folder first: to import importlib.metadata takes longer than a model."""
    if (Path(wasmtime.__file__).parents[1] / f"wasmtime-{WASMTIME_VERSION}.dist-info").is_dir():
        return WASMTIME_VERSION
    from importlib.metadata import version

    return version("wasmtime")


PROBE = """
(module
  (import "probe" "probe" (func $probe (param i32 i64 f32) (result i32)))
  (func (export "run") (result i32)
    (call $probe (i32.const 0x12345678) (i64.const 0x1122334455667788) (f32.const 1.5))))
"""


def _probe(engine: wasmtime.Engine, api: _NativeApi) -> bool:
    """One unchecked call, with values that would arrive wrong if a layout were not as expected."""
    calls = ffi.new("uint64_t *")
    linker = wasmtime.Linker(engine)
    kind = wasmtime.FuncType([_TYPES[letter]() for letter in "ilf"], [wasmtime.ValType.i32()])
    env = int(ffi.cast("uintptr_t", calls))
    define_unchecked(linker, "probe", "probe", kind, native_callback("shim_probe"), env)
    store = wasmtime.Store(engine)
    store.set_epoch_deadline(1 << 30)
    instance = linker.instantiate(store, wasmtime.Module(engine, PROBE))
    run = instance.exports(store)["run"]
    return bool(run(store) == 0x5EA1 and calls[0] == 1)  # type: ignore[operator]


# ---- compiling and the disk cache ----


def _config() -> wasmtime.Config:
    config = wasmtime.Config()
    config.epoch_interruption = True
    config.memory_reservation = MEMORY_RESERVATION
    config.memory_reservation_for_growth = MEMORY_RESERVATION
    config.memory_guard_size = MEMORY_GUARD
    config.parallel_compilation = False  # its threads would not survive a fork, and guests are small
    config.max_wasm_stack = MAX_WASM_STACK
    # No value types beyond numbers and plain references: wasmtime's C interface aborts the process when asked
    # for their kind, and a guest has no use for them.
    config.wasm_relaxed_simd = False
    config.wasm_simd = False
    config.wasm_exceptions = False
    config.wasm_gc = False
    config.wasm_function_references = False
    config.wasm_memory64 = False
    config.wasm_multi_memory = False
    config.wasm_threads = False
    return config


def _read_module(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        raise error("not-found", f"the guest module cannot be read: {path}: {problem.strerror}") from None


def _load_compiled(engine: wasmtime.Engine, wasm: bytes, digest: str) -> wasmtime.Module:
    if len(wasm) > MAX_MODULE_BYTES:  # compiling takes time and memory
        raise error("guest-invalid", f"the module is larger than {MAX_MODULE_BYTES} bytes")
    folder = _cache_folder()
    path = folder / f"{digest[:40]}-wasmtime-{_installed_version()}.cwasm" if folder else None
    if path and _is_private(path):
        try:
            return wasmtime.Module.deserialize_file(engine, str(path))
        except wasmtime.WasmtimeError:
            pass  # made under other settings or for another processor: compile again and replace it
    try:
        module = wasmtime.Module(engine, wasm)
    except wasmtime.WasmtimeError as problem:
        raise error("guest-invalid", f"the module is not valid WebAssembly: {first_line(problem)}") from None
    if path:
        _store(path, bytes(module.serialize()))
    return module


def _cache_folder() -> Path | None:
    """The user's cache folder, or None where there is none that only the user can write."""
    if os.environ.get("REALM_CACHE_DIR"):
        folder = Path(os.environ["REALM_CACHE_DIR"])
    elif sys.platform == "win32":
        folder = Path(os.environ.get("LOCALAPPDATA", str(Path.home()))) / "realm" / "cache"
    else:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "realm"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return None
    return folder if _is_private(folder) else None


def _is_private(path: Path) -> bool:
    """Compiled code is trusted as it is: it must be ours and writable by nobody else."""
    try:
        status = path.stat()
    except OSError:
        return False
    return sys.platform == "win32" or (status.st_uid == os.getuid() and not status.st_mode & 0o022)


def _store(path: Path, data: bytes) -> None:
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # readable by its owner alone
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(name).replace(path)
    except OSError:
        return  # a cache that cannot be written is only slower


def _letters(types: list[wasmtime.ValType]) -> str:
    return "".join(_LETTERS.get(str(kind), "?") for kind in types)
