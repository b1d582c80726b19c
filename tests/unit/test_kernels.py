"""Every kernel of every instruction set this machine has, against float64 NumPy and against the portable kernels."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from tests.unit import kernels
from tests.unit.kernels import F32, F64, KV_F16, KV_F32, KV_PAGE, TYPES, Bytes

# Bounds. EXACT: rounding of float32 sums, relative to the sum of the magnitudes of the terms.
EXACT = 2e-6
# Activations rounded to int8 with a scale per 32: half a step each, so the error is at most this share of
# (largest of the 32) * sum of |weights of the 32|; as independent uniform errors they come to a predictable RMS.
INT8_STEP = 0.5 / 127 * 1.001
INT8_RMS_SLACK = 1.1
# Vectorised exp and tanh against float64.
EXP_RELATIVE = 5e-7
TANH_ABSOLUTE = 1e-6

QUANTIZED = tuple(t for t in TYPES if t not in (Type.F32, Type.F16, Type.BF16))
ISAS = kernels.available()
ROWS = [*range(1, 18), 64, 257]


def lengths(kind: Type) -> list[int]:
    """Row lengths around every block, vector and panel."""
    if kind in (Type.Q4_0, Type.Q8_0):
        return [32, 64, 96, 480, 512, 544, 1056]
    if kind in QUANTIZED:
        return [256, 512, 768, 1280]
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


def check_matmul(isa: str, kind: Type, n_out: int, k: int, n_rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = kernels.guarded(kernels.random_weights(rng, kind, n_out, k))
    x = int8_exact_rows(rng, n_rows, k) if kind in QUANTIZED else rng.standard_normal((n_rows, k), np.float32)
    y = kernels.matmul(isa, kind, weights, x, split_rows=n_rows // 2, split_out=n_out // 2)
    error = np.abs(y - reference(kind, weights, x))
    bound = EXACT * magnitudes(kind, weights, x)
    assert (error <= bound).all(), f"{isa} {kind.name} {n_out=} {k=} {n_rows=}: {np.max(error / bound):.3g} x the bound"


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
    values = np.concatenate([between, np.nextafter(between, np.float32(0)), spread.astype(np.float32), special])
    with np.errstate(over="ignore"):
        want = values.astype(np.float16).view(np.uint16)
    np.testing.assert_array_equal([convert(float(v)) for v in values], want)
    assert np.isnan(np.array(convert(float("nan")), np.uint16).view(np.float16))


# ---- matmul ----


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", TYPES, ids=lambda t: t.name)
def test_matmul_lengths(isa: str, kind: Type) -> None:
    for k in lengths(kind):
        for n_rows in (1, 4, 7):
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
        for n_rows in (1, 3, 9):
            check_matmul(isa, kind, n_out, 512, n_rows, seed=n_out)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", QUANTIZED, ids=lambda t: t.name)
@pytest.mark.parametrize("n_rows", [1, 4, 33])
def test_matmul_of_real_activations_stays_within_int8_rounding(isa: str, kind: Type, n_rows: int) -> None:
    rng = np.random.default_rng(3)
    weights = kernels.guarded(kernels.random_weights(rng, kind, 96, 1024))
    x = rng.standard_normal((n_rows, 1024), np.float32) * np.exp(rng.standard_normal((n_rows, 1024), np.float32))
    want = reference(kind, weights, x)
    error = np.abs(kernels.matmul(isa, kind, weights, x) - want)
    assert (error <= int8_bound(kind, weights, x) + EXACT * magnitudes(kind, weights, x)).all()
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
@pytest.mark.parametrize("n_rows", [1, 9])
def test_matmul_survives_hostile_scales(isa: str, kind: Type, n_rows: int) -> None:
    """Random bytes as scales: NaN and infinities spoil their own outputs and no others."""
    rng = np.random.default_rng(5)
    weights = kernels.random_weights(rng, kind, 32, 512)
    weights[::2] = rng.integers(0, 256, weights[::2].shape, np.uint8)
    weights[0] = 0xFF
    x = int8_exact_rows(rng, n_rows, 512)
    y = kernels.matmul(isa, kind, kernels.guarded(weights), x)
    clean = np.ascontiguousarray(weights[1::2])
    assert (np.abs(y[:, 1::2] - reference(kind, clean, x)) <= EXACT * magnitudes(kind, clean, x)).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", TYPES, ids=lambda t: t.name)
@pytest.mark.parametrize("n_rows", [1, 9])
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
