"""The core's C interface for TypeScript: layouts, constants and functions of realm.h inside a wasm32 module.

Reads the headers with pycparser. A struct becomes an interface, its size, a reader and a writer; pointers
and size_t are numbers, 64-bit integers are bigints, as JavaScript engines pass them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pycparser import c_ast, c_parser

from .cffi_abi import declarations

RECORDS = ("core/include/realm_records.h",)  # records.py makes the readers of these
HEADERS = ("core/include/realm_status.h", *RECORDS, "core/include/realm.h")
INITIAL_PAGES = 64
MAXIMUM_PAGES = 65535  # one short of 4 GiB, so that every end of a region is a 32-bit number
# What platform_wasm.c exports: beside realm.h, because only a host of WebAssembly calls it.
WASM_FUNCTIONS = """
void *realm_wasm_alloc(uint32_t bytes);
void realm_wasm_free(void *p);
"""
# And in the builds with threads.
THREAD_FUNCTIONS = """
void *realm_wasm_seat_create(void);
void *realm_wasm_seat_stack(const void *seat);
void *realm_wasm_seat_tls(const void *seat);
void realm_wasm_seat_serve(void *seat);
uint32_t realm_wasm_seat_ready(const void *seat);
void realm_wasm_seat_leave(void *seat);
"""
PRELUDE = (
    "typedef int int32_t; typedef unsigned uint32_t, size_t; "
    "typedef unsigned long long uint64_t; typedef unsigned short uint16_t;\n"
)
BANNER = """// Generated from core/include/realm.h by realm_build gen; do not edit.
// The core's C interface inside a wasm32 module. Addresses are numbers, 64-bit integers bigints.

const text = new TextDecoder();

/** A NUL-terminated text; copied, because a decoder does not take shared memory. */
function readText(view: DataView, at: number, cap: number): string {
  const bytes = new Uint8Array(view.buffer, at, cap).slice();
  const end = bytes.indexOf(0);
  return text.decode(end < 0 ? bytes : bytes.subarray(0, end));
}
"""


@dataclass(frozen=True)
class Scalar:
    size: int
    typescript: str
    view: str  # of DataView's get and set


SCALARS = {
    "int": Scalar(4, "number", "Int32"),
    "int32_t": Scalar(4, "number", "Int32"),
    "uint32_t": Scalar(4, "number", "Uint32"),
    "size_t": Scalar(4, "number", "Uint32"),
    "uint64_t": Scalar(8, "bigint", "BigUint64"),
    "float": Scalar(4, "number", "Float32"),
    "double": Scalar(8, "number", "Float64"),
}
POINTER = SCALARS["uint32_t"]


@dataclass(frozen=True)
class Field:
    name: str
    offset: int
    scalar: Scalar
    text: int = 0  # the capacity of a NUL-terminated text


@dataclass(frozen=True)
class Struct:
    name: str
    size: int
    fields: tuple[Field, ...]


# ---- reading the headers ----


@functools.cache
def parsed() -> c_ast.FileAST:
    return c_parser.CParser().parse(PRELUDE + declarations(HEADERS) + WASM_FUNCTIONS + THREAD_FUNCTIONS)


def functions() -> Iterator[tuple[str, c_ast.FuncDecl]]:
    for node in parsed().ext:
        if isinstance(node, c_ast.Decl) and isinstance(node.type, c_ast.FuncDecl):
            yield node.name, node.type


def own_nodes() -> Iterator[c_ast.Node]:
    """What realm.h declares itself."""
    records = {node.name for node in c_parser.CParser().parse(PRELUDE + declarations(RECORDS)).ext}
    return (node for node in parsed().ext if node.name is None or node.name not in records)


def structs() -> Iterator[Struct]:
    for node in own_nodes():
        if isinstance(node, c_ast.Typedef) and isinstance(node.type, c_ast.TypeDecl):
            kind = node.type.type
            if isinstance(kind, c_ast.Struct) and kind.decls:
                yield laid_out(node.name, kind.decls)


def laid_out(name: str, members: Iterable[c_ast.Decl]) -> Struct:
    fields, at, alignment = [], 0, 1
    for member in members:
        scalar, count = member_type(member.type)
        at = (at + scalar.size - 1) // scalar.size * scalar.size
        alignment = max(alignment, scalar.size)
        if member.name != "reserved":
            fields.append(Field(camel(member.name), at, scalar, count if scalar.size == 1 else 0))
        at += scalar.size * count
    return Struct(name, (at + alignment - 1) // alignment * alignment, tuple(fields))


def member_type(kind: c_ast.Node) -> tuple[Scalar, int]:
    if isinstance(kind, c_ast.PtrDecl):
        return POINTER, 1
    if isinstance(kind, c_ast.ArrayDecl):
        element = type_name(kind.type)
        count = int(kind.dim.value)
        return (Scalar(1, "string", "") if element == "char" else SCALARS[element]), count
    return scalar_of(kind), 1


def scalar_of(kind: c_ast.Node) -> Scalar:
    if isinstance(kind, c_ast.PtrDecl):
        return POINTER
    name = type_name(kind)
    return SCALARS.get(name) or SCALARS["int"]  # else an enum


def type_name(kind: c_ast.Node) -> str:
    assert isinstance(kind, c_ast.TypeDecl)
    return " ".join(kind.type.names) if isinstance(kind.type, c_ast.IdentifierType) else kind.type.name


def constants() -> Iterator[tuple[str, int]]:
    """Enumerators, but for the status codes: the glue of realm.wit has those."""
    for node in own_nodes():
        kind = node.type.type if isinstance(node, c_ast.Typedef) else node.type
        if isinstance(kind, c_ast.Enum) and kind.values:
            value = -1
            for item in kind.values.enumerators:
                value = int(item.value.value.rstrip("uU"), 0) if item.value else value + 1
                if not re.match(r"REALM_(E_|OK$)", item.name):
                    yield item.name, value


# ---- writing TypeScript ----


def generate() -> str:
    """The text of js/src/_generated/core.ts."""
    numbers = [("INITIAL_PAGES", INITIAL_PAGES), ("MAXIMUM_PAGES", MAXIMUM_PAGES), *constants()]
    parts = [
        BANNER,
        "".join(f"export const {name} = {value};\n" for name, value in numbers),
        exports(),
        *(struct_text(struct) for struct in structs()),
    ]
    return "\n".join(parts)


def exports() -> str:
    lines = {name: f"  {name}({parameters(kind)}): {result(kind)};" for name, kind in functions()}
    seats = [line for name, line in lines.items() if name.startswith("realm_wasm_seat")]
    rest = [line for line in lines.values() if line not in seats]
    return "\n".join(
        [
            "/** What a module of the core exports. */",
            "export interface CoreExports {", *rest, "}\n",
            "/** And with threads: the places where workers sit and serve. */",
            "export interface SeatExports {", *seats, "}\n",
        ]
    )  # fmt: skip


def parameters(kind: c_ast.FuncDecl) -> str:
    declared = [p for p in kind.args.params if isinstance(p, c_ast.Decl)] if kind.args else []
    return ", ".join(f"{camel(p.name)}: {scalar_of(p.type).typescript}" for p in declared)


def result(kind: c_ast.FuncDecl) -> str:
    plain = not isinstance(kind.type, c_ast.PtrDecl)
    return "void" if plain and type_name(kind.type) == "void" else scalar_of(kind.type).typescript


def struct_text(struct: Struct) -> str:
    name = camel(struct.name.replace("realm_", "core_", 1))
    name = name[0].upper() + name[1:]
    kinds = "".join(f"  {field.name}: {field.scalar.typescript};\n" for field in struct.fields)
    reads = "".join(f"    {field.name}: {read(field)},\n" for field in struct.fields)
    writes = "".join(f"  {write(field)};\n" for field in struct.fields if not field.text)
    reader = f"export function read{name}(view: DataView, at: number): {name}"
    writer = f"export function write{name}(view: DataView, at: number, value: {name}): void"
    return (
        f"export interface {name} {{\n{kinds}}}\n\n"
        f"export const {struct.name.upper()}_SIZE = {struct.size};\n\n"
        f"{reader} {{\n  return {{\n{reads}  }};\n}}\n\n"
        f"{writer} {{\n{writes}}}\n"
    )


def read(field: Field) -> str:
    if field.text:
        return f"readText(view, at + {field.offset}, {field.text})"
    return f"view.get{field.scalar.view}(at + {field.offset}, true)"


def write(field: Field) -> str:
    return f"view.set{field.scalar.view}(at + {field.offset}, value.{field.name}, true)"


def camel(name: str) -> str:
    return re.sub(r"_([a-z0-9])", lambda match: match[1].upper(), name)
