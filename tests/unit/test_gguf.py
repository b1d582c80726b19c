"""The GGUF reader: broken files by name, every truncation, and good files against the `gguf` package."""

from __future__ import annotations

import json
import random
import resource
import struct
import time
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from tests.unit import clib
from tests.unit import gguf_bytes as g

F32_TYPE, F16_TYPE, Q8_0_TYPE, Q4_K_TYPE = 0, 1, 8, 12
BIG = 1 << 63


def one_value(key: str | bytes, kind: int, value: Any) -> bytes:
    return g.File([g.scalar(key, kind, value)]).build()


def raw_value(data: bytes, count: int = 1) -> bytes:
    return g.File([data], value_count=count).build()


def tensors(*infos: bytes, data: int = 256, values: list[bytes] | None = None, alignment: int = 32) -> bytes:
    return g.File(values or [], list(infos), bytes(data), alignment=alignment).build()


def one_tensor(
    name: str | bytes = "t", dims: list[int] | None = None, kind: int = F32_TYPE, offset: int = 0, **more: Any
) -> bytes:
    return tensors(g.tensor(name, [8] if dims is None else dims, kind, offset, **more))


def f32(name: str, length: int, offset: int) -> bytes:
    return g.tensor(name, [length], F32_TYPE, offset)


def aligned(kind: int, value: Any) -> bytes:
    return tensors(f32("t", 8, 0), values=[g.scalar("general.alignment", kind, value)])


HALF_ARRAY, HALF_STRING = g.text("k") + g.u32(g.ARRAY), g.text("k") + g.u32(g.STRING)
LYING_STRINGS = g.u64(2) + g.u64(1 << 40) + bytes(32)  # two strings, the first of a TiB
NESTED = HALF_ARRAY + b"".join(g.u32(g.ARRAY) + g.u64(1) for _ in range(100_000))

BROKEN: dict[str, tuple[bytes, str]] = {
    # header
    "empty file": (b"", "magic"),
    "3 bytes": (b"GGU", "magic"),
    "magic only": (b"GGUF", "version"),
    "23 bytes": (g.File().build()[:23], "header"),
    "wrong magic GGML": (g.File(magic=b"GGML").build(), "GGUF"),
    "wrong magic FUGG": (g.File(magic=b"FUGG").build(), "GGUF"),
    "2^32 tensors": (g.File(tensor_count=1 << 32).build(), "tensors"),
    "2^63 tensors": (g.File(tensor_count=BIG).build(), "tensors"),
    "-1 tensors": (g.File(tensor_count=-1).build(), "tensors"),
    "2^32 keys": (g.File(value_count=1 << 32).build(), "keys"),
    "2^63 keys": (g.File(value_count=BIG).build(), "keys"),
    "-1 keys": (g.File(value_count=-1).build(), "keys"),
    "one key claimed, none there": (g.File(value_count=1).build(), "keys"),
    # keys
    "empty key": (one_value("", g.U32, 1), "empty"),
    "key of 2^63 bytes": (raw_value(g.u64(BIG) + bytes(32)), "key"),
    "key of 2^64-1 bytes": (raw_value(g.u64(-1) + bytes(32)), "key"),
    "key longer than the file": (raw_value(g.u64(1000) + bytes(32)), "key"),
    "key of 1 MB": (one_value("k" * 1_000_000, g.U32, 1), "key"),
    "duplicate key": (g.File([g.scalar("k", g.U32, 1)] * 2).build(), "twice"),
    "key with a NUL": (one_value(b"a\0b", g.U32, 1), "NUL"),
    "key of invalid UTF-8": (one_value(b"\xff\xfe", g.U32, 1), "UTF-8"),
    "key of overlong UTF-8": (one_value(b"\xc0\x80", g.U32, 1), "UTF-8"),
    "key of overlong UTF-8, 3 bytes": (one_value(b"\xe0\x9f\xbf", g.U32, 1), "UTF-8"),
    "key of overlong UTF-8, 4 bytes": (one_value(b"\xf0\x8f\xbf\xbf", g.U32, 1), "UTF-8"),
    "key beyond U+10FFFF": (one_value(b"\xf4\x90\x80\x80", g.U32, 1), "UTF-8"),
    "key with a surrogate": (one_value(b"\xed\xa0\x80", g.U32, 1), "UTF-8"),
    "key cut inside a character": (one_value(b"a\xe4\xbd", g.U32, 1), "UTF-8"),
    # values
    "value type 13": (raw_value(g.text("k") + g.u32(13) + bytes(16)), "'k'"),
    "value type 255": (raw_value(g.text("k") + g.u32(255) + bytes(16)), "'k'"),
    "value type -1": (raw_value(g.text("k") + g.u32(-1) + bytes(16)), "'k'"),
    "array element type 13": (raw_value(HALF_ARRAY + g.u32(13) + g.u64(1) + bytes(16)), "'k'"),
    "array of arrays": (raw_value(HALF_ARRAY + g.u32(g.ARRAY) + g.u64(1) + bytes(16)), "arrays"),
    "arrays nested 100,000 deep": (raw_value(NESTED), "arrays"),
    "array of 2^61 u64": (raw_value(g.array("k", g.U64, [1], count=1 << 61)), "'k'"),
    "array of 2^64-1 bytes": (raw_value(g.array("k", g.U8, [1], count=-1)), "'k'"),
    "array longer than the file": (raw_value(g.array("k", g.U32, [1, 2], count=3)), "'k'"),
    "array of 2^32 empty claims": (raw_value(g.array("k", g.STRING, [], count=1 << 32)), "'k'"),
    "string array, the last one missing": (raw_value(g.array("k", g.STRING, ["a", "b"], count=3)), "'k'"),
    "string array, one length lies": (raw_value(HALF_ARRAY + g.u32(g.STRING) + LYING_STRINGS), "'k'"),
    "string of 2^64-1 bytes": (raw_value(HALF_STRING + g.u64(-1) + bytes(32)), "'k'"),
    "string of 1 GiB in a small file": (raw_value(HALF_STRING + g.u64(1 << 30) + bytes(120)), "'k'"),
    "bool 2": (one_value("k", g.BOOL, 2), "bool"),
    "bool 255 in an array": (g.File([g.array("k", g.BOOL, [0, 1, 255])]).build(), "bool"),
    # alignment
    "alignment 0": (aligned(g.U32, 0), "general.alignment"),
    "alignment 4": (aligned(g.U32, 4), "general.alignment"),
    "alignment 13": (aligned(g.U32, 13), "general.alignment"),
    "alignment 2^30": (aligned(g.U32, 1 << 30), "general.alignment"),
    "alignment 2^31": (aligned(g.U32, 1 << 31), "general.alignment"),
    "alignment as i32": (aligned(g.I32, 32), "general.alignment"),
    "alignment as string": (aligned(g.STRING, "32"), "general.alignment"),
    "padding after the end": (g.File(tensors=[g.tensor("t", [8], F32_TYPE, 0)]).build(), "'t'"),
    # tensors
    "tensor name of 64 bytes": (one_tensor("n" * 64), "tensor name"),
    "tensor name empty": (one_tensor(""), "empty"),
    "tensor name with a NUL": (one_tensor(b"a\0b"), "NUL"),
    "tensor name twice": (tensors(f32("t", 8, 0), f32("t", 8, 32)), "twice"),
    "0 dimensions": (one_tensor(dims=[], n_dims=0), "dimensions"),
    "5 dimensions": (one_tensor(dims=[1] * 5), "dimensions"),
    "9 dimensions": (one_tensor(dims=[1] * 9), "dimensions"),
    "2^32-1 dimensions": (one_tensor(dims=[1], n_dims=0xFFFFFFFF), "dimensions"),
    "dimension 0": (one_tensor(dims=[8, 0]), "dimension"),
    "dimension -1": (one_tensor(dims=[-1]), "dimension"),
    "dimension 2^63": (one_tensor(dims=[BIG]), "dimension"),
    "product wraps to 0": (one_tensor(dims=[1 << 32, 1 << 32]), "elements"),
    "product wraps to 8": (one_tensor(dims=[8, (1 << 61) + 1]), "elements"),
    "product fits, bytes wrap": (one_tensor(dims=[1 << 62]), "too large"),
    "bytes near 2^61": (one_tensor(dims=[0x1FFFFFFFFFFFFFE0], kind=Q8_0_TYPE), "after the file"),
    "2^32 + 1 rows": (one_tensor(dims=[8, (1 << 32) + 1]), "after the file"),
    "row not a multiple of the block": (one_tensor(dims=[48], kind=Q8_0_TYPE), "Q8_0"),
    "row of a super-block cut": (one_tensor(dims=[128, 2], kind=Q4_K_TYPE), "Q4_K"),
    "offset misaligned": (one_tensor(offset=16), "aligned"),
    "offset past the end": (one_tensor(offset=1 << 40), "after the file"),
    "offset 2^64-32": (one_tensor(offset=(1 << 64) - 32), "after the file"),
    "data one byte short": (one_tensor(dims=[64])[:-1], "after the file"),
    "tensors overlap": (tensors(f32("a", 16, 0), f32("b", 8, 32)), "overlap"),
    "tensors overlap backwards": (tensors(f32("a", 8, 32), f32("b", 16, 0)), "overlap"),
    "tensors at one place": (tensors(f32("a", 8, 0), f32("b", 8, 0)), "overlap"),
    "unknown type past the end": (one_tensor(kind=99, offset=1 << 40), "after the file"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_file_is_refused(name: str) -> None:
    data, mention = BROKEN[name]
    with pytest.raises(clib.CoreError) as refused, clib.opened(data):
        pass
    assert refused.value.code == "invalid-gguf"
    assert mention in refused.value.message


def test_broken_files_under_sanitizers(tmp_path: Path) -> None:
    clib.replay("gguf", tmp_path, (data for data, _ in BROKEN.values()))


@pytest.mark.parametrize("version", [0, 1, 4, 0xFFFFFFFF, 0x02000000, 0x03000000])
def test_other_versions_and_byte_orders_are_unsupported(version: int) -> None:
    with pytest.raises(clib.CoreError) as refused, clib.opened(g.File(version=version).build()):
        pass
    assert refused.value.code == "unsupported-gguf"
    assert ("big-endian" in refused.value.message) == (version in (0x02000000, 0x03000000))


def test_errors_name_long_and_foreign_keys_in_one_printable_line() -> None:
    with pytest.raises(clib.CoreError) as refused, clib.opened(one_value("ключ\n" + "k" * 500, g.BOOL, 7)):
        pass
    assert "???" in refused.value.message and "..." in refused.value.message


# ---- what is odd but allowed ----


def test_odd_but_good_files() -> None:
    a, b, odd = f32("a", 8, 128), f32("b", 8, 0), g.tensor("x", [8], 99, 64)
    for data in (
        g.File().build(),
        g.File(version=2).build(),
        tensors(a, b),  # decreasing offsets with a gap between
        tensors(odd),  # a type nobody knows can still be inspected
        one_tensor("n" * 63, [1, 1, 1, 8]),
        one_value("k", g.STRING, b"\xff\0 any bytes"),  # values may be anything; who reads them checks
        g.File([g.array("k", g.STRING, [])]).build(),
        aligned(g.U32, 8),
    ):
        with clib.opened(data) as file:
            json.loads(clib.describe(file))


def test_unknown_type_has_no_size() -> None:
    with clib.opened(one_tensor(kind=99)) as file:
        tensor = clib.load()[1].gguf_tensor_at(file, 0)
        assert (tensor.type, tensor.bytes, tensor.dims[0]) == (99, 0, 8)
        assert json.loads(clib.describe(file))["tensors"][0]["type"] == "unknown type 99"


def test_description_is_json_whatever_the_file_says() -> None:
    values = [
        g.scalar("text", g.STRING, b'quote " back \\ bell \x07 bad \xff\xc0\x80 cut \xe4\xbd'),
        g.scalar("nan", g.F32, float("nan")), g.scalar("inf", g.F64, float("-inf")),
        g.scalar("min", g.I64, -BIG), g.scalar("max", g.U64, (1 << 64) - 1), g.scalar("f", g.F32, 1e-5),
        g.array("long", g.I32, list(range(100))), g.array("short", g.STRING, ["a", "b"]),
        g.array("flags", g.BOOL, [1, 0]),
    ]  # fmt: skip
    with clib.opened(g.File(values).build()) as file:
        shown = json.loads(clib.describe(file))["metadata"]
    assert shown["text"].startswith('quote " back \\ bell \x07 bad \ufffd\ufffd\ufffd cut \ufffd')
    assert (shown["nan"], shown["inf"], shown["min"], shown["max"]) == (None, None, -BIG, (1 << 64) - 1)
    assert np.float32(shown["f"]) == np.float32(1e-5)
    assert shown["long"] == {"count": 100, "head": list(range(16))}
    assert (shown["short"], shown["flags"]) == (["a", "b"], [True, False])


# ---- typed reads ----


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (g.U8, 200, 200), (g.I8, 5, 5), (g.U16, 65535, 65535), (g.U32, 0xFFFFFFFF, 0xFFFFFFFF), (g.I32, 7, 7),
        (g.U64, 9, 9), (g.I64, 9, 9), (g.I32, -1, None), (g.U64, 1 << 32, None), (g.U64, (1 << 64) - 1, None),
        (g.F32, 1.0, None), (g.BOOL, 1, None), (g.STRING, "1", None),
    ],
)  # fmt: skip
def test_read_u32(kind: int, value: Any, expected: int | None) -> None:
    ffi, lib = clib.load()
    out, err = ffi.new("uint32_t *", 123), ffi.new("realm_error *")
    with clib.opened(one_value("k", kind, value)) as file:
        status = lib.gguf_read_u32(file, b"k", out, err)
        assert lib.gguf_read_u32(file, b"absent", out, err) == 0
    if expected is None:
        with pytest.raises(clib.CoreError, match="'k'") as refused:
            clib.check(status, err)
        assert refused.value.code == "invalid-model" and out[0] == 123
    else:
        assert (status, out[0]) == (0, expected)


@pytest.mark.parametrize(
    ("kind", "value", "good"),
    [
        (g.F32, 0.5, True), (g.F64, 0.5, True), (g.U32, 3, True), (g.F32, 1e-40, True),
        (g.F32, float("nan"), False),
        (g.F32, float("inf"), False), (g.F64, 1e300, False), (g.STRING, "1", False), (g.BOOL, 1, False),
    ],
)  # fmt: skip
def test_read_f32(kind: int, value: Any, good: bool) -> None:
    ffi, lib = clib.load()
    out, err = ffi.new("float *"), ffi.new("realm_error *")
    with clib.opened(one_value("k", kind, value)) as file:
        status = lib.gguf_read_f32(file, b"k", out, err)
    assert (status == 0) == good
    if good:
        assert out[0] == struct.unpack("<f", struct.pack("<f", value))[0]


# ---- truncation: a good file, cut at every byte ----


def good_file() -> bytes:
    values = [
        g.scalar(f"k{kind}", kind, "text" if kind == g.STRING else 1) for kind in range(13) if kind != g.ARRAY
    ]
    values += [
        g.array(f"a{kind}", kind, ["x", ""] if kind == g.STRING else [1, 0])
        for kind in range(13)
        if kind != g.ARRAY
    ]
    infos = [g.tensor("f32", [4, 2], F32_TYPE, 0), g.tensor("q8_0.weight", [32, 2], Q8_0_TYPE, 32)]
    return g.File(values, infos, bytes(100)).build()


def test_every_truncation_is_refused() -> None:
    data = good_file()
    with clib.opened(data):
        pass
    for size in range(len(data)):
        with pytest.raises(clib.CoreError) as refused, clib.opened(bytes(data[:size])):
            pass
        assert refused.value.code == "invalid-gguf", size


def test_every_flipped_byte_gives_a_verdict() -> None:
    data = good_file()
    for position in range(len(data)):
        for flip in (0x01, 0x80, 0xFF):
            broken = bytearray(data)
            broken[position] ^= flip
            try:
                with clib.opened(bytes(broken)) as file:
                    json.loads(clib.describe(file))
            except clib.CoreError as refused:
                assert refused.code in ("invalid-gguf", "unsupported-gguf")


# ---- time and memory ----


def test_a_small_liar_allocates_little() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in (
        "2^32 tensors",
        "2^63 keys",
        "string of 1 GiB in a small file",
        "array of 2^32 empty claims",
    ):
        with pytest.raises(clib.CoreError), clib.opened(BROKEN[name][0]):
            pass
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 * 1024  # KiB


def test_half_a_million_keys_take_linear_time() -> None:
    keys = [g.scalar(f"key.{i:07d}", g.U8, 1) for i in range(500_000)]
    data = g.File(keys).build()
    start = time.monotonic()
    with clib.opened(data) as file:
        assert clib.load()[1].gguf_value_count(file) == 500_000
        assert clib.load()[1].gguf_find(file, b"key.0499999").count == 1
    assert time.monotonic() - start < 5  # a scan for each key would take minutes


def test_a_hundred_thousand_tensors_take_linear_time() -> None:
    infos = [g.tensor(f"t{i}", [8], F32_TYPE, (99_999 - i) * 32) for i in range(100_000)]
    data = tensors(*infos, data=100_000 * 32)
    start = time.monotonic()
    with clib.opened(data) as file:
        assert clib.load()[1].gguf_find_tensor(file, b"t0").offset == len(data) - 32
    assert time.monotonic() - start < 5


# ---- good files against the gguf package ----


def random_values(rng: random.Random) -> dict[str, tuple[int, Any]]:
    made: dict[str, tuple[int, Any]] = {}
    widths = {g.U8: 8, g.I8: 8, g.U16: 16, g.I16: 16, g.U32: 32, g.I32: 32, g.U64: 64, g.I64: 64}
    signed = (g.I8, g.I16, g.I32, g.I64)
    ranges = {
        kind: (-(1 << bits - 1), (1 << bits - 1) - 1) if kind in signed else (0, (1 << bits) - 1)
        for kind, bits in widths.items()
    }
    for i in range(rng.randrange(30)):
        kind = rng.choice([*ranges, g.F32, g.F64, g.BOOL, g.STRING])
        if kind in ranges:
            value: Any = rng.randint(*ranges[kind])
        elif kind == g.STRING:
            value = "".join(rng.choices("aZ9 é你😀\n", k=rng.randrange(40)))
        else:
            value = rng.random() < 0.5 if kind == g.BOOL else np.float32(rng.gauss(0, 1)).item()
        made[f"key.{i}"] = (kind, value)
    return made


def written_by_gguf(rng: random.Random, path: Path) -> tuple[dict[str, tuple[int, Any]], bytes]:
    writer = gguf.GGUFWriter(path, "test")
    values = random_values(rng)
    for key, (kind, value) in values.items():
        writer.add_key_value(key, value, gguf.GGUFValueType(kind))
    writer.add_array("list", [rng.randrange(1000) for _ in range(rng.randrange(1, 20))])
    for i in range(rng.randrange(6)):
        shape = [rng.randrange(1, 5) for _ in range(rng.randrange(1, 4))] + [32 * rng.randrange(1, 4)]
        data = np.array([rng.gauss(0, 1) for _ in range(int(np.prod(shape)))], np.float32).reshape(shape)
        if rng.random() < 0.5:
            writer.add_tensor(f"tensor.{i}", data)
        else:
            packed = gguf.quants.quantize(data, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(f"tensor.{i}", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return values, path.read_bytes()


@pytest.mark.parametrize("seed", range(25))
def test_round_trip(seed: int, tmp_path: Path) -> None:
    path = tmp_path / "file.gguf"
    values, data = written_by_gguf(random.Random(seed), path)
    reader = gguf.GGUFReader(path)
    lib = clib.load()[1]
    with clib.opened(data) as file:
        shown = json.loads(clib.describe(file))
        assert list(shown["metadata"]) == [key for key in reader.fields if not key.startswith("GGUF.")]
        for key, (kind, value) in values.items():
            assert lib.gguf_find(file, key.encode()).type == kind
            got = shown["metadata"][key]
            assert got == value or (kind == g.F32 and np.float32(got) == np.float32(value))
        assert lib.gguf_tensor_count(file) == len(reader.tensors)
        for oracle in reader.tensors:
            t = lib.gguf_find_tensor(file, oracle.name.encode())
            assert (t.type, t.offset, t.bytes) == (
                oracle.tensor_type.value,
                oracle.data_offset,
                oracle.n_bytes,
            )
            assert list(t.dims[0 : t.n_dims]) == [int(d) for d in oracle.shape]
            assert data[t.offset : t.offset + t.bytes] == oracle.data.tobytes()


def test_reads_big_strings() -> None:
    template = "{{ x }}" * 100_000
    with clib.opened(one_value("tokenizer.chat_template", g.STRING, template)) as file:
        assert json.loads(clib.describe(file))["metadata"]["tokenizer.chat_template"] == template
