"""Emits a component around a guest's core module (as text), to prove the module's lowering right.

Realm itself runs core modules. This wraps one as the component model would: instances of the world's
imports are lowered (canon lower) to what the module imports, its exports are lifted (canon lift) to the
interface's types. A validator accepts the component only if every core signature is the one the canonical
ABI prescribes.

A module's imports need its memory and cabi_realloc, which exist only once it is instantiated with its
imports: the usual way out is a small shim module whose functions call through a table that is filled in
afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable

from . import wit_layout as layout
from .wit import Enum, Function, Interface, List, Package, Record, Result, Scalar, String, Type, has_pointer


def component(package: Package, imports: Iterable[str]) -> str:
    """The component's text for a module that uses these functions of the imported interface.

    The module itself is left empty: `embed` puts it into the encoded component.
    """
    (host,) = package.world.imports
    (guest,) = package.world.exports
    used = [function for name, function in host.functions.items() if name in set(imports)]
    types = next(iter(package.interfaces.values()))
    return "\n".join(
        [
            "(component",
            f'  (import "{package.path(types)}" (instance $types',
            *type_exports(types),
            "  ))",
            *(f'  (alias export $types "{name}" (type ${name}))' for name in types.types),
            f'  (import "{package.path(host)}" (instance $host',
            *used_types(host),
            *(f'    (export "{item.name}" (func{function_type(item)}))' for item in used),
            "  ))",
            "  (core module)",  # without a name, which would be encoded too; its index is 0
            *shim_module(used),
            *guest_instance(package, host, used),
            *lowered_imports(used),
            *exports(package, guest),
            ")",
        ]
    )


EMPTY_MODULE = b"\x01\x08\x00asm\x01\x00\x00\x00"  # a component's section: id, size, the module


def embed(encoded: bytes, module: bytes) -> bytes:
    """The encoded component with `module` in place of the empty one, the first of its core modules."""
    before, found, after = encoded.partition(EMPTY_MODULE)
    if not found:
        raise ValueError("the component has no empty module")
    return before + b"\x01" + leb128(len(module)) + module + after


def leb128(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])


# ---- types ----


def type_exports(interface: Interface) -> list[str]:
    """Types in an instance type: each is defined, then exported under its name, as records and enums must."""
    lines: list[str] = []
    for name, item in interface.types.items():
        lines.append(f"    (type $def-{name} {definition(item)})")
        lines.append(f'    (export "{name}" (type ${name} (eq $def-{name})))')
    return lines


def used_types(interface: Interface) -> list[str]:
    return [
        line
        for name in interface.uses
        for line in (
            f"    (alias outer 1 ${name} (type $outer-{name}))",
            f'    (export "{name}" (type ${name} (eq $outer-{name})))',
        )
    ]


def definition(item: Record | Enum, prefix: str = "$") -> str:
    if isinstance(item, Enum):
        names = " ".join(f'"{case.name}"' for case in item.cases)
        return f"(enum {names})"
    fields = " ".join(f'(field "{entry.name}" {reference(entry.type, prefix)})' for entry in item.fields)
    return f"(record {fields})"


def reference(item: Type, prefix: str = "$") -> str:
    """The type as it is used; named ones by `prefix` and their name."""
    match item:
        case Scalar(name):
            return name
        case String():
            return "string"
        case List(inner):
            return f"(list {reference(inner, prefix)})"
        case Result(ok, error):
            ok_text = f" {reference(ok, prefix)}" if ok is not None else ""
            error_text = f" (error {reference(error, prefix)})" if error is not None else ""
            return f"(result{ok_text}{error_text})"
        case Record() | Enum():
            return f"{prefix}{item.name}"


def function_type(function: Function, prefix: str = "$") -> str:
    params = "".join(f' (param "{entry.name}" {reference(entry.type, prefix)})' for entry in function.params)
    returned = f" (result {reference(function.result, prefix)})" if function.result is not None else ""
    return params + returned


# ---- the shim and the instances ----


def core_type(function: Function) -> str:
    signature = layout.signature(function, imported=True)
    params = f" (param {' '.join(signature.core_params)})" if signature.core_params else ""
    results = f" (result {' '.join(signature.results)})" if signature.results else ""
    return params + results


def shim_module(used: list[Function]) -> list[str]:
    lines = [
        "  (core module $shim",
        f'    (table (export "table") {len(used)} {len(used)} funcref)',
    ]
    for number, function in enumerate(used):
        count = len(layout.signature(function, imported=True).core_params)
        arguments = " ".join(f"(local.get {n})" for n in range(count))
        signature = core_type(function)
        lines.append(
            f'    (func (export "{function.name}"){signature}'
            f" (call_indirect{signature} {arguments} (i32.const {number})))"
        )
    lines += [
        "  )",
        "  (core module $fill",
        f'    (import "" "table" (table {len(used)} {len(used)} funcref))',
    ]
    lines += [f'    (import "" "{item.name}" (func ${item.name}{core_type(item)}))' for item in used]
    names = " ".join(f"${item.name}" for item in used)
    return [*lines, f"    (elem (i32.const 0) func {names})", "  )"]


def guest_instance(package: Package, host: Interface, used: list[Function]) -> list[str]:
    return [
        "  (core instance $shim (instantiate $shim))",
        "  (core instance $imports",
        *(f'    (export "{item.name}" (func $shim "{item.name}"))' for item in used),
        "  )",
        f'  (core instance $guest (instantiate 0 (with "{package.path(host)}" (instance $imports))))',
        '  (alias core export $guest "memory" (core memory $memory))',
        '  (alias core export $guest "cabi_realloc" (core func $realloc))',
    ]


def lowered_imports(used: list[Function]) -> list[str]:
    lines: list[str] = []
    for item in used:
        lines.append(f'  (alias export $host "{item.name}" (func $host-{item.name}))')
        options = "(memory $memory) (realloc $realloc)" if needs_memory(item, imported=True) else ""
        lines.append(f"  (core func $low-{item.name} (canon lower (func $host-{item.name}) {options}))")
    lines.append("  (core instance $lowered")
    lines.append('    (export "table" (table $shim "table"))')
    lines += [f'    (export "{item.name}" (func $low-{item.name}))' for item in used]
    return [*lines, "  )", '  (core instance (instantiate $fill (with "" (instance $lowered))))']


def needs_memory(function: Function, imported: bool) -> bool:
    signature = layout.signature(function, imported)
    parts = [*(entry.type for entry in function.params), *([function.result] if function.result else [])]
    return signature.spilled or signature.by_pointer or any(has_pointer(part) for part in parts)


# ---- exports ----


def exports(package: Package, interface: Interface) -> list[str]:
    """Lifts the guest's functions and exports them as one instance, with the interface's own types."""
    names = [*interface.uses, *interface.types]
    lines = [f"  (type ${name} {definition(item)})" for name, item in interface.types.items()]
    for item in interface.functions.values():
        lines += lifted(package, interface, item)
    lines += exporter(interface, names)
    lines.append("  (instance $exports (instantiate $exporter")
    lines += [f'    (with "type-{name}" (type ${name}))' for name in names]
    lines += [f'    (with "func-{name}" (func $guest-{name}))' for name in interface.functions]
    return [*lines, "  ))", f'  (export "{package.path(interface)}" (instance $exports))']


def lifted(package: Package, interface: Interface, function: Function) -> list[str]:
    options = ""
    if needs_memory(function, imported=False):
        options += " (memory $memory) (realloc $realloc)"
    if layout.needs_post(function):
        options += f' (post-return (core func $guest "{layout.post_name(package, interface, function)}"))'
    name = layout.export_name(package, interface, function)
    return [
        f"  (func $guest-{function.name}{function_type(function)}",
        f'    (canon lift (core func $guest "{name}"){options}))',
    ]


def exporter(interface: Interface, names: list[str]) -> list[str]:
    """An inner component that gives the types of the functions their names."""
    lines = ["  (component $exporter"]
    for name in names:
        if name in interface.uses:
            lines.append(f"    (alias outer 1 ${name} (type $outer-{name}))")
        else:
            lines.append(f"    (type $outer-{name} {definition(interface.types[name])})")
        lines.append(f'    (import "type-{name}" (type ${name} (eq $outer-{name})))')
    for item in interface.functions.values():
        lines.append(f'    (import "func-{item.name}" (func $in-{item.name}{function_type(item)}))')
    for name in names:
        if name in interface.types:  # again, so that a record refers to the types as they are exported
            lines.append(f"    (type ${name}-again {definition(interface.types[name], '$out-')})")
        source = f"${name}-again" if name in interface.types else f"${name}"
        lines.append(f'    (export $out-{name} "{name}" (type {source}))')
    for item in interface.functions.values():
        named = function_type(item, "$out-")
        lines.append(f'    (export "{item.name}" (func $in-{item.name}) (func{named}))')
    return [*lines, "  )"]
