"""The WIT parser and the emitters: what is read, what is refused, and that generated files are current."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from realm._generated import abi

from realm_build import gen, native, wit, wit_layout
from realm_build.paths import ROOT

SOURCE = (ROOT / gen.SOURCE).read_text(encoding="utf-8")
HEAD = "package a:b@1.2.3;\n"
TAIL = "world w { import i; export i; }"


def parse_interface(body: str) -> wit.Interface:
    return wit.parse(f"{HEAD}interface i {{ {body} }} {TAIL}").interfaces["i"]


def test_reads_every_kind_of_declaration() -> None:
    interface = parse_interface(
        """
        /// First line,
        /// second line.
        enum color { red, /* not this */ green }
        record point { x: u32, /// up
          y: f64, c: color, }
        draw: func(points: list<point>, title: string) -> result<list<u8>, color>;
        // no docs
        clear: func();
        """
    )
    color, point = interface.types["color"], interface.types["point"]
    assert isinstance(color, wit.Enum)
    assert (color.docs, [case.name for case in color.cases]) == (
        "First line,\nsecond line.",
        ["red", "green"],
    )
    assert isinstance(point, wit.Record)
    assert [(field.name, field.docs) for field in point.fields] == [("x", ""), ("y", "up"), ("c", "")]
    draw, clear = interface.functions["draw"], interface.functions["clear"]
    assert draw.result == wit.Result(wit.List(wit.Scalar("u8")), color)
    assert [param.type for param in draw.params] == [wit.List(point), wit.String()]
    assert (clear.params, clear.result, clear.docs) == ((), None, "")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("f: func(a: u33);", "no type 'u33'"),
        ("f: func(a: u32, a: u32);", "declared twice"),
        ("record r { a: u32 } r: func();", "declared twice"),
        ("record list { a: u32 }", "keyword"),
        ("record r { }", "has no field"),
        ("enum e { a, a }", "declared twice"),
        ("record r { a: later } record later { b: u32 }", "no type 'later'"),
        ("f: func() -> result<u32, u32>;", "error of a result is an enum"),
        ("f: func(a: list<string>);", "lists hold"),
        ("enum e { x } f: func(a: result<u32, e>);", "only be what a function returns"),
        ("f: func(a: u32)", "expected ';'"),
        ("f func();", "expected ':'"),
        ("a_b: func();", "unexpected character '_'"),
        ("a--b: func();", "kebab-case"),
        ("aB: func();", "kebab-case"),
        ("use other.{x};", "no interface 'other'"),
        ("resource r;", "keyword"),
        ("/* open", "comment without end"),
    ],
)
def test_errors_name_the_fault(body: str, message: str) -> None:
    with pytest.raises(wit.WitError, match=message):
        parse_interface(body)


def test_errors_name_the_line() -> None:
    with pytest.raises(wit.WitError, match="line 4: no type 'x'"):
        wit.parse(f"{HEAD}/* one\n*/ interface i {{\n  f: func(a: x);\n}}\n{TAIL}")


@pytest.mark.parametrize(
    "source", ["", "package", HEAD, HEAD + "world w {", HEAD + "interface i {} world w { import j; }"]
)
def test_incomplete_sources_are_errors(source: str) -> None:
    with pytest.raises(wit.WitError):
        wit.parse(source)


@given(st.data())
def test_damaged_sources_never_crash_the_parser(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(SOURCE)))
    removed = data.draw(st.integers(0, 40))
    inserted = data.draw(st.text(alphabet='{}()<>,:;->./@ \nau3-"é', max_size=6))
    try:
        wit.parse(SOURCE[:start] + inserted + SOURCE[start + removed :])
    except wit.WitError as error:
        assert error.line >= 1


# ---- lowering ----


def test_parameters_are_flattened_up_to_sixteen_core_values() -> None:
    interface = parse_interface(
        "record r { a: bool, b: u64, c: f32, d: list<u8> }"
        "record wide { a: r, b: r, c: r, d: r }"
        "f: func(x: r, y: string, z: s8) -> u32;"
        "g: func(x: wide) -> u32;"
    )
    flat = wit_layout.signature(interface.functions["f"], imported=True)
    assert flat.core_params == ("i32", "i64", "f32", "i32", "i32", "i32", "i32", "i32")
    assert (flat.results, flat.by_pointer, flat.spilled) == (("i32",), False, False)
    spilled = wit_layout.signature(interface.functions["g"], imported=True)
    assert (spilled.core_params, spilled.spilled) == (("i32",), True)


def test_results_of_two_core_values_go_through_memory() -> None:
    interface = parse_interface("enum e { x } f: func() -> result<u64, e>; g: func() -> e;")
    imported = wit_layout.signature(interface.functions["f"], imported=True)
    exported = wit_layout.signature(interface.functions["f"], imported=False)
    assert (imported.core_params, imported.results) == (("i32",), ())
    assert (exported.core_params, exported.results) == ((), ("i32",))
    assert wit_layout.signature(interface.functions["g"], imported=True).results == ("i32",)
    result = interface.functions["f"].result
    assert isinstance(result, wit.Result)
    assert (wit_layout.payload_offset(result), wit_layout.size(result)) == (8, 16)


# ---- generated files ----


def test_generated_files_are_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert gen.main(check=True) == 0, capsys.readouterr()


def test_check_notices_a_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "guest_src").mkdir()
    shutil.copy(ROOT / gen.SOURCE, tmp_path / gen.SOURCE)
    monkeypatch.setattr(gen, "ROOT", tmp_path)
    assert gen.main(check=True) == 1
    assert gen.main(check=False) == 0
    assert gen.main(check=True) == 0
    (tmp_path / "guest_src" / "realm_abi.h").write_text("changed")
    assert gen.main(check=True) == 1
    (tmp_path / gen.SOURCE).write_text("package a:b@1;")
    assert gen.main(check=False) == 1


def test_generated_files_say_so() -> None:
    for name in gen.OUTPUTS:
        head = (ROOT / name).read_text(encoding="utf-8")[:200]
        assert re.search(r"Generated from .* by realm_build gen; do not edit\.", head)


@pytest.mark.parametrize("header", ["core/include/realm_status.h", "host_python/native/realm_imports.h"])
def test_headers_compile_alone(header: str, tmp_path: Path) -> None:
    source = tmp_path / "alone.c"
    source.write_text(f'#include "{ROOT / header}"\nint main(void) {{ return 0; }}\n')
    flags = [
        "-std=c11",
        "-Wall",
        "-Wextra",
        "-Wpedantic",
        "-Werror",
        "-c",
        str(source),
        "-o",
        str(tmp_path / "a.o"),
    ]
    subprocess.run([sys.executable, "-m", "ziglang", "cc", *flags], check=True)


class ImportInfo(ctypes.Structure):
    """shim_import_info of host_python/native/shim.h."""

    _fields_ = (("name", ctypes.c_char_p), ("params", ctypes.c_char_p), ("has_result", ctypes.c_uint32))


def test_the_native_host_defines_the_same_imports() -> None:
    library = ctypes.CDLL(str(native.install_library()))
    library.shim_import_at.restype = ctypes.POINTER(ImportInfo)
    rows = [library.shim_import_at(number).contents for number in range(library.shim_import_count())]
    letters = {"i32": "i", "i64": "l", "f32": "f"}
    assert [(row.name.decode(), row.params.decode(), bool(row.has_result)) for row in rows] == [
        (item.name, "".join(letters[core] for core in item.params.split()), item.results == "i32")
        for item in abi.IMPORTS
    ]


# ---- the Python glue ----


class Memory:
    """Guest memory without a guest: allocation moves a mark."""

    def __init__(self) -> None:
        self.data = bytearray(4096)
        self.used = 64

    def view(self) -> memoryview:
        return memoryview(self.data)

    def allocate(self, size: int, align: int) -> int:
        address = (self.used + align - 1) // align * align
        self.used = address + size
        return address


def test_records_survive_the_trip_through_memory() -> None:
    memory = Memory()
    sampling = abi.Sampling(0.5, 40, 0.25, 0.125, 1.5, -0.5, 2.0, 64, 2**64 - 1, True)
    asked = abi.Request(
        3,
        "prompt €".encode(),
        True,
        False,
        b"",
        2**32 - 1,
        abi.Mode.LAYERS,
        sampling,
        [abi.Bias(7, -1.5)],
        b"xyz",
    )
    address = memory.allocate(96, 8)
    memory.data[address : address + 96] = asked.pack(memory)
    assert abi.Request.unpack(memory.view(), address) == asked


@pytest.mark.parametrize("address", [4096, 4090, 65536, 2**32 - 8, 12])
def test_addresses_outside_memory_are_refused(address: int) -> None:
    with pytest.raises(abi.AbiError):
        abi.Sampling.unpack(Memory().view(), address)


def test_lists_outside_memory_are_refused() -> None:
    memory = Memory()
    report = abi.Report(abi.Finish.END, abi.ErrorCode.INTERNAL, 1, [1, 2, 3], b"")
    data = bytearray(report.pack(memory))
    data[12:16] = (2**32 - 1).to_bytes(4, "little")  # the count of tokens
    memory.data[256 : 256 + len(data)] = data
    with pytest.raises(abi.AbiError):
        abi.Report.unpack(memory.view(), 256)


def test_values_that_do_not_exist_are_refused() -> None:
    memory = Memory()
    report = abi.Report(abi.Finish.END, abi.ErrorCode.INTERNAL, 1, [], b"")
    data = bytearray(report.pack(memory))
    data[0] = 200  # finish
    memory.data[256 : 256 + len(data)] = data
    with pytest.raises(ValueError, match="200"):
        abi.Report.unpack(memory.view(), 256)


def test_names_of_codes_are_those_of_the_interface() -> None:
    assert abi.ErrorCode.CONTEXT_FULL.wit_name == "context-full"
    assert "context-full," in SOURCE
