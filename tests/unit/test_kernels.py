"""Every kernel of every instruction set this machine has, against float64 NumPy written here."""

from __future__ import annotations

import ctypes
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit import kernels
from tests.unit.kernels import F32, F64, KV_F16, KV_F32, KV_PAGE, TYPES, Bytes

# Bounds. EXACT: rounding of float32 sums, relative to the sum of the magnitudes of the terms.
EXACT = 2e-6
# Activations rounded to int8 with a scale per 32: half a step each, so the error is at most this share of
# (largest of the 32) * sum of |weights of the 32|; as independent uniform errors they have a known RMS.
INT8_STEP = 0.5 / 127 * 1.001
INT8_RMS_SLACK = 1.3
# AMX rounds each factor to the 8 significant bits of bf16, from so many rows on.
BF16_STEP = 2.0**-9
AMX_ROWS = 17
BF16_RMS = 0.003  # of the result's own; two independent errors uniform in half a step give about 0.0023
ATTENTION_RMS = (
    0.0043  # the same twice: in scores of about one, which become weights, and in weights times values
)
# Vectorised exp and tanh against float64.
EXP_RELATIVE = 5e-7
TANH_ABSOLUTE = 1e-6

QUANTIZED = tuple(t for t in TYPES if t not in (Type.F32, Type.F16, Type.BF16))
ISAS = kernels.available()
ROWS = [*range(1, 18), 31, 32, 33, 64, 257]


def lengths(kind: Type) -> list[int]:
    """Row lengths around every block, vector and panel."""
    if kind in (Type.Q4_0, Type.Q8_0):
        return [32, 64, 96, 480, 512, 544, 1056, 2080]
    if kind in QUANTIZED:
        return [256, 512, 768, 1280, 2304]
    return [1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 255, 256, 257, 1023, 1025, 2049]


def reference(kind: Type, weights: Bytes, x: F32) -> F64:
    return x.astype(np.float64) @ kernels.dequantized(kind, weights).astype(np.float64).T


def magnitudes(kind: Type, weights: Bytes, x: F32) -> F64:
    return np.abs(x).astype(np.float64) @ np.abs(kernels.dequantized(kind, weights)).astype(np.float64).T


def int8_bound(kind: Type, weights: Bytes, x: F32) -> F64:
    """Largest error int8 activations with a scale per 32 may cause: (n_rows, n_out)."""
    w = np.abs(kernels.dequantized(kind, weights)).astype(np.float64)
    most = np.abs(x.reshape(len(x), -1, 32)).max(-1).astype(np.float64)
    bound: F64 = INT8_STEP * most @ w.reshape(len(w), -1, 32).sum(-1).T
    return bound


def int8_rms(kind: Type, weights: Bytes, x: F32) -> float:
    """RMS over all outputs of errors uniform in half a step to either side."""
    w = kernels.dequantized(kind, weights).astype(np.float64)
    step = np.abs(x.reshape(len(x), -1, 32)).max(-1).astype(np.float64) / 127
    variance = (step**2 / 12) @ (w**2).reshape(len(w), -1, 32).sum(-1).T
    return float(np.sqrt(variance.mean()))


def int8_exact_rows(rng: np.random.Generator, n_rows: int, k: int) -> F32:
    """Activations that int8 holds exactly: whole numbers up to 127, which every 32 reach."""
    x = rng.integers(-127, 128, (n_rows, k)).astype(np.float32)
    x[:, ::32] = np.where(rng.random((n_rows, x[:, ::32].shape[1])) < 0.5, -127, 127)
    return x


def bf16_share(isa: str, kind: Type, n_rows: int) -> float:
    """Largest share of a term that rounding one factor to bf16 takes; 0 where nothing is so rounded."""
    return BF16_STEP if isa == "amx" and kind in QUANTIZED and n_rows >= AMX_ROWS else 0.0


def check_matmul(isa: str, kind: Type, n_out: int, k: int, n_rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = kernels.guarded(kernels.random_weights(rng, kind, n_out, k))
    x = int8_exact_rows(rng, n_rows, k) if kind in QUANTIZED else rng.standard_normal((n_rows, k), np.float32)
    y = kernels.matmul(isa, kind, weights, x, split_rows=n_rows // 2, split_out=n_out // 2)
    error = np.abs(y - reference(kind, weights, x))
    bound = (EXACT + bf16_share(isa, kind, n_rows)) * magnitudes(kind, weights, x)
    assert (error <= bound).all(), f"{n_out=} {k=} {n_rows=}: {np.max(error / bound):.3g} x the bound"


# ---- conversion ----


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", TYPES, ids=lambda t: t.name)
def test_dequantize_equals_gguf_package(isa: str, kind: Type) -> None:
    rng = np.random.default_rng(1)
    for k in lengths(kind):
        weights = kernels.random_weights(rng, kind, 5, k)
        want = kernels.dequantized(kind, weights)
        for row, expected in zip(weights, want, strict=True):
            source, out = kernels.guarded(row), kernels.guarded(np.full(k, np.nan, np.float32))
            kernels.ops(isa).dequantize[kind](kernels.pointer(source), k, kernels.pointer(out))
            np.testing.assert_allclose(out, expected, rtol=3e-7, atol=1e-6 * np.abs(expected).max())


def test_half_to_float_for_every_half() -> None:
    convert = kernels.library().cpu_f16_to_f32
    convert.restype = ctypes.c_float
    halves = np.arange(65536, dtype=np.uint16)
    got = np.array([convert(int(h)) for h in halves], np.float32)
    np.testing.assert_array_equal(got, halves.view(np.float16).astype(np.float32))


def test_float_to_half_rounds_to_nearest_even() -> None:
    convert = kernels.library().cpu_f32_to_f16
    convert.argtypes, convert.restype = [ctypes.c_float], ctypes.c_uint16
    rng = np.random.default_rng(2)
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    between = (halves[:-1] + halves[1:]) / 2
    spread = rng.standard_normal(20000) * np.exp2(rng.integers(-28, 18, 20000))
    special = np.array([0.0, -0.0, np.inf, -np.inf, 65519.99, 65520.0, 1e30, 1e-30], np.float32)
    values = np.concatenate(
        [between, np.nextafter(between, np.float32(0)), spread.astype(np.float32), special]
    )
    with np.errstate(over="ignore"):
        want = values.astype(np.float16).view(np.uint16)
    np.testing.assert_array_equal([convert(float(v)) for v in values], want)
    assert np.isnan(np.array(convert(float("nan")), np.uint16).view(np.float16))


# ---- matmul ----


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", TYPES, ids=lambda t: t.name)
def test_matmul_lengths(isa: str, kind: Type) -> None:
    for k in lengths(kind):
        for n_rows in (1, 4, 7, 13):
            check_matmul(isa, kind, 33, k, n_rows, seed=k + n_rows)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", TYPES, ids=lambda t: t.name)
def test_matmul_rows(isa: str, kind: Type) -> None:
    for n_rows in ROWS:
        check_matmul(isa, kind, 17, 768, n_rows, seed=n_rows)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", TYPES, ids=lambda t: t.name)
def test_matmul_outputs(isa: str, kind: Type) -> None:
    for n_out in (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65):
        for n_rows in (1, 3, 9, 19):
            check_matmul(isa, kind, n_out, 512, n_rows, seed=n_out)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    isa=st.sampled_from(ISAS), kind=st.sampled_from(TYPES), n_out=st.integers(1, 70),
    blocks=st.integers(1, 40), n_rows=st.integers(1, 20), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_matmul_of_any_shape(isa: str, kind: Type, n_out: int, blocks: int, n_rows: int, seed: int) -> None:
    elements = gguf.GGML_QUANT_SIZES[kind][0]
    k = elements * (blocks if elements < 256 else -(-blocks // 8))
    check_matmul(isa, kind, n_out, k, n_rows, seed)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", QUANTIZED, ids=lambda t: t.name)
@pytest.mark.parametrize("n_rows", [1, 4, 65])
def test_matmul_of_real_activations_stays_within_int8_rounding(isa: str, kind: Type, n_rows: int) -> None:
    rng = np.random.default_rng(3)
    weights = kernels.guarded(kernels.random_weights(rng, kind, 96, 1024))
    heavy_tailed = rng.standard_normal((n_rows, 1024)) * np.exp(rng.standard_normal((n_rows, 1024)))
    x = heavy_tailed.astype(np.float32)
    want = reference(kind, weights, x)
    error = np.abs(kernels.matmul(isa, kind, weights, x) - want)
    share = bf16_share(isa, kind, n_rows)
    if share:
        assert (error <= (2 * share + share**2 + EXACT) * magnitudes(kind, weights, x)).all()
        assert np.sqrt((error**2).mean()) <= BF16_RMS * np.sqrt((want**2).mean())
        return
    assert (error <= int8_bound(kind, weights, x) + EXACT * magnitudes(kind, weights, x)).all()
    if n_rows > 1:  # the errors of one row meet weights that are not independent of each other
        assert np.sqrt((error**2).mean()) <= INT8_RMS_SLACK * int8_rms(kind, weights, x)


@pytest.mark.parametrize("kind", TYPES, ids=lambda t: t.name)
def test_portable_matmul_is_bit_equal_for_any_batch(kind: Type) -> None:
    rng = np.random.default_rng(4)
    weights = kernels.random_weights(rng, kind, 19, 768)
    x = rng.standard_normal((23, 768), np.float32)
    together = kernels.matmul("portable", kind, weights, x, split_out=5)
    alone = np.concatenate([kernels.matmul("portable", kind, weights, row[None]) for row in x])
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", TYPES, ids=lambda t: t.name)
@pytest.mark.parametrize("n_rows", [1, 9, 18])
def test_matmul_survives_hostile_scales(isa: str, kind: Type, n_rows: int) -> None:
    """Random bytes as scales: NaN and infinities spoil their own outputs and no others."""
    rng = np.random.default_rng(5)
    weights = kernels.random_weights(rng, kind, 32, 512)
    weights[::2] = rng.integers(0, 256, weights[::2].shape, np.uint8)
    weights[0] = 0xFF
    x = int8_exact_rows(rng, n_rows, 512)
    y = kernels.matmul(isa, kind, kernels.guarded(weights), x)
    clean = np.ascontiguousarray(weights[1::2])
    bound = (EXACT + bf16_share(isa, kind, n_rows)) * magnitudes(kind, clean, x)
    assert (np.abs(y[:, 1::2] - reference(kind, clean, x)) <= bound).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", TYPES, ids=lambda t: t.name)
@pytest.mark.parametrize("n_rows", [1, 9, 18])
def test_matmul_activations_that_int8_cannot_hold(isa: str, kind: Type, n_rows: int) -> None:
    rng = np.random.default_rng(6)
    weights = kernels.random_weights(rng, kind, 8, 512)
    x = rng.standard_normal((n_rows, 512), np.float32)
    x[0] = 0
    assert (kernels.matmul(isa, kind, weights, x)[0] == 0).all()
    x[0] = 1e-38
    assert np.isfinite(kernels.matmul(isa, kind, weights, x)).all()
    x[0, 100] = np.nan
    y = kernels.matmul(isa, kind, weights, x)
    assert np.isnan(y[0]).all() and np.isfinite(y[1:]).all()
    x[0, 100:104] = np.inf
    y = kernels.matmul(isa, kind, weights, x)
    assert not np.isfinite(y[0]).any() and np.isfinite(y[1:]).all()


# ---- rows and elements ----

SIZES = [1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 64, 1000, 1027]


@pytest.mark.parametrize("isa", ISAS)
def test_rmsnorm(isa: str) -> None:
    rng = np.random.default_rng(10)
    for n in SIZES:
        x, w = rng.standard_normal((5, n), np.float32) * 3, rng.standard_normal(n, np.float32)
        out = np.full((5, n), np.nan, np.float32)
        kernels.ops(isa).rmsnorm(kernels.pointer(x), kernels.pointer(w), 1e-5, n, 1, 4, kernels.pointer(out))
        wide = x.astype(np.float64)
        want = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + np.float64(np.float32(1e-5))) * w
        np.testing.assert_allclose(out[1:4], want[1:4], rtol=2e-6)
        assert np.isnan(out[[0, 4]]).all()
        kernels.ops(isa).rmsnorm(kernels.pointer(x), kernels.pointer(w), 1e-5, n, 0, 5, kernels.pointer(x))
        np.testing.assert_allclose(x, want, rtol=2e-6)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("neox", [True, False])
def test_rope(isa: str, neox: bool) -> None:
    rng = np.random.default_rng(11)
    shapes = [
        (2, 1),
        (8, 4),
        (16, 8),
        (48, 24),
        (64, 16),
        (80, 40),
        (96, 48),
        (100, 25),
        (128, 64),
        (256, 128),
    ]
    for head_dim, half in shapes:
        rows, heads, stride = 4, 3, 3 * head_dim + 5
        angle = rng.uniform(-9, 9, (rows, half))
        cos_sin = kernels.guarded(np.stack([np.cos(angle), np.sin(angle)], -1).astype(np.float32))
        x = rng.standard_normal((rows, stride), np.float32)
        want = x.astype(np.float64)
        view = want[:, : heads * head_dim].reshape(rows, heads, head_dim)
        first = slice(0, half) if neox else slice(0, 2 * half, 2)
        second = slice(half, 2 * half) if neox else slice(1, 2 * half, 2)
        a, b = view[1:, :, first].copy(), view[1:, :, second].copy()
        c, s = cos_sin[1:, None, :, 0].astype(np.float64), cos_sin[1:, None, :, 1].astype(np.float64)
        view[1:, :, first], view[1:, :, second] = a * c - b * s, a * s + b * c
        kernels.ops(isa).rope(
            kernels.pointer(x), stride, kernels.pointer(cos_sin), heads, head_dim, half, neox, 1, rows
        )
        np.testing.assert_allclose(x, want, rtol=0, atol=1e-6)


def activations(rng: np.random.Generator, n: int) -> F32:
    """Small, moderate and extreme values."""
    x = rng.standard_normal(n) * np.exp(rng.uniform(-12, 5, n))
    x[:: max(1, n // 7)] = rng.choice([0.0, 90.0, -90.0, 1e4, -1e4, 1e30, -1e30], len(x[:: max(1, n // 7)]))
    return x.astype(np.float32)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.filterwarnings("ignore:overflow")
def test_gates(isa: str) -> None:
    rng = np.random.default_rng(12)
    for n in SIZES:
        g, u = activations(rng, n), rng.standard_normal(n, np.float32)
        x, y = g.astype(np.float64), u.astype(np.float64)
        silu = x / (1 + np.exp(-x)) * y
        gelu = x / (1 + np.exp(-2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) * y
        np.testing.assert_allclose(kernels.elementwise(isa, "silu_mul", g, u), silu, rtol=2e-6, atol=1e-36)
        # The exponent's own rounding is magnified by its size, and tanh cancels in the portable form.
        np.testing.assert_allclose(kernels.elementwise(isa, "gelu_mul", g, u), gelu, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("isa", ISAS)
def test_add_scale_softcap_bias(isa: str) -> None:
    rng = np.random.default_rng(13)
    for n in SIZES:
        x, y = rng.standard_normal(n, np.float32) * 40, rng.standard_normal(n, np.float32)
        np.testing.assert_array_equal(kernels.elementwise(isa, "add", x, y), x + y)
        np.testing.assert_array_equal(kernels.elementwise(isa, "scale", x, 0.3), x * np.float32(0.3))
        capped, want = kernels.elementwise(isa, "softcap", x, 30.0), 30 * np.tanh(x.astype(np.float64) / 30)
        np.testing.assert_allclose(capped, want, atol=30 * TANH_ABSOLUTE, rtol=0)
        rows = np.tile(x, (4, 1))
        kernels.ops(isa).add_bias(kernels.pointer(rows), kernels.pointer(y), n, 1, 3)
        np.testing.assert_array_equal(rows, np.stack([x, x + y, x + y, x]))


@pytest.mark.parametrize("isa", ISAS)
def test_softmax_stats(isa: str) -> None:
    rng = np.random.default_rng(14)
    for n in [*SIZES, 32000]:
        x = kernels.guarded(rng.standard_normal(n, np.float32) * 10 - 50)
        most, total = ctypes.c_float(), ctypes.c_float()
        kernels.ops(isa).softmax_stats(kernels.pointer(x), n, ctypes.byref(most), ctypes.byref(total))
        assert most.value == x.max()
        want = np.exp(x.astype(np.float64) - x.max()).sum()
        assert total.value == pytest.approx(want, rel=EXP_RELATIVE + 1e-6)


@pytest.mark.parametrize("isa", ISAS)
def test_softmax_of_banned_tokens(isa: str) -> None:
    x = np.full(40, -np.inf, np.float32)
    x[[3, 20]] = 1.5
    most, total = ctypes.c_float(), ctypes.c_float()
    kernels.ops(isa).softmax_stats(kernels.pointer(x), 40, ctypes.byref(most), ctypes.byref(total))
    assert (most.value, total.value) == (1.5, 2.0)


@pytest.mark.parametrize("isa", ISAS)
def test_kv_store(isa: str) -> None:
    rng = np.random.default_rng(15)
    for head_dim in (1, 7, 8, 16, 20, 64, 80):
        row = rng.standard_normal((3, head_dim), np.float32)
        for kv_type, dtype in ((KV_F16, np.float16), (KV_F32, np.float32)):
            part = kernels.guarded(np.full((3, KV_PAGE, head_dim), -1, dtype))
            source, target = kernels.guarded(row), kernels.pointer(part)
            kernels.ops(isa).kv_store(target, kv_type, 15, kernels.pointer(source), 3, head_dim)
            np.testing.assert_array_equal(part[:, 15], row.astype(dtype))
            assert (part[:, :15] == -1).all()


# ---- attention ----


def make_pages(k: Any, v: Any, kv_type: int, garbage: float) -> list[Any]:
    """(n, n_head_kv, head_dim) keys and values as pages; slots never written hold garbage."""
    n, heads, dim = k.shape
    dtype = np.float16 if kv_type == KV_F16 else np.float32
    pages = []
    for start in range(0, n, KV_PAGE):
        page = np.full((2, heads, KV_PAGE, dim), garbage, dtype)
        stop = min(start + KV_PAGE, n)
        page[0, :, : stop - start] = k[start:stop].transpose(1, 0, 2)
        page[1, :, : stop - start] = v[start:stop].transpose(1, 0, 2)
        pages.append(kernels.guarded(page))
    return pages


def attention_reference(q: Any, k: Any, v: Any, pos0: int, window: int, scale: float, softcap: float) -> F64:
    """One softmax over all visible positions: q (rows, heads, dim), k and v (n, kv heads, dim)."""
    rows, heads, _ = q.shape
    out = np.zeros(q.shape)
    for r in range(rows):
        last = pos0 + r
        first = max(0, last - window + 1) if window else 0
        for h in range(heads):
            kv = h // (heads // k.shape[1])
            s = k[first : last + 1, kv].astype(np.float64) @ q[r, h].astype(np.float64) * scale
            if softcap:
                s = softcap * np.tanh(s / softcap)
            e = np.exp(s - s.max())
            out[r, h] = e @ v[first : last + 1, kv].astype(np.float64) / e.sum()
    return out


def run_attention(
    isa: str, q: Any, pages: list[Any], kv_heads: int, kv_type: int, pos0: int, window: int, softcap: float,
    splits: tuple[list[tuple[int, int]], list[tuple[int, int]]], rounded: int = 0,
) -> F32:  # fmt: skip
    rows, heads, dim = q.shape
    out = np.full((rows, heads * dim + 3), np.nan, np.float32)
    source = kernels.guarded(q)
    table = (ctypes.c_void_p * len(pages))(*(None if p is None else kernels.pointer(p) for p in pages))
    job = kernels.AttentionJob(
        kernels.pointer(source), kernels.pointer(out), heads * dim, heads * dim + 3, rows, pos0,
        heads, kv_heads, dim, window, dim**-0.5, softcap, kv_type, rounded, ctypes.addressof(table),
    )  # fmt: skip
    size = kernels.library().cpu_attention_scratch
    size.restype = ctypes.c_size_t
    scratch = kernels.guarded(np.full(size(dim), np.nan, np.float32))
    for row0, row1 in splits[0]:
        for head0, head1 in splits[1]:
            kernels.ops(isa).attention(ctypes.byref(job), row0, row1, head0, head1, kernels.pointer(scratch))
    assert np.isnan(out[:, heads * dim :]).all()
    return out[:, : heads * dim].reshape(q.shape)


ATTENTION_SHAPES = [  # rows, heads, KV heads, head_dim, pos0, window
    (1, 4, 4, 64, 0, 0), (1, 4, 4, 64, 15, 0), (1, 4, 4, 64, 16, 0), (1, 8, 2, 64, 100, 0),
    (1, 3, 1, 80, 63, 0), (5, 4, 2, 8, 0, 0), (17, 4, 4, 16, 0, 0), (33, 2, 2, 48, 7, 0),
    (40, 8, 1, 96, 30, 0), (9, 2, 1, 128, 12, 0), (3, 2, 2, 256, 40, 0), (3, 2, 2, 20, 40, 0),
    (2, 2, 1, 7, 20, 0), (2, 1, 1, 1, 5, 0), (3, 40, 1, 12, 33, 0), (1, 4, 2, 64, 100, 1),
    (1, 4, 2, 64, 100, 16), (20, 4, 2, 64, 100, 17), (70, 4, 2, 32, 0, 5), (70, 2, 2, 32, 50, 40),
    # decoding: heads that share a KV head or not, dims that fill registers or not, ends of blocks
    (1, 32, 4, 64, 199, 0), (1, 14, 2, 64, 31, 0), (1, 12, 1, 48, 32, 0), (1, 16, 1, 16, 95, 33),
    (1, 9, 3, 64, 64, 0), (1, 6, 6, 128, 130, 77), (1, 36, 36, 16, 47, 0), (1, 5, 1, 256, 70, 0),
]  # fmt: skip


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kv_type", [KV_F16, KV_F32])
@pytest.mark.parametrize("softcap", [0.0, 2.5])
def test_attention(isa: str, kv_type: int, softcap: float) -> None:
    rng = np.random.default_rng(20)
    for rows, heads, kv_heads, dim, pos0, window in ATTENTION_SHAPES:
        dtype = np.float16 if kv_type == KV_F16 else np.float32
        q = rng.standard_normal((rows, heads, dim), np.float32) * 3
        k, v = (rng.standard_normal((pos0 + rows, kv_heads, dim), np.float32).astype(dtype) for _ in range(2))
        pages: list[Any] = make_pages(k, v, kv_type, garbage=np.nan)
        if window:  # pages behind every window may be gone
            pages[: max(0, pos0 - window + 1) // KV_PAGE] = [None] * (max(0, pos0 - window + 1) // KV_PAGE)
        splits = (kernels.parts(rows, rows // 3), kernels.parts(heads, heads // 2))
        got = run_attention(isa, q, pages, kv_heads, kv_type, pos0, window, softcap, splits)
        want = attention_reference(q, k, v, pos0, window, np.float64(np.float32(dim**-0.5)), softcap)
        bound = EXACT * max(1.0, float(np.abs(v).max()))
        np.testing.assert_allclose(got, want, rtol=0, atol=bound, err_msg=f"{rows=} {dim=}")


ROUNDED_SHAPES = [  # more rows than a decode step has; the last positions, queries and dims fill no tile
    (17, 2, 2, 64, 0, 0), (64, 2, 2, 64, 64, 0), (70, 4, 2, 64, 3, 0), (33, 16, 2, 64, 250, 0),
    (40, 8, 1, 96, 30, 0), (31, 3, 1, 80, 60, 0), (18, 2, 1, 128, 12, 0), (19, 2, 2, 256, 40, 0),
    (20, 2, 2, 20, 40, 0), (21, 2, 1, 7, 20, 0), (70, 4, 2, 32, 0, 5), (70, 2, 2, 32, 50, 40),
    (90, 2, 1, 48, 200, 100), (17, 40, 1, 12, 33, 0),
]  # fmt: skip


def rounded_attention_bound(
    q: Any, k: Any, v: Any, pos0: int, window: int, scale: float, softcap: float
) -> F64:
    """Largest error of bf16 q, k, v and weights: scores shift weights, roundings scale terms."""
    share = 2 * BF16_STEP + BF16_STEP**2 + EXACT
    most = attention_largest_magnitude(q, k, pos0) * scale  # a soft cap only brings scores closer
    weighted = attention_reference(q, k, np.abs(v).astype(np.float64), pos0, window, scale, softcap)
    bound: F64 = (np.expm1(2 * share * most)[..., None] + share + EXACT) * weighted * (1 + share)
    return bound


def attention_largest_magnitude(q: Any, k: Any, pos0: int) -> F64:
    """Largest sum of |q| |k| over the positions each query may see: (rows, heads)."""
    rows, heads, _ = q.shape
    wide = np.abs(k).astype(np.float64).repeat(heads // k.shape[1], axis=1)
    sums = np.einsum("rhd,nhd->rhn", np.abs(q).astype(np.float64), wide)
    later = np.arange(len(k))[None, :] > pos0 + np.arange(rows)[:, None]
    most: F64 = np.where(later[:, None, :], 0, sums).max(-1)
    return most


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("softcap", [0.0, 2.5])
def test_attention_of_rounded_activations(isa: str, softcap: float) -> None:
    rng = np.random.default_rng(23)
    for rows, heads, kv_heads, dim, pos0, window in ROUNDED_SHAPES:
        q = rng.standard_normal((rows, heads, dim), np.float32)
        k, v = (
            rng.standard_normal((pos0 + rows, kv_heads, dim), np.float32).astype(np.float16) for _ in range(2)
        )
        pages: list[Any] = make_pages(k, v, KV_F16, garbage=np.nan)
        gone = max(0, pos0 - window + 1) // KV_PAGE if window else 0
        pages[:gone] = [None] * gone
        splits = (kernels.parts(rows, rows // 3), kernels.parts(heads, heads // 2))
        got = run_attention(isa, q, pages, kv_heads, KV_F16, pos0, window, softcap, splits, rounded=1)
        shape = pos0, window, float(np.float32(dim**-0.5)), softcap
        want = attention_reference(q, k, v, *shape)
        error = np.abs(got - want)
        assert (error <= rounded_attention_bound(q, k, v, *shape)).all(), f"{rows=} {dim=} {window=}"
        assert np.sqrt((error**2).mean()) <= ATTENTION_RMS * np.sqrt((want**2).mean()), (
            f"{rows=} {dim=} {window=}"
        )


@pytest.mark.parametrize("isa", ISAS)
def test_attention_with_scores_far_apart(isa: str) -> None:
    """A later page beats all before by more than exp can express, and the other way round."""
    rng = np.random.default_rng(21)
    k, v = rng.standard_normal((64, 1, 16), np.float32), rng.standard_normal((64, 1, 16), np.float32)
    k[40:44] *= 200
    k[50:] *= 300
    q = rng.standard_normal((8, 4, 16), np.float32)
    pages = make_pages(k, v, KV_F32, 0)
    got = run_attention(isa, q, pages, 1, KV_F32, 56, 0, 0.0, ([(0, 8)], [(0, 4)]))
    want = attention_reference(q, k, v, 56, 0, 0.25, 0)
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-3)  # scores of about 1,000 carry errors of 1e-4
    assert np.isfinite(got).all()


@pytest.mark.parametrize("isa", ISAS)
def test_attention_of_a_row_is_bit_equal_for_any_split_of_its_heads(isa: str) -> None:
    """So threads may share a row's heads out in any way."""
    rng = np.random.default_rng(24)
    for heads, kv_heads, dim in [(12, 12, 64), (16, 2, 64), (40, 40, 16), (6, 2, 20)]:
        q = rng.standard_normal((1, heads, dim), np.float32)
        k, v = (rng.standard_normal((131, kv_heads, dim), np.float32).astype(np.float16) for _ in range(2))
        pages = make_pages(k, v, KV_F16, np.nan)
        shared = heads // kv_heads
        results = [
            run_attention(isa, q, pages, kv_heads, KV_F16, 130, 0, 0.0, ([(0, 1)], splits)).tobytes()
            for splits in ([(0, heads)], kernels.parts(heads, shared), [(0, shared), (shared, heads)])
        ]
        assert len(set(results)) == 1, f"{heads=} {dim=}"


def test_portable_attention_is_bit_equal_for_any_batch() -> None:
    rng = np.random.default_rng(22)
    k, v = (rng.standard_normal((50, 2, 20), np.float32).astype(np.float16) for _ in range(2))
    q = rng.standard_normal((30, 4, 20), np.float32)
    pages = make_pages(k, v, KV_F16, np.nan)
    together = run_attention("portable", q, pages, 2, KV_F16, 20, 0, 0.0, ([(0, 30)], [(0, 4)]))
    for r in range(30):
        splits = ([(0, 1)], [(0, 4)])
        alone = run_attention("portable", q[r : r + 1], pages, 2, KV_F16, 20 + r, 0, 0.0, splits)
        np.testing.assert_array_equal(alone[0], together[r])


# ---- the table ----


def test_feature_mask_chooses_the_kernels() -> None:
    assert "portable" in ISAS
    for isa in ISAS:
        assert kernels.ops(isa).name.decode() == isa
    best = kernels.Ops()
    kernels.library().cpu_ops_init(ctypes.byref(best), 0)
    assert best.name.decode() == ISAS[-1]
    nothing = kernels.Ops()
    kernels.library().cpu_ops_init(ctypes.byref(nothing), 1 << 30)
    assert nothing.name.decode() == "portable"


def test_only_computable_types_have_kernels() -> None:
    for isa in ISAS:
        for kind in range(64):
            assert bool(kernels.ops(isa).matmul[kind].run) == (kind in TYPES)
            assert bool(kernels.ops(isa).dequantize[kind]) == (kind in TYPES)
