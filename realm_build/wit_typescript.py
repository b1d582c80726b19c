"""Emits js/src/_generated/abi.ts: the interface as the JavaScript hosts (Node and the browser) see it.

Enums become unions of their names, records interfaces with readers and writers over guest memory, imports one
adapter each between core values and a method of the Host interface, exports a class of typed calls. Lists
are views of the guest's memory on the way in, and are copied into it on the way out.
"""

from __future__ import annotations

from . import wit_layout as layout
from .wit import Enum, Function, Interface, List, Package, Record, Result, Scalar, String, Type, has_pointer
from .wit_c import NOTICE

GETTERS = {
    "bool": "Uint8", "u8": "Uint8", "s8": "Int8", "u16": "Uint16", "s16": "Int16", "u32": "Uint32",
    "s32": "Int32", "u64": "BigUint64", "s64": "BigInt64", "f32": "Float32", "f64": "Float64",
}  # fmt: skip
ARRAYS = {"u8": "Uint8Array", "u32": "Uint32Array", "f32": "Float32Array"}
BYTE_TYPES = ("bool", "u8", "s8")
LINE = 110

HEAD = """\
// {notice}
// The interface between host and guest by the canonical ABI; docs/interface.md describes it.

export const PACKAGE = '{package}';
export const IMPORT_MODULE = '{imports}';
export const EXPORT_MODULE = '{exports}';

/** The guest broke the canonical ABI: an address outside its memory, a value that does not exist. */
export class AbiError extends Error {{}}

/** The error of a result, in either direction. */
export class InterfaceError extends Error {{
  constructor(readonly code: ErrorCode) {{
    super(code);
  }}
}}

/** The memory of one instance. */
export interface GuestMemory {{
  /** All of it as it is now: any call into the guest may move it. */
  view(): DataView;
  /** The guest's cabi_realloc for new memory: its address. */
  allocate(size: number, align: number): number;
}}

/** Records one after the other, in the layout they have in the guest's memory. */
export type Packed = Uint8Array;

/** Checks that `count` items of `size` bytes at the address are aligned and inside the memory. */
export function span(view: DataView, address: number, count: number, size: number, align: number): void {{
  if (address % align !== 0 || address + count * size > view.byteLength) {{
    const items = `${{count}} items of ${{size}} bytes`;
    throw new AbiError(`${{items}} at address ${{address}} are not inside the memory`);
  }}
}}

function readBytes(view: DataView, address: number, count: number, size = 1, align = 1): Uint8Array {{
  span(view, address, count, size, align);
  return new Uint8Array(view.buffer, address, count * size);
}}

function readUint32Array(view: DataView, address: number, count: number): Uint32Array {{
  span(view, address, count, 4, 4);
  return new Uint32Array(view.buffer, address, count);
}}

function readFloat32Array(view: DataView, address: number, count: number): Float32Array {{
  span(view, address, count, 4, 4);
  return new Float32Array(view.buffer, address, count);
}}

const decoder = new TextDecoder();

/** Puts the bytes of a list into the guest: its address. */
function writeList(memory: GuestMemory, data: ArrayBufferView, align: number): number {{
  if (data.byteLength === 0) return align;
  const address = memory.allocate(data.byteLength, align);
  const view = memory.view();
  span(view, address, data.byteLength, 1, 1);
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  new Uint8Array(view.buffer, address, data.byteLength).set(bytes);
  return address;
}}

/** Writes the error case of a result whose payload stands at `offset`; any other exception is a trap. */
function writeError(memory: GuestMemory, address: number, offset: number, error: unknown): void {{
  if (!(error instanceof InterfaceError)) throw error;
  const view = memory.view();
  span(view, address, 1, offset + 1, 1);
  view.setUint8(address, 1);
  view.setUint8(address + offset, ERROR_CODES.indexOf(error.code));
}}

function named<Name extends string>(names: readonly Name[], value: number): Name {{
  const name = names[value];
  if (name === undefined) throw new AbiError(`there is no value ${{value}} among ${{names.join(', ')}}`);
  return name;
}}
"""

TAIL = """\
function errorAt(view: DataView, address: number): InterfaceError {
  return new InterfaceError(named(ERROR_CODES, view.getUint8(address)));
}

/** A record whose lists are copies: they outlive what the guest does next with its memory. */
function detached<T extends object>(value: T): T {
  const copied = (item: unknown): unknown => (ArrayBuffer.isView(item) ? (item as Uint8Array).slice() : item);
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, copied(item)])) as T;
}

export type Export = (...values: number[]) => number;

function required(find: (name: string) => Export | undefined, name: string): Export {
  const found = find(name);
  if (!found) throw new AbiError(`the guest does not export ${name}`);
  return found;
}
"""


def typescript_glue(package: Package) -> str:
    (host,) = package.world.imports
    (guest,) = package.world.exports
    head = HEAD.format(
        notice=NOTICE,
        package=f"{package.namespace}:{package.name}@{package.version}",
        imports=package.path(host),
        exports=package.path(guest),
    )
    parts = [head]
    parts += [enum_type(item) if isinstance(item, Enum) else record_type(item) for item in package.types]
    parts += [
        host_interface(host),
        import_table(host),
        import_adapters(host),
        TAIL,
        guest_class(package, guest),
    ]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def class_name(item: Record | Enum) -> str:
    return "".join(word.capitalize() for word in item.name.split("-"))


def camel(name: str) -> str:
    first, *rest = name.split("-")
    return first + "".join(word.capitalize() for word in rest)


def names_of(item: Enum) -> str:
    name = item.name.replace("-", "_").upper()
    return name + ("ES" if name.endswith("SH") else "S")


def annotation(item: Type | None) -> str:
    match item:
        case None:
            return "void"
        case Scalar("bool"):
            return "boolean"
        case Scalar("u64" | "s64"):
            return "bigint"
        case Scalar():
            return "number"
        case String():
            return "string"
        case List(Scalar(name)):
            return ARRAYS[name]
        case List():
            return "Packed"
        case Result(ok, _):
            return annotation(ok)
        case Record() | Enum():
            return class_name(item)
    raise TypeError(f"no TypeScript for {item}")


def comment(docs: str, indent: str = "") -> list[str]:
    lines = [line for line in docs.split("\n") if line]
    if not lines:
        return []
    if len(lines) == 1:
        return [f"{indent}/** {lines[0]} */"]
    return [f"{indent}/**", *(f"{indent} * {line}" for line in lines), f"{indent} */"]


def call(head: str, items: list[str], tail: str, indent: str) -> list[str]:
    """`head(items)tail`, one item a line where it is too long."""
    line = indent + head + ", ".join(items) + tail
    return (
        [line]
        if len(line) <= LINE
        else [indent + head, *(f"{indent}  {item}," for item in items), indent + tail]
    )


# ---- enums and records ----


def enum_type(item: Enum) -> str:
    names = names_of(item)
    lines = [*comment(item.docs), f"export const {names} = ["]
    for case in item.cases:
        lines += comment(case.docs, "  ")
        lines.append(f"  '{case.name}',")
    return "\n".join([*lines, "] as const;", f"export type {class_name(item)} = (typeof {names})[number];"])


def record_type(record: Record) -> str:
    name = class_name(record)
    lines = [*comment(record.docs), f"export interface {name} {{"]
    for entry in record.fields:
        lines += comment(entry.docs, "  ")
        lines.append(f"  {camel(entry.name)}: {annotation(entry.type)};")
    constant = record.name.replace("-", "_").upper()
    sizes = [f"export const {constant}_SIZE = {layout.size(record)};"]
    sizes.append(f"export const {constant}_ALIGN = {layout.alignment(record)};")
    return "\n".join([*lines, "}", *sizes, "", *record_reader(record), "", *record_writer(record)])


def record_reader(record: Record) -> list[str]:
    name = class_name(record)
    lines = [
        f"export function read{name}(view: DataView, address: number): {name} {{",
        record_span(record),
        "  return {",
    ]
    for entry in record.fields:
        value = load(entry.type, layout.field_offsets(record)[entry.name])
        lines.append(f"    {camel(entry.name)}: {value},")
    return [*lines, "  };", "}"]


def record_span(record: Record) -> str:
    return f"  span(view, address, 1, {layout.size(record)}, {layout.alignment(record)});"


def at(offset: int) -> str:
    return f"address + {offset}" if offset else "address"


def load(item: Type, offset: int) -> str:
    """The value of a field at `address` + offset."""
    match item:
        case Scalar("bool"):
            return f"view.getUint8({at(offset)}) !== 0"
        case Scalar(name):
            little = "" if name in BYTE_TYPES else ", true"
            return f"view.get{GETTERS[name]}({at(offset)}{little})"
        case Enum():
            return f"named({names_of(item)}, view.getUint8({at(offset)}))"
        case Record():
            return f"read{class_name(item)}(view, {at(offset)})"
        case List() | String():
            return read_list(
                item, f"view.getUint32({at(offset)}, true)", f"view.getUint32({at(offset + 4)}, true)"
            )
        case _:
            raise TypeError(f"no field of {item}")


def read_list(item: List | String, address: str, count: str) -> str:
    match item:
        case String():
            return f"decoder.decode(readBytes(view, {address}, {count}))"
        case List(Scalar("u8")):
            return f"readBytes(view, {address}, {count})"
        case List(Scalar(name)):
            return f"read{ARRAYS[name]}(view, {address}, {count})"
        case List(inner):
            return f"readBytes(view, {address}, {count}, {layout.size(inner)}, {layout.alignment(inner)})"


def record_writer(record: Record) -> list[str]:
    """Over a view for a record of scalars; one with lists puts those into the guest first."""
    name = class_name(record)
    if not has_pointer(record):
        head = [f"export function write{name}(view: DataView, address: number, value: {name}): void {{"]
        return [*head, record_span(record), *record_stores(record), "}"]
    lines = [f"export function write{name}(memory: GuestMemory, address: number, value: {name}): void {{"]
    for entry in record.fields:
        if isinstance(entry.type, List | String):
            lines += put_list(camel(entry.name), f"value.{camel(entry.name)}", entry.type)
    return [*lines, "  const view = memory.view();", record_span(record), *record_stores(record), "}"]


def put_list(name: str, value: str, item: List | String, indent: str = "  ") -> list[str]:
    """Statements that put a list into the guest and leave NAMEAddress and NAMECount."""
    data, count = value, f"{value}.length"
    lines = []
    if isinstance(item, String):
        lines.append(f"{indent}const {name}Bytes = encoder.encode({value});")
        data, count = f"{name}Bytes", f"{name}Bytes.length"
    elif isinstance(item.item, Record):
        count = f"{value}.length / {layout.size(item.item)}"
    align = layout.alignment(item.item) if isinstance(item, List) else 1
    lines.append(f"{indent}const {name}Address = writeList(memory, {data}, {align});")
    return [*lines, f"{indent}const {name}Count = {count};"]


def record_stores(record: Record) -> list[str]:
    offsets = layout.field_offsets(record)
    return [
        line for entry in record.fields for line in store_field(entry.name, entry.type, offsets[entry.name])
    ]


def store_field(name: str, item: Type, offset: int) -> list[str]:
    if isinstance(item, List | String):
        return store_list(camel(name), offset)
    return store(f"value.{camel(name)}", item, offset)


def store_list(name: str, offset: int, base: str = "address", indent: str = "  ") -> list[str]:
    return [
        f"{indent}view.setUint32({base}{f' + {offset}' if offset else ''}, {name}Address, true);",
        f"{indent}view.setUint32({base} + {offset + 4}, {name}Count, true);",
    ]


def store(value: str, item: Type, offset: int, base: str = "address", indent: str = "  ") -> list[str]:
    place = f"{base} + {offset}" if offset else base
    match item:
        case Scalar("bool"):
            return [f"{indent}view.setUint8({place}, {value} ? 1 : 0);"]
        case Scalar(name):
            little = "" if name in BYTE_TYPES else ", true"
            return [f"{indent}view.set{GETTERS[name]}({place}, {value}{little});"]
        case Enum():
            return [f"{indent}view.setUint8({place}, {names_of(item)}.indexOf({value}));"]
        case Record():
            return [f"{indent}write{class_name(item)}(view, {place}, {value});"]
        case _:
            raise TypeError(f"no store of {item}")


# ---- imports ----


def host_interface(interface: Interface) -> str:
    lines = [
        "/**",
        " * The imports as methods. A result's error is thrown as InterfaceError. Lists are views of the",
        " * guest's memory, which are good until the method returns or calls the guest.",
        " */",
        "export interface Host {",
    ]
    for function in interface.functions.values():
        params = [f"{camel(entry.name)}: {annotation(entry.type)}" for entry in function.params]
        lines += comment(function.docs, "  ")
        lines += call(f"{camel(function.name)}(", params, f"): {annotation(function.result)};", "  ")
    return "\n".join([*lines, "}"])


def import_table(interface: Interface) -> str:
    lines = [
        "/** Core signatures: [parameters, results], a letter for each value: i i32, l i64, f f32, d f64. */"
    ]
    lines.append("export const IMPORTS: Readonly<Record<string, readonly [string, string]>> = {")
    for function in interface.functions.values():
        signature = layout.signature(function, imported=True)
        lines.append(
            f"  '{function.name}': ['{letters(signature.core_params)}', '{letters(signature.results)}'],"
        )
    return "\n".join([*lines, "};"])


def letters(cores: tuple[str, ...]) -> str:
    return "".join({"i32": "i", "i64": "l", "f32": "f", "f64": "d"}[core] for core in cores)


def import_adapters(interface: Interface) -> str:
    lines = [
        "/** The imports of one instance: lift the arguments, call the host, lower what it returns. */",
        "export function lowerImports(host: Host, memory: GuestMemory): WebAssembly.ModuleImports {",
        "  return {",
    ]
    for function in interface.functions.values():
        lines += import_adapter(function)
    return "\n".join([*lines, "  };", "}"])


LOCALS = ("host", "memory", "view", "value", "error")  # of an adapter


def import_adapter(function: Function) -> list[str]:
    signature = layout.signature(function, imported=True)
    names = [camel(flat.name) for flat in signature.params]
    if any(name in LOCALS for name in names):
        raise TypeError(f"{function.name}: a parameter has the name of a local variable of its adapter")
    params = [f"{name}: {core_type(flat.core)}" for name, flat in zip(names, signature.params, strict=True)]
    returned = "number" if signature.results else "void"
    indent = "      "
    lines = call(f"'{function.name}': (", params, f"): {returned} => {{", "    ")
    if signature.by_pointer:
        lines.append(f"{indent}result >>>= 0;")
    if any(has_pointer(entry.type) for entry in function.params):
        lines.append(f"{indent}let view = memory.view();")
    elif signature.by_pointer:
        lines.append(f"{indent}let view: DataView;")
    arguments = [lift(entry.name, entry.type) for entry in function.params]
    invocation = call(f"host.{camel(function.name)}(", arguments, ")", "")
    if isinstance(function.result, Result):
        lines += lower_result(function.result, invocation)
    elif signature.by_pointer:
        lines += [f"{indent}const value = {joined(invocation)};", *lower_value(function.result, 0)]
    elif isinstance(function.result, Enum):
        lines.append(f"{indent}return {names_of(function.result)}.indexOf({joined(invocation)});")
    else:
        prefix = "return " if signature.results else ""
        lines.append(f"{indent}{prefix}{joined(invocation)};")
    return [*lines, "    },"]


def joined(lines: list[str], indent: str = "      ") -> str:
    return lines[0] + "".join(f"\n{indent}{line}" for line in lines[1:])


def core_type(core: str) -> str:
    return "bigint" if core == "i64" else "number"


def lift(name: str, item: Type) -> str:
    match item:
        case Scalar("bool"):
            return f"{camel(name)} !== 0"
        case Scalar("u32"):
            return f"{camel(name)} >>> 0"
        case Scalar("u64"):
            return f"BigInt.asUintN(64, {camel(name)})"
        case Scalar("f32" | "f64"):
            return camel(name)
        case Enum():
            return f"named({names_of(item)}, {camel(name)} >>> 0)"
        case Record():
            fields = (
                f"{camel(entry.name)}: {lift(f'{name}-{entry.name}', entry.type)}" for entry in item.fields
            )
            return "{\n" + "".join(f"          {entry},\n" for entry in fields) + "        }"
        case List() | String():
            return read_list(item, f"{camel(name)} >>> 0", f"{camel(f'{name}-len')} >>> 0")
        case _:
            raise TypeError(f"no lifting of {item}")


def lower_result(result: Result, invocation: list[str]) -> list[str]:
    indent = "      "
    offset = layout.payload_offset(result)
    return [
        f"{indent}let value: {annotation(result.ok)};",
        f"{indent}try {{",
        f"{indent}  value = {joined(invocation, indent + '  ')};",
        f"{indent}}} catch (error) {{",
        f"{indent}  return writeError(memory, result, {offset}, error);",
        f"{indent}}}",
        *lower_value(result.ok, offset),
        f"{indent}view.setUint8(result, 0);",
    ]


def lower_value(item: Type | None, offset: int) -> list[str]:
    """Writes `value` at result + offset; lists first go into the guest, which may move the memory."""
    indent = "      "
    if item is None:
        raise TypeError("no lowering of nothing")
    lists = put_list("list", "value", item, indent) if isinstance(item, List | String) else []
    stores = (
        store_list("list", offset, "result", indent)
        if isinstance(item, List | String)
        else store("value", item, offset, "result", indent)
    )
    size, align = offset + layout.size(item), layout.alignment(item)
    check = f"{indent}span(view, result, 1, {size}, {align});"
    return [*lists, f"{indent}view = memory.view();", check, *stores]


# ---- exports ----


def guest_class(package: Package, interface: Interface) -> str:
    functions = list(interface.functions.values())
    lines = ["/** Core signatures of the exports, in the letters of IMPORTS. */"]
    lines.append("export const EXPORTS: Readonly<Record<string, readonly [string, string]>> = {")
    for function in functions:
        signature = layout.signature(function, imported=False)
        name = layout.export_name(package, interface, function)
        lines.append(f"  '{name}': ['{letters(signature.core_params)}', '{letters(signature.results)}'],")
    lines += ["};", "", "/** Typed calls of a guest's exports. */", "export class GuestExports {"]
    posts = [function for function in functions if layout.needs_post(function)]
    lines += [f"  readonly #{camel(function.name)}: Export;" for function in functions]
    lines += [
        f"  readonly #post{camel(function.name).capitalize()}: Export | undefined;" for function in posts
    ]
    lines += ["", "  constructor(readonly memory: GuestMemory, find: (name: string) => Export | undefined) {"]
    for function in functions:
        name = layout.export_name(package, interface, function)
        lines.append(f"    this.#{camel(function.name)} = required(find, '{name}');")
    for function in posts:
        name = layout.post_name(package, interface, function)
        lines.append(f"    this.#post{camel(function.name).capitalize()} = find('{name}');")
    lines.append("  }")
    for function in functions:
        lines += ["", *guest_method(function)]
    return "\n".join([*lines, "}"])


def guest_method(function: Function) -> list[str]:
    signature = layout.signature(function, imported=False)
    params = ", ".join(f"{camel(entry.name)}: {annotation(entry.type)}" for entry in function.params)
    lines = [
        *comment(function.docs, "  "),
        f"  {camel(function.name)}({params}): {annotation(function.result)} {{",
    ]
    arguments = ", ".join(camel(entry.name) for entry in function.params)
    if signature.spilled:
        (record,) = (entry.type for entry in function.params)
        assert isinstance(record, Record)
        size, align = layout.size(record), layout.alignment(record)
        lines.append(f"    const place = this.memory.allocate({size}, {align});")
        lines.append(f"    write{class_name(record)}(this.memory, place, {arguments});")
        arguments = "place"
    invocation = f"this.#{camel(function.name)}({arguments})"
    if not isinstance(function.result, Result):
        return [
            *lines,
            f"    {invocation};" if function.result is None else f"    return {invocation};",
            "  }",
        ]
    lines += [f"    const address = {invocation} >>> 0;", *guest_result(function.result)]
    if layout.needs_post(function):
        lines += [f"    this.#post{camel(function.name).capitalize()}?.(address);"]
    return [*lines, "    return value;", "  }"]


def guest_result(result: Result) -> list[str]:
    offset = layout.payload_offset(result)
    assert result.ok is not None
    value = load(result.ok, offset)
    if isinstance(result.ok, Record) and has_pointer(result.ok):
        value = f"detached({value})"
    return [
        "    const view = this.memory.view();",
        f"    span(view, address, 1, {layout.size(result)}, {layout.alignment(result)});",
        f"    if (view.getUint8(address) !== 0) throw errorAt(view, address + {offset});",
        f"    const value = {value};",
    ]
