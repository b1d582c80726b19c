"""Emits C from the parsed interface: the guest's header and the core's status codes.

The guest's header declares every type with C's own layout, which on wasm32 is the canonical ABI's
(asserted there), so that the same guest source also compiles natively against a fake host.
"""

from __future__ import annotations

import textwrap

from . import wit_layout as layout
from .wit import Enum, Function, Interface, List, Package, Record, Result, Scalar, String, Type

WIDTH = 118
NOTICE = "Generated from guest_src/realm.wit by realm_build gen; do not edit."
SCALARS = {
    "bool": "bool", "u8": "uint8_t", "s8": "int8_t", "u16": "uint16_t", "s16": "int16_t", "u32": "uint32_t",
    "s32": "int32_t", "u64": "uint64_t", "s64": "int64_t", "f32": "float", "f64": "double",
}  # fmt: skip
CORES = {"i32": "uint32_t", "i64": "uint64_t", "f32": "float", "f64": "double"}


def snake(name: str) -> str:
    return name.replace("-", "_")


def upper(name: str) -> str:
    return snake(name).upper()


# ---- realm_status.h ----


def status_header(package: Package) -> str:
    """The error codes as the core's realm_status: index + 1, because 0 is success in C."""
    cases = error_codes(package).cases
    lines = [
        f"/* {NOTICE} */",
        "#ifndef REALM_STATUS_H",
        "#define REALM_STATUS_H",
        "",
        "/* Stable codes of every failure, the same in every host. */",
        "typedef enum realm_status {",
        "    REALM_OK = 0,",
        *(f"    REALM_E_{upper(item.name)} = {n}, /* {item.docs} */" for n, item in enumerate(cases, 1)),
        "} realm_status;",
        "",
        f"#define REALM_STATUS_COUNT {len(cases) + 1}",
        "/* Kebab-case names by code. */",
        "#define REALM_STATUS_NAMES { " + ", ".join(f'"{name}"' for name in status_names(package)) + " }",
        "",
        "#endif",
    ]
    return "\n".join(lines) + "\n"


def error_codes(package: Package) -> Enum:
    for item in package.types:
        if isinstance(item, Enum) and item.name == "error-code":
            return item
    raise TypeError("the interface declares no enum error-code")


def status_names(package: Package) -> list[str]:
    return ["ok", *(case.name for case in error_codes(package).cases)]


# ---- realm_abi.h ----

HEAD = """\
/* {notice}
 *
 * The interface as a guest written in C sees it. A guest defines the realm_guest_... functions and
 * cabi_realloc, and calls the realm_host_... functions. Lists that those return come from cabi_realloc and
 * belong to the guest.
 * Outside WebAssembly the imports are ordinary functions, for tests with a fake host.
 */
#ifndef REALM_ABI_H
#define REALM_ABI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __wasm__
#define REALM_IMPORT(module, name) __attribute__((import_module(module), import_name(name)))
#define REALM_EXPORT(name) __attribute__((export_name(name)))
#define REALM_LAYOUT(condition) _Static_assert(condition, "canonical ABI layout")
#else
#define REALM_IMPORT(module, name)
#define REALM_EXPORT(name)
#define REALM_LAYOUT(condition) _Static_assert(1, "native layout")
#endif
"""


def guest_header(package: Package) -> str:
    parts = [HEAD.format(notice=NOTICE), *TypeEmitter(package).emit()]
    for interface in package.world.imports:
        parts.append(f"/* ---- imports: {package.path(interface)} ---- */\n")
        parts += [import_declaration(package, interface, item) for item in interface.functions.values()]
    for interface in package.world.exports:
        parts.append(f"/* ---- exports: {package.path(interface)} ---- */\n")
        parts += [export_declaration(package, interface, item) for item in interface.functions.values()]
    parts.append(
        "/* Where the host puts lists it gives to the guest. Traps when there is no memory. */\n"
        'REALM_EXPORT("cabi_realloc")\n'
        "void *cabi_realloc(void *old, size_t old_size, size_t align, size_t new_size);\n"
    )
    return "\n".join(parts) + "\n#endif\n"


class TypeEmitter:
    """Type definitions in an order C accepts: a list type stands before the first record that holds it."""

    def __init__(self, package: Package) -> None:
        self.package = package
        self.parts: list[str] = []
        self.lists: set[List | String] = set()

    def emit(self) -> list[str]:
        for item in self.package.types:
            if isinstance(item, Enum):
                self.parts.append(enum_definition(item))
            else:
                self.record(item)
        for used in layout.list_types(self.package):
            self.list(used)
        self.parts += [result_definition(item) for item in layout.result_types(self.package)]
        return self.parts

    def record(self, record: Record) -> None:
        for entry in record.fields:
            if isinstance(entry.type, List | String):
                self.list(entry.type)
        lines = [f"typedef struct {type_name(record)} {{"]
        for entry in record.fields:
            lines += comment(entry.docs, "    ")
            lines.append(f"    {type_name(entry.type)} {snake(entry.name)};")
        lines.append(f"}} {type_name(record)};")
        lines += [
            f"REALM_LAYOUT(offsetof({type_name(record)}, {snake(name)}) == {offset});"
            for name, offset in layout.field_offsets(record).items()
        ]
        self.parts.append("\n".join([*comment(record.docs), *lines, size_check(record)]) + "\n")

    def list(self, item: List | String) -> None:
        if item in self.lists:
            return
        self.lists.add(item)
        name = type_name(item)
        self.parts.append(f"typedef struct {name} {{ {item_name(item)} *ptr; size_t len; }} {name};\n")


def enum_definition(item: Enum) -> str:
    lines = [*comment(item.docs), f"typedef uint8_t {type_name(item)};", "enum {"]
    for number, case in enumerate(item.cases):
        lines += comment(case.docs, "    ")
        lines.append(f"    REALM_{upper(item.name)}_{upper(case.name)} = {number},")
    return "\n".join([*lines, "};"]) + "\n"


def result_definition(item: Result) -> str:
    name = type_name(item)
    ok, error = type_name(item.ok), type_name(item.error)
    offset = layout.payload_offset(item)
    return (
        f"typedef struct {name} {{\n    uint8_t is_error;\n"
        f"    union {{ {ok} ok; {error} error; }};\n}} {name};\n"
        f"REALM_LAYOUT(offsetof({name}, ok) == {offset});\n{size_check(item)}\n"
    )


def size_check(item: Record | Result) -> str:
    return f"REALM_LAYOUT(sizeof({type_name(item)}) == {layout.size(item)});"


def type_name(item: Type | None) -> str:
    match item:
        case Scalar(name):
            return SCALARS[name]
        case String():
            return "realm_string"
        case List(inner):
            return f"realm_list_{short_name(inner)}"
        case Result(ok, _):
            return f"realm_result_{short_name(ok)}"
        case Record() | Enum():
            return f"realm_{snake(item.name)}"
        case None:
            return "void"


def short_name(item: Type | None) -> str:
    match item:
        case Scalar(name) | Record(name) | Enum(name):
            return snake(name)
        case _:
            return type_name(item).removeprefix("realm_")


def item_name(item: List | String) -> str:
    return "char" if isinstance(item, String) else type_name(item.item)


def comment(docs: str, indent: str = "") -> list[str]:
    """The lines of a block comment; none when there is nothing to say."""
    lines = [part for line in docs.split("\n") for part in textwrap.wrap(line, WIDTH - 6 - len(indent))]
    if not lines:
        return []
    starts = ["/*", *[" *"] * (len(lines) - 1)]
    ends = [*[""] * (len(lines) - 1), " */"]
    return [f"{indent}{start} {line}{end}" for start, line, end in zip(starts, lines, ends, strict=True)]


# ---- functions ----


def import_declaration(package: Package, interface: Interface, function: Function) -> str:
    """The import itself (core values) and an inline wrapper with the interface's own types."""
    signature = layout.signature(function, imported=True)
    flat = [raw_param(item) for item in signature.params]
    if signature.by_pointer:
        flat[-1] = f"{type_name(function.result)} *result"
    returned = CORES[signature.results[0]] if signature.results else "void"
    raw = f"realm_import_{snake(function.name)}"
    return (
        "\n".join(
            [
                f'REALM_IMPORT("{package.path(interface)}", "{function.name}")',
                prototype(f"extern {returned} {raw}", flat, ";"),
                *comment(function.docs),
                *wrapper(interface, function, raw, signature.by_pointer),
            ]
        )
        + "\n"
    )


def raw_param(flat: layout.Flat) -> str:
    name = snake(flat.name)
    if isinstance(flat.type, List | String):
        return f"size_t {name}" if flat.name.endswith("-len") else f"const {item_name(flat.type)} *{name}"
    return f"{CORES[flat.core]} {name}"


def wrapper(interface: Interface, function: Function, raw: str, by_pointer: bool) -> list[str]:
    params: list[str] = []
    arguments: list[str] = []
    for entry in function.params:
        name = snake(entry.name)
        match entry.type:
            case Record():
                params.append(f"const {type_name(entry.type)} *{name}")
                arguments += record_arguments(f"{name}->", entry.type)
            case List() | String():
                params += [f"const {item_name(entry.type)} *{name}", f"size_t {name}_len"]
                arguments += [name, f"{name}_len"]
            case _:
                params.append(f"{type_name(entry.type)} {name}")
                arguments.append(name)
    result = type_name(function.result)
    name = f"realm_{snake(interface.name)}_{snake(function.name)}"
    head = prototype(f"static inline {result} {name}", params, " {")
    if by_pointer:
        call = prototype(f"    {raw}", [*arguments, "&result"], ";")
        return [head, f"    {result} result;", call, "    return result;", "}"]
    before = "    " if function.result is None else f"    return ({result})"
    return [head, prototype(before + raw, arguments or [""], ";"), "}"]


def prototype(head: str, items: list[str], tail: str) -> str:
    """`head(items)tail`, continued on indented lines where it is too long."""
    indent = head[: len(head) - len(head.lstrip())]
    lines = [head + "("]
    for number, item in enumerate(items or ["void"]):
        text = item + (", " if number + 1 < len(items) else f"){tail}")
        if len(lines[-1] + text.rstrip()) > WIDTH:
            lines[-1] = lines[-1].rstrip()
            lines.append(f"{indent}    ")
        lines[-1] += text
    return "\n".join(lines)


def record_arguments(prefix: str, record: Record) -> list[str]:
    arguments: list[str] = []
    for entry in record.fields:
        member = prefix + snake(entry.name)
        if isinstance(entry.type, Record):
            arguments += record_arguments(f"{member}.", entry.type)
        elif isinstance(entry.type, List | String):
            arguments += [f"{member}.ptr", f"{member}.len"]
        else:
            arguments.append(member)
    return arguments


def export_declaration(package: Package, interface: Interface, function: Function) -> str:
    signature = layout.signature(function, imported=False)
    if signature.spilled:
        record = layout.spilled_record(function)
        params = [f"{type_name(record)} *{snake(function.params[0].name)}"]
    else:
        params = [raw_param(item) for item in signature.params]
    returned = "void "
    if signature.by_pointer:
        returned = f"{type_name(function.result)} *"
    elif signature.results:
        returned = CORES[signature.results[0]] + " "
    name = f"{snake(interface.name)}_{snake(function.name)}"
    lines = [
        *comment(function.docs),
        f'REALM_EXPORT("{layout.export_name(package, interface, function)}")',
        prototype(f"{returned}realm_{name}", params, ";"),
    ]
    if layout.needs_post(function):
        lines += [
            "/* Called when the host has read the result above. */",
            f'REALM_EXPORT("{layout.post_name(package, interface, function)}")',
            f"void realm_{snake(interface.name)}_post_{snake(function.name)}"
            f"({type_name(function.result)} *result);",
        ]
    return "\n".join(lines) + "\n"
