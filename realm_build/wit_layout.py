"""The canonical ABI of the parsed interface: sizes and offsets in memory, core signatures of functions.

Every emitter asks here, so a layout is computed in one place. The rules (component model, canonical ABI):
a value is stored little-endian at its own alignment; a function's values are flattened to core values,
parameters to at most 16 and results to at most one; what does not fit goes through memory by one pointer.
"""

from __future__ import annotations

from dataclasses import dataclass

from .wit import Enum, Function, Interface, List, Package, Record, Result, Scalar, String, Type, has_pointer

MAX_FLAT_PARAMS = 16
MAX_FLAT_RESULTS = 1

SCALAR_SIZES = {
    "bool": 1, "u8": 1, "s8": 1, "u16": 2, "s16": 2, "u32": 4, "s32": 4, "f32": 4, "u64": 8, "s64": 8,
    "f64": 8,
}  # fmt: skip
SCALAR_CORES = {"u64": "i64", "s64": "i64", "f32": "f32", "f64": "f64"}  # all others: i32


def align_up(value: int, align: int) -> int:
    return (value + align - 1) // align * align


def alignment(item: Type) -> int:
    match item:
        case Scalar(name):
            return SCALAR_SIZES[name]
        case String() | List():
            return 4
        case Enum():
            return 1
        case Record():
            return max(alignment(entry.type) for entry in item.fields)
        case Result():
            return max(1, *(alignment(part) for part in result_parts(item)))


def size(item: Type) -> int:
    match item:
        case Scalar(name):
            return SCALAR_SIZES[name]
        case String() | List():
            return 8
        case Enum():
            return 1
        case Record():
            last = item.fields[-1]
            return align_up(field_offsets(item)[last.name] + size(last.type), alignment(item))
        case Result():
            largest = max(size(part) for part in result_parts(item))
            return align_up(payload_offset(item) + largest, alignment(item))


def field_offsets(record: Record) -> dict[str, int]:
    offsets: dict[str, int] = {}
    position = 0
    for entry in record.fields:
        position = align_up(position, alignment(entry.type))
        offsets[entry.name] = position
        position += size(entry.type)
    return offsets


def result_parts(result: Result) -> list[Type]:
    return [part for part in (result.ok, result.error) if part is not None]


def payload_offset(result: Result) -> int:
    """Where the value stands behind the one-byte discriminant (0 ok, 1 error)."""
    return align_up(1, max(alignment(part) for part in result_parts(result)))


@dataclass(frozen=True)
class Flat:
    """One core value that a typed value became."""

    name: str  # kebab-case: the parameter, with -FIELD for a record's field, -len for a list's length
    core: str  # i32, i64, f32, f64
    type: Type  # the scalar or enum; the list or string of both its pointer and its length


def flatten(name: str, item: Type) -> list[Flat]:
    match item:
        case Scalar(scalar):
            return [Flat(name, SCALAR_CORES.get(scalar, "i32"), item)]
        case Enum():
            return [Flat(name, "i32", item)]
        case String() | List():
            return [Flat(name, "i32", item), Flat(f"{name}-len", "i32", item)]
        case Record():
            return [flat for entry in item.fields for flat in flatten(f"{name}-{entry.name}", entry.type)]
        case Result():
            raise TypeError("a result is never a parameter")


@dataclass(frozen=True)
class Signature:
    """A function as a core module sees it.

    `spilled`: the parameters stand in memory as one record, and its address is the only parameter.
    `by_pointer`: the result stands in memory; an import takes the address last, an export returns it.
    """

    params: tuple[Flat, ...]
    results: tuple[str, ...]
    spilled: bool
    by_pointer: bool

    @property
    def core_params(self) -> tuple[str, ...]:
        return tuple(flat.core for flat in self.params)


ADDRESS = Scalar("u32")


def signature(function: Function, imported: bool) -> Signature:
    params = [flat for entry in function.params for flat in flatten(entry.name, entry.type)]
    spilled = len(params) > MAX_FLAT_PARAMS
    if spilled:
        params = [Flat(spilled_record(function).name, "i32", ADDRESS)]
    by_pointer = function.result is not None and result_width(function.result) > MAX_FLAT_RESULTS
    results: tuple[str, ...] = ()
    if by_pointer and imported:
        params.append(Flat("result", "i32", ADDRESS))
    elif by_pointer:
        results = ("i32",)
    elif function.result is not None:
        results = (flatten("result", function.result)[0].core,)
    return Signature(tuple(params), results, spilled, by_pointer)


def result_width(item: Type) -> int:
    """How many core values a returned value flattens to: a result has a discriminant and its widest case."""
    if isinstance(item, Result):
        return 1 + max(result_width(part) for part in result_parts(item))
    return len(flatten("", item))


def spilled_record(function: Function) -> Record:
    """What stands in memory when the parameters do not fit: Realm's functions then take a single record."""
    (param,) = function.params
    if not isinstance(param.type, Record):
        raise TypeError(f"{function.name}: too many core values; pass one record")
    return param.type


def needs_post(function: Function) -> bool:
    """Whether an export's result holds memory the guest may want back (cabi_post_...)."""
    return function.result is not None and has_pointer(function.result)


def result_types(package: Package) -> list[Result]:
    """Each result type in use once, in the order of first use."""
    found: dict[Result, None] = {}
    for interface in package.interfaces.values():
        for function in interface.functions.values():
            if isinstance(function.result, Result):
                found[function.result] = None
    return list(found)


def list_types(package: Package) -> list[List]:
    """Each list type in use once, in the order of first use."""
    found: dict[List, None] = {}

    def note(item: Type | None) -> None:
        match item:
            case List():
                found[item] = None
            case Record():
                for entry in item.fields:
                    note(entry.type)
            case Result():
                note(item.ok)

    for interface in package.interfaces.values():
        for item in interface.types.values():
            note(item)
        for function in interface.functions.values():
            for entry in function.params:
                note(entry.type)
            note(function.result)
    return list(found)


def export_name(package: Package, interface: Interface, function: Function) -> str:
    return f"{package.path(interface)}#{function.name}"


def post_name(package: Package, interface: Interface, function: Function) -> str:
    return f"cabi_post_{export_name(package, interface, function)}"
