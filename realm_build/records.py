"""Readers of the records of core/include/realm_records.h, for TypeScript and Python.

cffi parses the header and says where each field lies, so a size or an offset is never typed twice. Each
emitter goes through the same three lists: constants, enums, records.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import cffi

from .paths import ROOT

HEADER = "core/include/realm_records.h"
SOURCE_NOTE = f"generated from {HEADER} by realm_build gen; do not edit"


@dataclass(frozen=True)
class Field:
    name: str
    kind: str  # "u16", "u32", "u64" or "f32"
    offset: int
    length: int = 0  # elements of an array; 0: a scalar


@dataclass(frozen=True)
class Record:
    name: str
    size: int
    fields: tuple[Field, ...]


@dataclass(frozen=True)
class Description:
    constants: dict[str, int]
    enums: dict[str, dict[str, int]]
    records: tuple[Record, ...]


KINDS = {"uint16_t": "u16", "uint32_t": "u32", "uint64_t": "u64", "float": "f32"}


# ---- reading the header ----


def declarations() -> str:
    """The header without comments, preprocessor lines and checks: C that cffi's parser accepts."""
    text = (ROOT / HEADER).read_text(encoding="utf-8")
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    return re.sub(r"^(#|REALM_RECORD_SIZE).*$", "", text, flags=re.MULTILINE)


def describe() -> Description:
    text = (ROOT / HEADER).read_text(encoding="utf-8")
    constants = {name: int(value) for name, value in re.findall(r"^#define (REALM_\w+) (\d+)", text, re.M)}
    ffi = cffi.FFI()
    ffi.cdef(declarations())
    names = [name for name in ffi.list_types()[0] if name.startswith("realm_")]
    types = {name: ffi.typeof(name) for name in names}
    return Description(
        constants,
        {
            name: dict(sorted(kind.relements.items(), key=lambda one: one[1]))
            for name, kind in types.items()
            if kind.kind == "enum"
        },
        tuple(record_of(ffi, name, kind) for name, kind in types.items() if kind.kind == "struct"),
    )


def record_of(ffi: cffi.FFI, name: str, kind: Any) -> Record:
    fields = [field_of(field_name, field) for field_name, field in kind.fields if field_name != "reserved"]
    return Record(name, ffi.sizeof(kind), tuple(fields))


def field_of(name: str, field: Any) -> Field:
    kind = field.type
    if kind.kind == "array":
        return Field(name, KINDS[kind.item.cname], field.offset, kind.length)
    return Field(name, KINDS[kind.cname], field.offset)


# ---- TypeScript ----

GETTERS = {
    "u16": "view.getUint16({at}, true)",
    "u32": "view.getUint32({at}, true)",
    "u64": "u64(view, {at})",
    "f32": "view.getFloat32({at}, true)",
}


def typescript() -> str:
    """js/src/_generated/records.ts: an interface, a size and a reader for each record."""
    all_of = describe()
    parts = [
        f"// {SOURCE_NOTE.capitalize()}.",
        "\n".join(f"export const {short(name)} = {value};" for name, value in all_of.constants.items()),
        *(typescript_enum(name, members) for name, members in all_of.enums.items()),
        "/** Exact up to 2^53, far above any address or file. */\n"
        "const u64 = (view: DataView, at: number): number =>\n"
        "  view.getUint32(at, true) + view.getUint32(at + 4, true) * 4294967296;",
        *(typescript_record(record) for record in all_of.records),
    ]
    return "\n\n".join(parts) + "\n"


def typescript_enum(name: str, members: dict[str, int]) -> str:
    prefix = common_prefix(list(members))
    rows = "\n".join(f"  {member[len(prefix) :]}: {value}," for member, value in members.items())
    return f"export const {pascal(name)} = {{\n{rows}\n}} as const;"


def typescript_record(record: Record) -> str:
    name = pascal(record.name)
    types = "\n".join(
        f"  {camel(f.name)}: {'readonly number[]' if f.length else 'number'};" for f in record.fields
    )
    values = "\n".join(f"    {camel(f.name)}: {typescript_value(f)}," for f in record.fields)
    return (
        f"export interface {name} {{\n{types}\n}}\n\n"
        f"export const {constant(record.name)}_BYTES = {record.size};\n\n"
        f"export function read{name}(view: DataView, at: number): {name} {{\n  return {{\n{values}\n  }};\n}}"
    )


def typescript_value(field: Field) -> str:
    if not field.length:
        return GETTERS[field.kind].format(at=f"at + {field.offset}")
    step = 8 if field.kind == "u64" else int(field.kind[1:]) // 8
    getter = GETTERS[field.kind].format(at=f"at + {field.offset} + {step} * i")
    return f"Array.from({{ length: {field.length} }}, (_, i) => {getter})"


# ---- Python ----

NUMPY = {"u16": "<u2", "u32": "<u4", "u64": "<u8", "f32": "<f4"}


def python() -> str:
    """host_python/realm/_generated/records.py: NumPy dtypes and enums."""
    all_of = describe()
    parts = [
        f'"""{SOURCE_NOTE.capitalize()}."""',
        "# ruff: noqa: E501\n# fmt: off",
        "from __future__ import annotations\n\nfrom enum import IntEnum\n\nimport numpy as np",
        "\n".join(f"{short(name)} = {value}" for name, value in all_of.constants.items()),
        *(python_enum(name, members) for name, members in all_of.enums.items()),
        *(python_record(record) for record in all_of.records),
    ]
    return "\n\n".join(parts) + "\n"


def python_enum(name: str, members: dict[str, int]) -> str:
    prefix = common_prefix(list(members))
    rows = "\n".join(f"    {member[len(prefix) :]} = {value}" for member, value in members.items())
    return f"\nclass {pascal(name)}(IntEnum):\n{rows}\n"


def python_record(record: Record) -> str:
    names = [f.name for f in record.fields]
    formats = [
        f"({NUMPY[f.kind]!r}, ({f.length},))" if f.length else repr(NUMPY[f.kind]) for f in record.fields
    ]
    offsets = [f.offset for f in record.fields]
    return (
        f"{constant(record.name)} = np.dtype({{\n"
        f'    "names": {names},\n'
        f'    "formats": [{", ".join(formats)}],\n'
        f'    "offsets": {offsets},\n'
        f'    "itemsize": {record.size},\n'
        f"}})"
    )


# ---- names ----


def common_prefix(members: list[str]) -> str:
    """REALM_OP_ of REALM_OP_EMBED, REALM_OP_RMSNORM, ...: whole words only."""
    words = [member.split("_") for member in members]
    shared = 0
    while len({tuple(parts[: shared + 1]) for parts in words}) == 1:
        shared += 1
    return "_".join(words[0][:shared]) + "_"


def short(name: str) -> str:
    return name.removeprefix("REALM_")


def constant(name: str) -> str:
    return name.removeprefix("realm_").upper()


def pascal(name: str) -> str:
    return "".join(word.capitalize() for word in name.removeprefix("realm_").split("_"))


def camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
