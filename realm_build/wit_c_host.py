"""Emits host_python/native/realm_imports.h: the interface as a native host sees it.

Numbers only (indices, core signatures, offsets and sizes in guest memory): a host reads the memory of a
guest, which it does not trust, by checked offsets and not by pointers to structs.
"""

from __future__ import annotations

from . import wit_layout as layout
from .wit import Enum, Function, Interface, Package, Record
from .wit_c import NOTICE, short_name, upper

LETTERS = {"i32": "i", "i64": "l", "f32": "f", "f64": "d"}


def native_header(package: Package) -> str:
    (host,) = package.world.imports
    (guest,) = package.world.exports
    lines = [
        f"/* {NOTICE}",
        " *",
        " * Core signatures have a letter for each value: i i32, l i64, f f32, d f64. A result of more than",
        " * one core value is written to the address in the last parameter (imports) or stands at the",
        " * address returned (exports).",
        " */",
        "#ifndef REALM_IMPORTS_H",
        "#define REALM_IMPORTS_H",
        "",
        f'#define REALM_IMPORT_MODULE "{package.path(host)}"',
        "",
        "enum {",
        *(f"    REALM_IMPORT_{upper(name)} = {n}," for n, name in enumerate(host.functions)),
        f"    REALM_IMPORT_COUNT = {len(host.functions)}",
        "};",
        "",
        "/* X(NAME, name, core parameters, core results), in the order of the indices. */",
        "#define REALM_IMPORTS(X) \\",
        " \\\n".join(f"    {import_row(function)}" for function in host.functions.values()),
        "",
        *export_names(package, guest),
        "",
        "/* Offsets and sizes in guest memory, by the canonical ABI. */",
    ]
    for item in package.types:
        lines += record_lines(item) if isinstance(item, Record) else enum_lines(item)
    for result in layout.result_types(package):
        prefix = f"REALM_RESULT_{short_name(result.ok).upper()}"
        lines.append(f"#define {prefix}_VALUE {layout.payload_offset(result)} /* after is-error, a byte */")
        lines += size_lines(prefix, layout.size(result), layout.alignment(result))
    return "\n".join([*lines, "", "#endif"]) + "\n"


def import_row(function: Function) -> str:
    signature = layout.signature(function, imported=True)
    params, results = letters(signature.core_params), letters(signature.results)
    return f'X({upper(function.name)}, "{function.name}", "{params}", "{results}")'


def letters(cores: tuple[str, ...]) -> str:
    return "".join(LETTERS[core] for core in cores)


def export_names(package: Package, interface: Interface) -> list[str]:
    lines = ['#define REALM_EXPORT_REALLOC "cabi_realloc"']
    for function in interface.functions.values():
        name = layout.export_name(package, interface, function)
        lines.append(f'#define REALM_EXPORT_{upper(function.name)} "{name}"')
        if layout.needs_post(function):
            post = layout.post_name(package, interface, function)
            lines.append(f'#define REALM_EXPORT_POST_{upper(function.name)} "{post}"')
    return lines


def record_lines(record: Record) -> list[str]:
    prefix = f"REALM_{upper(record.name)}"
    offsets = layout.field_offsets(record).items()
    lines = [f"#define {prefix}_{upper(name)} {offset}" for name, offset in offsets]
    return lines + size_lines(prefix, layout.size(record), layout.alignment(record))


def size_lines(prefix: str, size: int, align: int) -> list[str]:
    return [f"#define {prefix}_SIZE {size}", f"#define {prefix}_ALIGN {align}"]


def enum_lines(item: Enum) -> list[str]:
    """Wire values; the error codes have the status header (wire value + 1)."""
    if item.name == "error-code":
        return []
    cases = [f"REALM_WIRE_{upper(item.name)}_{upper(case.name)} = {n}" for n, case in enumerate(item.cases)]
    return ["enum {", *(f"    {case}," for case in cases), "};"]
