"""Emits docs/interface.md: the reference page of the guest interface, from the doc comments of realm.wit."""

from __future__ import annotations

from . import wit_layout as layout
from .wit import Enum, Function, Interface, List, Package, Record, Result, String, Type
from .wit_c import NOTICE

HEAD = """\
<!-- {notice} -->

# The guest interface

Package `{package}`. A guest is a core WebAssembly module that imports what it needs of
`{imports}` and exports all of
`{exports}`, each under the name in the interface, by the lowering of the component model's
canonical ABI. It also exports its memory as `memory` and `cabi_realloc`, by which the host places lists.

Work is asynchronous: an import that submits work returns a ticket at once. The host polls the guest again
when one of its tickets has made progress or ended; nothing in a guest blocks. Handles are u32; never 0.
"""


def reference(package: Package) -> str:
    (host,) = package.world.imports
    (guest,) = package.world.exports
    name = f"{package.namespace}:{package.name}@{package.version}"
    lines = [
        HEAD.format(notice=NOTICE, package=name, imports=package.path(host), exports=package.path(guest))
    ]
    lines += section("Exports of a guest", guest, imported=False)
    lines += section("Imports a guest may use", host, imported=True)
    lines += ["## Types", ""]
    for item in package.types:
        if item.name != "error-code":
            lines += type_section(item)
    lines += [
        "## Error codes",
        "",
        "In C each is `REALM_E_` and the name; a host's error has the name as its `code`.",
        "",
    ]
    lines += [
        f"- `{case.name}`: {sentence(case.docs)}"
        for item in package.types
        if isinstance(item, Enum) and item.name == "error-code"
        for case in item.cases
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


def section(title: str, interface: Interface, imported: bool) -> list[str]:
    lines = [f"## {title}", ""]
    for function in interface.functions.values():
        lines += function_lines(function, imported)
    return lines


def function_lines(function: Function, imported: bool) -> list[str]:
    params = ", ".join(f"{entry.name}: {type_text(entry.type)}" for entry in function.params)
    returned = f" -> {type_text(function.result)}" if function.result is not None else ""
    core = layout.signature(function, imported)
    lowered = f"({', '.join(core.core_params)}) -> ({', '.join(core.results)})"
    lines = [f"### `{function.name}({params}){returned}`", ""]
    if function.docs:
        lines += [sentence(function.docs), ""]
    return [*lines, f"Core: `{lowered}`", ""]


def type_section(item: Record | Enum) -> list[str]:
    lines = [f"### `{item.name}`", ""]
    if item.docs:
        lines += [sentence(item.docs), ""]
    if isinstance(item, Enum):
        rows = [f"| {n} | `{case.name}` | {sentence(case.docs)} |" for n, case in enumerate(item.cases)]
        return [*lines, "| value | case | |", "|---|---|---|", *rows, ""]
    lines += [f"{layout.size(item)} bytes, aligned to {layout.alignment(item)}.", ""]
    offsets = layout.field_offsets(item)
    rows = [
        f"| {offsets[entry.name]} | `{entry.name}` | `{type_text(entry.type)}` | {sentence(entry.docs)} |"
        for entry in item.fields
    ]
    return [*lines, "| offset | field | type | |", "|---|---|---|---|", *rows, ""]


def sentence(docs: str) -> str:
    return docs.replace("\n", " ").replace("<", "&lt;")


def type_text(item: Type | None) -> str:
    match item:
        case List(inner):
            return f"list<{type_text(inner)}>"
        case Result(ok, error):
            return f"result<{type_text(ok)}, {type_text(error)}>"
        case String():
            return "string"
        case None:
            return "_"
        case _:
            return item.name
