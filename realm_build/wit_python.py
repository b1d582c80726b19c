"""Emits host_python/realm/_generated/abi.py: the interface as a Python host sees it.

Enums become IntEnums, records frozen dataclasses that read and write guest memory, imports one adapter
each between core values and a method of the Host protocol, exports a class of typed calls. The text is
laid out as `ruff format` would.
"""

from __future__ import annotations

import textwrap

from . import wit_layout as layout
from .wit import Enum, Function, Interface, List, Package, Record, Result, Scalar, String, Type, has_pointer
from .wit_c import NOTICE, snake, upper

FORMATS = {
    "bool": "?", "u8": "B", "s8": "b", "u16": "H", "s16": "h", "u32": "I", "s32": "i", "u64": "Q", "s64": "q",
    "f32": "f", "f64": "d",
}  # fmt: skip
LINE = 110
MASKS = {"i32": "0xFFFFFFFF", "i64": "0xFFFFFFFFFFFFFFFF"}

HEAD = '''\
# {notice}
"""The interface between host and guest by the canonical ABI; docs/interface.md describes it."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar, Protocol

Raw = bytes  # under a name that no field of a record has
Buffer = bytes | bytearray | memoryview
PACKAGE = "{package}"
IMPORT_MODULE = "{imports}"
EXPORT_MODULE = "{exports}"


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
        raise AbiError(f"{{count}} items of {{size}} bytes at address {{address}} are not inside the memory")
    return slice(address, address + count * size)


def read_bytes(memory: Buffer, address: int, count: int) -> bytes:
    return bytes(memory[span(memory, address, count, 1, 1)])


def read_values(memory: Buffer, address: int, count: int, code: str) -> tuple[int, ...]:
    size = struct.calcsize(code)
    return struct.unpack(f"<{{count}}{{code}}", memory[span(memory, address, count, size, size)])


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
    data = struct.pack(f"<{{len(values)}}{{code}}", *values)
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
'''


def python_glue(package: Package) -> str:
    (host,) = package.world.imports
    (guest,) = package.world.exports
    parts = [
        HEAD.format(
            notice=NOTICE,
            package=f"{package.namespace}:{package.name}@{package.version}",
            imports=package.path(host),
            exports=package.path(guest),
        )
    ]
    parts += [enum_class(item) if isinstance(item, Enum) else record_class(item) for item in package.types]
    parts.append(host_protocol(host))
    parts += [import_adapter(function) for function in host.functions.values()]
    parts.append(import_table(host))
    parts.append(guest_class(package, guest))
    return "\n\n".join(part.rstrip("\n") + "\n" for part in parts)


def class_name(item: Record | Enum) -> str:
    return "".join(word.capitalize() for word in item.name.split("-"))


def annotation(item: Type | None) -> str:
    match item:
        case None:
            return "None"
        case Scalar("bool"):
            return "bool"
        case Scalar("f32" | "f64"):
            return "float"
        case Scalar():
            return "int"
        case String():
            return "str"
        case List(Scalar("u8")):
            return "bytes"
        case List(inner):
            return f"Sequence[{annotation(inner)}]"
        case Result(ok, _):
            return annotation(ok)
        case Record() | Enum():
            return class_name(item)


def docstring(docs: str, indent: str) -> list[str]:
    if not docs:
        return []
    lines = wrap(docs, 108 - len(indent))
    if len(lines) == 1 and len(lines[0]) + len(indent) <= 102:
        return [f'{indent}"""{lines[0]}"""']
    return [f'{indent}"""', *(f"{indent}{line}" for line in lines), f'{indent}"""']


def wrap(docs: str, width: int) -> list[str]:
    return [part for line in docs.split("\n") for part in textwrap.wrap(line, width)]


def group(head: str, items: list[str], tail: str, indent: str = "") -> list[str]:
    """`head(items)tail`, broken over lines where it is too long: the brackets are head's and tail's own."""
    inside = ", ".join(items)
    if len(indent + head + inside + tail) <= LINE:
        return [indent + head + inside + tail]
    if len(indent) + 4 + len(inside) <= LINE:
        return [indent + head, f"{indent}    {inside}", indent + tail]
    return [indent + head, *(f"{indent}    {item}," for item in items), indent + tail]


# ---- enums and records ----


def enum_class(item: Enum) -> str:
    lines = [f"class {class_name(item)}(_NamedEnum):", *docstring(item.docs, "    ")]
    lines += [""] if item.docs else []
    for number, case in enumerate(item.cases):
        lines += [f"    # {line}" for line in wrap(case.docs, 100)]
        lines.append(f"    {upper(case.name)} = {number}")
    return "\n".join(lines)


def record_format(record: Record) -> str:
    """The struct format with explicit padding: a list is an address and a length, a record its bytes."""
    text, position = "<", 0
    for entry in record.fields:
        offset = layout.field_offsets(record)[entry.name]
        text += padding(offset - position) + field_format(entry.type)
        position = offset + layout.size(entry.type)
    return text + padding(layout.size(record) - position)


def padding(size: int) -> str:
    return f"{size}x" if size else ""


def field_format(item: Type) -> str:
    match item:
        case Scalar(name):
            return FORMATS[name]
        case Enum():
            return "B"
        case Record():
            return f"{layout.size(item)}s"
        case _:
            return "II"


def record_class(record: Record) -> str:
    lines = [
        "@dataclass(frozen=True, slots=True)",
        f"class {class_name(record)}:",
        *docstring(record.docs, "    "),
        *([""] if record.docs else []),
        f'    LAYOUT: ClassVar[struct.Struct] = struct.Struct("{record_format(record)}")',
        f"    ALIGN: ClassVar[int] = {layout.alignment(record)}",
        "",
    ]
    for entry in record.fields:
        lines += [f"    # {line}" for line in wrap(entry.docs, 100)]
        lines.append(f"    {snake(entry.name)}: {annotation(entry.type)}")
    lines += ["", *pack_method(record), "", *unpack_method(record)]
    return "\n".join(lines)


def pack_method(record: Record) -> list[str]:
    """pack() of a record of scalars; pack(memory) of one with lists, which go into the guest first."""
    values = [pack_value(f"self.{snake(entry.name)}", entry.type) for entry in record.fields]
    head = ["    def pack(self) -> Raw:"]
    if has_pointer(record):
        head = [
            "    def pack(self, memory: GuestMemory) -> Raw:",
            '        """The record\'s own bytes; its lists are put into the guest\'s memory."""',
        ]
    return [*head, *group("return self.LAYOUT.pack(", values, ")", "        ")]


def pack_value(value: str, item: Type) -> str:
    match item:
        case Record():
            return f"{value}.pack()"
        case List() | String():
            return f"*{write_list(value, item)}"
        case _:
            return value


def write_list(value: str, item: Type) -> str:
    match item:
        case String():
            return f"write_list(memory, {value}.encode(), len({value}.encode()), 1)"
        case List(Scalar("u8")):
            return f"write_list(memory, {value}, len({value}), 1)"
        case List(Record() as inner):
            data = f'b"".join(item.pack() for item in {value})'
            return f"write_list(memory, {data}, len({value}), {layout.alignment(inner)})"
        case List(Scalar(name)):
            return f'write_values(memory, {value}, "{FORMATS[name]}")'
        case _:
            raise TypeError(f"no list: {item}")


def unpack_method(record: Record) -> list[str]:
    name = class_name(record)
    lines = ["    @classmethod", f"    def unpack(cls, memory: Buffer, address: int) -> {name}:"]
    lines.append("        place = span(memory, address, 1, cls.LAYOUT.size, cls.ALIGN)")
    simple = all(isinstance(entry.type, Scalar) for entry in record.fields)
    if simple:
        return [*lines, "        return cls(*cls.LAYOUT.unpack(memory[place]))"]
    targets = [target for entry in record.fields for target in unpack_targets(entry.name, entry.type)]
    values = [unpack_value(snake(entry.name), entry.type) for entry in record.fields]
    lines += assignment(targets, " = cls.LAYOUT.unpack(memory[place])")
    return [*lines, *group("return cls(", values, ")", "        ")]


def assignment(targets: list[str], right: str) -> list[str]:
    line = f"        {', '.join(targets)}{right}"
    return [line] if len(line) <= LINE else group("(", targets, f"){right}", "        ")


def unpack_targets(name: str, item: Type) -> list[str]:
    return [snake(name), f"{snake(name)}_len"] if isinstance(item, List | String) else [snake(name)]


def unpack_value(name: str, item: Type) -> str:
    match item:
        case Enum():
            return f"{class_name(item)}({name})"
        case Record():
            return f"{class_name(item)}.unpack({name}, 0)"
        case List() | String():
            return read_list(name, item)
        case _:
            return name


def read_list(name: str, item: Type, memory: str = "memory") -> str:
    match item:
        case String():
            return f"read_bytes({memory}, {name}, {name}_len).decode()"
        case List(Scalar("u8")):
            return f"read_bytes({memory}, {name}, {name}_len)"
        case List(Scalar(kind)):
            return f'read_values({memory}, {name}, {name}_len, "{FORMATS[kind]}")'
        case List(Record() as inner):
            kind = class_name(inner)
            items = f"read_items({memory}, {name}, {name}_len, {kind}.LAYOUT, {kind}.ALIGN)"
            return f"[{kind}(*item) for item in {items}]"
        case _:
            raise TypeError(f"no list: {item}")


# ---- imports ----


def host_protocol(interface: Interface) -> str:
    lines = [
        "class Host(Protocol):",
        '    """The imports as methods. A result\'s error is raised as InterfaceError."""',
    ]
    for function in interface.functions.values():
        params = [f"{snake(entry.name)}: {annotation(entry.type)}" for entry in function.params]
        docs = docstring(function.docs, "        ")
        tail = f") -> {annotation(function.result)}:{'' if docs else ' ...'}"
        lines += ["", *group(f"def {snake(function.name)}(", ["self", *params], tail, "    "), *docs]
    return "\n".join(lines)


LOCALS = ("host", "memory", "view", "value", "raw", "error")  # of an adapter


def import_adapter(function: Function) -> str:
    """A function of core values that lifts the arguments, calls the host and lowers what it returns."""
    signature = layout.signature(function, imported=True)
    if any(flat_name(flat) in LOCALS for flat in signature.params):
        raise TypeError(f"{function.name}: a parameter has the name of a local variable of its adapter")
    params = [f"{flat_name(flat)}: {core_annotation(flat.core)}" for flat in signature.params]
    returned = "int" if signature.results else "None"
    head = f"def import_{snake(function.name)}("
    lines = group(head, ["host: Host", "memory: GuestMemory", *params], f") -> {returned}:")
    lines += [f"    {flat_name(f)} &= {MASKS[f.core]}" for f in signature.params if f.core in MASKS]
    if any(has_pointer(entry.type) for entry in function.params):
        lines.append("    view = memory.view()")
    for entry in function.params:
        if isinstance(entry.type, Record | List | String):
            lines += lift_local(entry.name, entry.type)
    arguments = [argument(entry.name, entry.type) for entry in function.params]
    call = f"host.{snake(function.name)}({', '.join(arguments)})"
    if isinstance(function.result, Result):
        lines += lower_result(function.result, call)
    elif signature.by_pointer:
        lines += [f"    value = {call}", *lower_value(function.result, 0)]
    else:
        lines.append(f"    return {call}" if signature.results else f"    {call}")
    return "\n".join(lines)


def lift_local(name: str, item: Type) -> list[str]:
    """Statements that make NAME_value of a parameter of more than one core value."""
    if isinstance(item, Record):
        fields = [lift(f"{name}-{entry.name}", entry.type) for entry in item.fields]
        return group(f"{snake(name)}_value = {class_name(item)}(", fields, ")", "    ")
    return [f"    {snake(name)}_value = {lift(name, item)}"]


def argument(name: str, item: Type) -> str:
    return f"{snake(name)}_value" if isinstance(item, Record | List | String) else lift(name, item)


def flat_name(flat: layout.Flat) -> str:
    return snake(flat.name)


def core_annotation(core: str) -> str:
    return "float" if core.startswith("f") else "int"


def lift(name: str, item: Type) -> str:
    match item:
        case Scalar("bool"):
            return f"bool({snake(name)})"
        case Enum():
            return f"{class_name(item)}({snake(name)})"
        case Record():
            fields = (lift(f"{name}-{entry.name}", entry.type) for entry in item.fields)
            return f"{class_name(item)}({', '.join(fields)})"
        case List() | String():
            return read_list(snake(name), item, "view")
        case _:
            return snake(name)


def lower_result(result: Result, call: str) -> list[str]:
    offset = layout.payload_offset(result)
    return [
        "    try:",
        f"        value = {call}",
        "    except InterfaceError as error:",
        f"        return write_error(memory, result, {offset}, error.code)",
        *lower_value(result.ok, offset),
        "    view[result] = 0",
        "    return None",
    ]


def lower_value(item: Type | None, offset: int) -> list[str]:
    """Writes `value` at result + offset; lists first go into the guest, which may move the memory."""
    match item:
        case Record():
            data = "value.pack()"
        case List() | String():
            data = f'struct.pack("<II", *{write_list("value", item)})'
        case Scalar(name):
            data = f'struct.pack("<{FORMATS[name]}", value)'
        case _:
            raise TypeError(f"no lowering of {item}")
    size = layout.size(item)
    return [
        f"    raw = {data}",
        "    view = memory.view()",
        f"    span(view, result, 1, {offset + size}, {layout.alignment(item)})",
        f"    view[result + {offset} : result + {offset + size}] = raw",
    ]


def import_table(interface: Interface) -> str:
    lines = [
        "@dataclass(frozen=True, slots=True)",
        "class Import:",
        "    name: str",
        "    params: str  # core types, separated by a space",
        "    results: str",
        "    adapter: Callable[..., int | None]  # (host, memory, *core values)",
        "",
        "",
        "IMPORTS: tuple[Import, ...] = (",
    ]
    for function in interface.functions.values():
        signature = layout.signature(function, imported=True)
        params, results = core_names(signature.core_params), core_names(signature.results)
        items = [f'"{function.name}"', params, results, f"import_{snake(function.name)}"]
        lines += [*group("Import(", items, ")", "    ")[:-1], group("Import(", items, ")", "    ")[-1] + ","]
    return "\n".join([*lines, ")"])


def core_names(cores: tuple[str, ...]) -> str:
    return f'"{" ".join(cores)}"'


# ---- exports ----


def guest_class(package: Package, interface: Interface) -> str:
    lines = [
        "class Guest:",
        '    """Typed calls of a guest\'s exports."""',
        "",
        "    # name: core parameters, core results",
        "    EXPORTS: ClassVar[Mapping[str, tuple[str, str]]] = {",
    ]
    for function in interface.functions.values():
        signature = layout.signature(function, imported=False)
        name = layout.export_name(package, interface, function)
        cores = f"({core_names(signature.core_params)}, {core_names(signature.results)})"
        lines.append(f'        "{name}": {cores},')
    lines += [
        "    }",
        "",
        "    def __init__(self, memory: GuestMemory, export: Callable[[str], Export | None]) -> None:",
        "        self.memory = memory",
    ]
    for function in interface.functions.values():
        name = layout.export_name(package, interface, function)
        lines.append(f'        self._{snake(function.name)} = required(export, "{name}")')
        if layout.needs_post(function):
            post = layout.post_name(package, interface, function)
            lines.append(f'        self._post_{snake(function.name)} = export("{post}")')
    for function in interface.functions.values():
        lines += ["", *guest_method(function)]
    required = [
        "Export = Callable[..., int]  # of core values; what an export without a result returns is not used",
        "",
        "",
        "def required(export: Callable[[str], Export | None], name: str) -> Export:",
        "    function = export(name)",
        "    if function is None:",
        '        raise AbiError(f"the guest does not export {name}")',
        "    return function",
    ]
    return "\n".join([*required, "", "", *lines])


def guest_method(function: Function) -> list[str]:
    signature = layout.signature(function, imported=False)
    params = "".join(f", {snake(entry.name)}: {annotation(entry.type)}" for entry in function.params)
    lines = [f"    def {snake(function.name)}(self{params}) -> {annotation(function.result)}:"]
    lines += docstring(function.docs, "        ")
    arguments = ", ".join(snake(entry.name) for entry in function.params)
    if signature.spilled:
        lines += [
            "        memory = self.memory",
            f"        data = {arguments}.pack(memory)",
            f"        arguments = write_list(memory, data, len(data), {arguments}.ALIGN)[0]",
        ]
        arguments = "arguments"
    call = f"self._{snake(function.name)}({arguments})"
    if not isinstance(function.result, Result):
        return [*lines, f"        {call}" if function.result is None else f"        return {call}"]
    lines += [f"        address = {call} & 0xFFFFFFFF", *guest_result(function.result)]
    if layout.needs_post(function):
        lines += [
            f"        if self._post_{snake(function.name)} is not None:",
            f"            self._post_{snake(function.name)}(address)",
        ]
    return [*lines, "        return value"]


def guest_result(result: Result) -> list[str]:
    offset = layout.payload_offset(result)
    size, align = layout.size(result), layout.alignment(result)
    match result.ok:
        case Record():
            value = f"{class_name(result.ok)}.unpack(view, address + {offset})"
        case Enum():
            value = f"{class_name(result.ok)}(view[address + {offset}])"
        case Scalar(name):
            value = f'int(struct.unpack_from("<{FORMATS[name]}", view, address + {offset})[0])'
        case _:
            raise TypeError(f"no lifting of {result.ok}")
    return [
        "        view = self.memory.view()",
        f"        span(view, address, 1, {size}, {align})",
        "        if view[address]:",
        f"            raise InterfaceError(ErrorCode(view[address + {offset}]))",
        f"        value = {value}",
    ]


def package_marker(package: Package) -> str:
    return f'# {NOTICE}\n"""Bindings made from guest_src/realm.wit."""\n'
