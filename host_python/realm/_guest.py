"""One guest: a wasmtime store with an instance of a module, bound to the shim's native side.

A guest belongs to the pump thread from its first request on (see _engine.py). Making one happens in the
caller's thread.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import wasmtime
from wasmtime import _bindings as bindings

from ._errors import RealmError, error
from ._library import check, ffi, library, new_error, status_name
from ._options import ResourceLimits
from ._sandbox import (
    TICK_SECONDS,
    Module,
    export_names,
    first_line,
    guarded,
    import_module,
    import_type,
    trap_cause,
)
from ._tenant import context_limits

if TYPE_CHECKING:
    from ._engine import Engine

MAX_TABLE_ELEMENTS = 10_000
LOG_BYTES = 16 * 1024
WASM_PAGE = 65536


class Guest:
    """Owns the store and the shim's guest; `handle` is the C object, NULL once closed."""

    def __init__(
        self, engine: Engine, module: Module, limits: ResourceLimits, tenant: int, *, plain: bool = False
    ) -> None:
        if not plain:
            module.require_orchestrator()
        self.engine = engine
        self.module = module
        self.tag = engine.take_tag()
        self.grants: dict[Any, int] = {}  # shared model -> handle inside the realm
        self.handle: Any = ffi.NULL
        self.problem: RealmError | None = None  # why it is gone, once it is
        self.store = wasmtime.Store(engine.sandbox.engine)
        self.store.set_limits(
            memory_size=limits.guest_memory_bytes or -1,
            table_elements=MAX_TABLE_ELEMENTS,
            instances=1,
            tables=4,
            memories=1,
        )
        self._memory_limit = limits.guest_memory_bytes or 1 << 32
        self._instance: wasmtime.Instance | None = None
        self._ticks = max(2, round(limits.guest_seconds / TICK_SECONDS))
        self._public: _PublicCalls | None = None
        try:
            self._create(limits, tenant)
            with engine.sandbox.clock.running():
                self._instantiate(module)
        except BaseException:
            self.close()
            raise

    def _create(self, limits: ResourceLimits, tenant: int) -> None:
        options = ffi.new("shim_guest_options *")
        options.tag = self.tag
        options.tenant = tenant
        options.limits = context_limits(limits)
        options.epoch_ticks = self._ticks
        options.memory_bytes = self._memory_limit
        options.text_bytes = limits.text_bytes
        out = ffi.new("shim_guest **")
        err = new_error()
        check(library().shim_guest_create(self.engine.driver, options, out, err), err, "making a realm")
        self.handle = out[0]

    def _instantiate(self, module: Module) -> None:
        try:
            if self.engine.native:
                self._instantiate_native(module)
            else:
                self._instantiate_public(module)
        except wasmtime.Trap as trap:
            raise self.trap_error(trap) from None
        except wasmtime.WasmtimeError as problem:
            code = "guest-memory" if "memory" in str(problem) and "limit" in str(problem) else "guest-invalid"
            raise error(code, f"the guest cannot be instantiated: {first_line(problem)}") from None

    def _instantiate_native(self, module: Module) -> None:
        context = self.store._context()
        address = ctypes.cast(context, ctypes.c_void_p).value
        library().shim_guest_attach(self.handle, ffi.cast("void *", address))
        instance = self._instance = module.instantiate(self.store)
        room = library().SHIM_OBJECT_SIZE
        memory = _export_bytes(context, instance, "memory", room) or ffi.NULL
        functions = [_export_bytes(context, instance, name, room) for name in export_names()]
        present = sum(1 << index for index, found in enumerate(functions) if found is not None)
        packed = b"".join(found or bytes(room) for found in functions)
        library().shim_guest_bind(self.handle, memory, packed, present)

    def _instantiate_public(self, module: Module) -> None:
        library().shim_guest_attach(self.handle, ffi.NULL)
        self.store.set_epoch_deadline(self._ticks)
        self._public = _PublicCalls(self, module)
        self._instance = self._public.instance
        present = sum(1 << index for index, found in enumerate(self._public.functions) if found is not None)
        library().shim_guest_bind(self.handle, ffi.NULL, ffi.NULL, present)

    def call_public(self, function: int, values: Any, count: int) -> int:
        """The way into the guest by the public interface; the shim calls it through the engine."""
        assert self._public is not None
        try:
            self._public.call(function, values, count, self._ticks)
        except wasmtime.Trap as trap:
            return int(getattr(library(), "REALM_E_" + self.trap_error(trap).code.upper().replace("-", "_")))
        except wasmtime.WasmtimeError:
            return int(library().REALM_E_GUEST_TRAP)
        return 0

    def trap_error(self, trap: wasmtime.Trap) -> RealmError:
        if trap.trap_code is wasmtime.TrapCode.INTERRUPT:
            return error("timed-out", "the guest ran longer than one call may take")
        if trap.trap_code is wasmtime.TrapCode.UNREACHABLE and self._memory_is_full():
            return error("guest-memory", "the guest wanted more memory than its limit")
        return error("guest-trap", f"the guest trapped: {trap_cause(trap)}")

    def _memory_is_full(self) -> bool:
        memory = self._instance.exports(self.store).get("memory") if self._instance else None
        full = self._memory_limit - WASM_PAGE
        return isinstance(memory, wasmtime.Memory) and memory.data_len(self.store) > full

    # ---- in the pump thread ----

    def set_limits(self, limits: ResourceLimits) -> None:
        if self.handle:
            context = library().shim_guest_context(self.handle)
            native = ffi.new("realm_limits *", context_limits(limits))
            library().realm_context_set_limits(context, native)

    def grant(self, model: Any) -> int:
        """The realm's handle of a shared model, granted at its first use."""
        if model not in self.grants:
            handle = ffi.new("uint32_t *")
            err = new_error()
            context = library().shim_guest_context(self.handle)
            check(
                library().realm_context_grant(context, model.pointer, handle, err), err, "granting the model"
            )
            self.grants[model] = handle[0]
        return self.grants[model]

    def revoke(self, model: Any) -> None:
        handle = self.grants.pop(model, None)
        if handle is not None and self.handle:
            library().realm_context_revoke(library().shim_guest_context(self.handle), handle, ffi.NULL)

    def call_export(self, name: str, arguments: tuple[int | float, ...]) -> Any:
        """Calls an export that takes and returns plain numbers; a trap is the guest's end."""
        assert self._instance is not None
        function = self._instance.exports(self.store)[name]
        self.store.set_epoch_deadline(self._ticks)
        library().shim_guest_enter(self.handle)
        problem: RealmError | None = None
        try:
            return function(self.store, *arguments)  # type: ignore[operator]
        except wasmtime.Trap as trap:
            problem = self.trap_error(trap)
        except wasmtime.WasmtimeError as trap:
            problem = error("guest-trap", f"the guest failed: {trap_cause(trap)}")
        finally:
            inner = library().shim_guest_leave(self.handle)
        if inner and problem.code == "guest-trap":
            problem = error(status_name(inner), "the guest could not allocate what an import gave it")
        raise problem

    def is_dead(self) -> bool:
        return bool(library().shim_guest_is_dead(self.handle))

    def failure(self) -> RealmError:
        err = new_error()
        status = library().shim_guest_failure(self.handle, err)
        return error(
            status_name(status or library().REALM_E_INTERNAL),
            ffi.string(err.message).decode("utf-8", "replace"),
        )

    def take_log(self) -> bytes:
        buffer = ffi.new("char[]", LOG_BYTES)
        size = library().shim_take_log(self.handle, buffer, LOG_BYTES)
        return bytes(ffi.buffer(buffer, min(size, LOG_BYTES)))

    def close(self) -> None:
        if self.handle:
            library().shim_guest_destroy(self.handle)
            self.handle = ffi.NULL
        self.store.close()
        self._public = None
        self.engine.give_tag(self.tag)


def _export_bytes(context: Any, instance: wasmtime.Instance, name: str, room: int) -> bytes | None:
    """The wasmtime_func_t or wasmtime_memory_t of an export as bytes, padded to the shim's room for it."""
    item = bindings.wasmtime_extern_t()
    encoded = name.encode()
    found = bindings.wasmtime_instance_export_get(
        context,
        ctypes.byref(instance._instance),
        ctypes.create_string_buffer(encoded),
        len(encoded),
        ctypes.byref(item),
    )
    if not found:
        return None
    value = item.of.memory if name == "memory" else item.of.func
    return ctypes.string_at(ctypes.addressof(value), ctypes.sizeof(value)).ljust(room, b"\0")


class _PublicCalls:
    """The same guest through wasmtime's public Python interface: slower, but free of layout assumptions."""

    def __init__(self, guest: Guest, module: Module) -> None:
        self._guest = guest
        self._store = guest.store
        self._memory: Any = None
        self._depth = 0
        linker = wasmtime.Linker(guest.engine.sandbox.engine)
        for index in range(library().shim_import_count()):
            info = library().shim_import_at(index)
            name = ffi.string(info.name).decode()
            linker.define_func(import_module(), name, import_type(info), self._importer(index, info, name))
        self.instance = guarded(lambda: linker.instantiate_pre(module.compiled)).instantiate(self._store)
        exports = self.instance.exports(self._store)
        self._memory = exports.get("memory")
        self.functions = [exports.get(name) for name in export_names()]
        self._refresh()

    def call(self, function: int, values: Any, count: int, ticks: int) -> None:
        if self._depth == 0:
            self._store.set_epoch_deadline(ticks)
        self._depth += 1
        try:
            found = self.functions[function]
            result = found(self._store, *(values[i].i32 for i in range(count)))
        finally:
            self._depth -= 1
        if result is not None:
            values[0].u64 = result & 0xFFFFFFFF
        self._refresh()

    def _refresh(self) -> None:
        """The imports of a start function run before the memory is known: they see an empty one."""
        if self._memory is None:
            return
        address = ctypes.cast(self._memory.data_ptr(self._store), ctypes.c_void_p).value
        library().shim_guest_set_memory(
            self._guest.handle, ffi.cast("uint8_t *", address), self._memory.data_len(self._store)
        )

    def _importer(self, index: int, info: Any, name: str) -> Any:
        letters = ffi.string(info.parameters).decode()
        members = [{"i": "i32", "l": "i64", "f": "f32"}[letter] for letter in letters]

        def run(*arguments: Any) -> int | None:
            values = ffi.new("shim_value[]", max(1, len(members)))
            for value, member, argument in zip(values, members, arguments, strict=True):
                setattr(value, member, argument)
            self._refresh()  # the guest may have grown its memory since
            why = library().shim_import(self._guest.handle, index, values)
            if why:
                raise wasmtime.Trap(f"{name}: {ffi.string(why).decode()}")
            return int(values[0].i32) if info.has_result else None

        return run
