"""The kernel table for tests: builds the release kernels with visible symbols, calls them with NumPy arrays.

Weights live at the very end of a mapping whose next page may not be touched, so that every kernel call in
every test also proves that nothing behind a tensor is read.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import weakref
from collections.abc import Callable
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray

from realm_build import ctest
from realm_build.paths import sources

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Bytes = NDArray[np.uint8]

TYPES = (Type.F32, Type.F16, Type.BF16, Type.Q4_0, Type.Q8_0, Type.Q4_K, Type.Q5_K, Type.Q6_K)
FEATURES = {"portable": 1, "avx2": 1 | 2, "avxvnni": 1 | 2 | 16, "avx512": 1 | 2 | 4, "amx": 1 | 2 | 4 | 8}
KV_F16, KV_F32, KV_PAGE = 0, 1, 16
PACK_ROWS = 8
PACKED = "-packed"  # ends the name of an instruction set whose kernels for packed weights are meant

_P, _U32, _SIZE, _F32 = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_size_t, ctypes.c_float


def _fn(*arguments: Any, result: Any = None) -> Any:
    return ctypes.CFUNCTYPE(result, *arguments)


RUN = _fn(_P, _SIZE, _P, _U32, _U32, _U32, _U32, _P, _SIZE)


class Matmul(ctypes.Structure):
    _fields_ = [
        ("prepared_size", _fn(_U32, _U32, result=_SIZE)),
        ("prepare", _fn(_P, _SIZE, _U32, _U32, _U32, _U32, _P)),
        ("run", RUN),
        ("out_tile", _U32),
    ]


class AttentionJob(ctypes.Structure):
    _fields_ = [
        ("q", _P), ("out", _P), ("q_stride", _SIZE), ("out_stride", _SIZE), ("n_rows", _U32), ("pos0", _U32),
        ("n_head", _U32), ("n_head_kv", _U32), ("head_dim", _U32), ("window", _U32), ("scale", _F32),
        ("softcap", _F32), ("kv_type", _U32), ("rounded", _U32), ("pages", _P),
    ]  # fmt: skip


class Ops(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("matmul", Matmul * 64),
        ("dequantize", _fn(_P, _U32, _P) * 64),
        ("rmsnorm", _fn(_P, _P, _F32, _U32, _U32, _U32, _P)),
        ("rope", _fn(_P, _SIZE, _P, _U32, _U32, _U32, ctypes.c_bool, _U32, _U32)),
        ("silu_mul", _fn(_P, _P, _SIZE)),
        ("gelu_mul", _fn(_P, _P, _SIZE)),
        ("add", _fn(_P, _P, _SIZE)),
        ("scale", _fn(_P, _F32, _SIZE)),
        ("softcap", _fn(_P, _F32, _SIZE)),
        ("add_bias", _fn(_P, _P, _U32, _U32, _U32)),
        ("kv_store", _fn(_P, _U32, _U32, _P, _U32, _U32)),
        ("attention", _fn(_P, _U32, _U32, _U32, _U32, _P)),
        ("softmax_stats", _fn(_P, _U32, _P, _P)),
        ("run_packed", RUN * 64),
    ]


@functools.cache
def library() -> ctypes.CDLL:
    """The release compiler's kernels, flags and all, with every symbol visible."""
    files = sources("core/base.c", "core/blocks.c", "core/cpu/*.c", "core/platform/platform_posix.c")
    return ctypes.CDLL(str(ctest.visible_library("kernels", files)))


@functools.cache
def ops(isa: str) -> Any:
    if isa.startswith("wasm-"):
        from tests.unit import wasm_kernels

        return wasm_kernels.ops(isa)
    if isa.startswith("arm-"):
        from tests.unit import arm_kernels

        return arm_kernels.ops(isa)
    table = Ops()
    library().cpu_ops_init(ctypes.byref(table), FEATURES[isa])
    return table


def available() -> list[str]:
    """Instruction sets of this machine, weakest first."""
    detected = int(library().cpu_detect())
    return [name for name, mask in FEATURES.items() if mask & detected == mask]


# Arrays by address, for kernels that run in a memory of their own.
pointed: weakref.WeakValueDictionary[int, NDArray[Any]] = weakref.WeakValueDictionary()


def pointer(array: NDArray[Any]) -> int:
    assert array.flags.c_contiguous
    address: int = array.ctypes.data
    pointed[address] = array
    return address


def guarded(data: NDArray[Any]) -> NDArray[Any]:
    """A copy of an array that ends where readable memory ends."""
    page = mmap.PAGESIZE
    size = -(-data.nbytes // page) * page
    mapping = mmap.mmap(-1, size + page)
    base = np.frombuffer(mapping, np.uint8)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(base.ctypes.data + size), ctypes.c_size_t(page), 0):
        raise OSError(ctypes.get_errno(), "mprotect")
    copy = base[size - data.nbytes : size].view(data.dtype).reshape(data.shape)
    copy[...] = data
    return copy


def aligned(size: int) -> Bytes:
    """`size` bytes at a 64-byte boundary, filled with 0xff so that anything left unwritten is NaN or -1."""
    raw = np.full(size + 64, 0xFF, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size]


def random_weights(rng: np.random.Generator, kind: Type, n_out: int, k: int) -> Bytes:
    """(n_out, bytes of a row): random bits everywhere, sane scales (halves of about 0.1, of either sign)."""
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    if kind == Type.F32:
        return rng.standard_normal((n_out, k), np.float32).view(np.uint8)
    if kind == Type.F16:
        return rng.standard_normal((n_out, k), np.float32).astype(np.float16).view(np.uint8)
    if kind == Type.BF16:
        top = rng.standard_normal((n_out, k), np.float32).view(np.uint32) >> 16
        return top.astype(np.uint16).view(np.uint8)
    blocks = rng.integers(0, 256, (n_out, k // elements, size), np.uint8)
    for start in scale_offsets(kind):
        scale = 0.1 * rng.standard_normal((n_out, k // elements, 1))
        blocks[..., start : start + 2] = scale.astype(np.float16).view(np.uint8)
    return blocks.reshape(n_out, -1)


def scale_offsets(kind: Type) -> tuple[int, ...]:
    """Where a block keeps its half-precision scales."""
    both = (Type.Q4_1, Type.Q5_1, Type.Q4_K, Type.Q5_K)
    elsewhere = {Type.Q6_K: (208,), Type.Q2_K: (80, 82), Type.Q3_K: (108,)}
    return (0, 2) if kind in both else elsewhere.get(kind, (0,))


def dequantized(kind: Type, weights: Bytes) -> F32:
    """What the gguf package, written by others, reads out of the same bytes."""
    return np.asarray(gguf.quants.dequantize(weights, kind), np.float32)


def matmul(isa: str, kind: Type, weights: Bytes, x: F32, split_rows: int = 0, split_out: int = 0) -> F32:
    """x (n_rows, k) @ weights (n_out, k)^T; prepared and run in two parts where a split is given."""
    table: Any = ops(isa).matmul[kind]
    n_rows, k = x.shape
    n_out, row_bytes = weights.shape
    run = table.run
    if isa.endswith(PACKED):
        run, weights = ops(isa).run_packed[kind], guarded(packed(kind, weights))
        split_out = split_out // PACK_ROWS * PACK_ROWS
    prepared = aligned(table.prepared_size(n_rows, k))
    stride = n_out + 3  # the margin must stay untouched
    out = np.full((n_rows, stride), np.nan, np.float32)
    for row0, row1 in parts(n_rows, split_rows):
        table.prepare(pointer(x), k, n_rows, k, row0, row1, pointer(prepared))
    for out0, out1 in parts(n_out, split_out):
        run(pointer(weights), row_bytes, pointer(prepared), n_rows, k, out0, out1, pointer(out), stride)
    assert np.isnan(out[:, n_out:]).all()
    return np.ascontiguousarray(out[:, :n_out])


def packed(kind: Type, weights: Bytes) -> Bytes:
    """The weights with every whole stripe packed."""
    n_out, row_bytes = weights.shape
    result = np.array(weights)
    for first in range(0, n_out // PACK_ROWS * PACK_ROWS, PACK_ROWS):
        rows = np.array(weights[first : first + PACK_ROWS])
        library().cpu_pack_stripe(
            ctypes.c_uint32(kind), _P(pointer(rows)), _SIZE(row_bytes), _P(result[first:].ctypes.data)
        )
    return result


def unpack_block(kind: Type, stripe: Bytes, row: int, block: int, out: Bytes) -> None:
    numbers = (ctypes.c_uint32(n) for n in (row, block))
    library().cpu_unpack_block(ctypes.c_uint32(kind), _P(pointer(stripe)), *numbers, _P(pointer(out)))


def parts(n: int, split: int) -> list[tuple[int, int]]:
    return [(split, n), (0, split)] if 0 < split < n else [(0, n)]


def elementwise(isa: str, name: str, x: F32, *arguments: Any) -> F32:
    """Runs an in-place op with (x, arguments..., n) on a copy of x."""
    copy = guarded(x)
    values = [pointer(a) if isinstance(a, np.ndarray) else a for a in arguments]
    call: Callable[..., None] = getattr(ops(isa), name)
    call(pointer(copy), *values, x.size)
    return np.array(copy)
