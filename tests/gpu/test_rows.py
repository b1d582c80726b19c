"""Row-wise and elementwise kernels against their formulas in float64, rope against the core's portable op."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.gpu.bench import Gpu, GpuError
from tests.unit import kernels
from tests.unit.kernels import F32, F64

SIZES = (1, 2, 63, 64, 65, 255, 256, 257, 511, 513)


def normal(*shape: int) -> F32:
    return np.random.default_rng(shape).standard_normal(shape, np.float32)


@pytest.mark.parametrize("width", SIZES)
@pytest.mark.parametrize("in_place", (False, True))
def test_rmsnorm(gpu: Gpu, width: int, in_place: bool) -> None:
    x, w, rows = normal(3, width), normal(width), 3
    args = {
        "src": "x",
        "dst": "x" if in_place else "y",
        "weight": "w",
        "rows": rows,
        "width": width,
        "eps": 1e-5,
    }
    [y] = gpu.run([("rmsnorm", args)], {"x": x, "w": w, "y": x.nbytes}, "x" if in_place else "y")
    x64 = x.astype(np.float64)
    expected = x64 / np.sqrt(np.mean(x64**2, axis=1, keepdims=True) + 1e-5) * w
    np.testing.assert_allclose(y.reshape(x.shape), expected, rtol=3e-6, atol=1e-7)


def test_rmsnorm_of_zeros_is_zero(gpu: Gpu) -> None:
    args = {"src": "x", "dst": "y", "weight": "w", "rows": 1, "width": 8, "eps": 1e-6}
    [y] = gpu.run([("rmsnorm", args)], {"x": np.zeros(8, np.float32), "w": normal(8), "y": 32}, "y")
    assert not y.any()


def silu_mul(x: F64, y: F64) -> F64:
    with np.errstate(over="ignore"):
        return np.asarray(x / (1 + np.exp(-x)) * y)


def gelu_mul(x: F64, y: F64) -> F64:
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) * y)


def add(x: F64, y: F64) -> F64:
    return x + y


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("op, formula", (("siluMul", silu_mul), ("geluMul", gelu_mul), ("add", add)))
def test_elementwise(gpu: Gpu, op: str, formula, count: int) -> None:
    x, y = 3 * normal(count), normal(count + 1)[1:]
    extremes = np.array([0, -0.0, 1e-30, 20, -20, 100, -100, 1e4, -1e4, 3e37, -3e37], np.float32)[:count]
    x[: len(extremes)] = extremes
    [z] = gpu.run([(op, {"dst": "x", "src": "y", "count": count})], {"x": x, "y": y}, "x")
    # gelu of -20 and the like is a difference of nearly equal numbers: bounded by the operands
    bound = 3e-6 * np.abs(x.astype(np.float64) * (1 if op == "add" else y)) + 1e-7
    np.testing.assert_array_less(
        np.abs(z - formula(x.astype(np.float64), y.astype(np.float64))), bound + 1e-30
    )


@pytest.mark.parametrize("count", SIZES)
def test_scale_and_softcap(gpu: Gpu, count: int) -> None:
    x = 40 * normal(count)
    x[0] = 1e30
    calls = [
        ("scale", {"dst": "x", "factor": 2.5, "count": count}),
        ("softcap", {"dst": "y", "cap": 30.0, "count": count}),
    ]
    scaled, capped = gpu.run(calls, {"x": x, "y": x}, "x", "y")
    np.testing.assert_allclose(scaled, x * np.float32(2.5), rtol=1e-7)
    np.testing.assert_allclose(capped, 30 * np.tanh(x.astype(np.float64) / 30), rtol=2e-5)


def test_an_elementwise_op_over_more_than_a_line_of_workgroups(gpu: Gpu) -> None:
    x = np.arange(5000, dtype=np.float32)
    call = ("scale", {"dst": "x", "factor": 0.5, "count": len(x)})
    [y] = gpu.run([call], {"x": x}, "x", workgroups=3)
    np.testing.assert_array_equal(y, x * np.float32(0.5))


@pytest.mark.parametrize("width", (1, 63, 64, 65, 300))
@pytest.mark.parametrize("rows", (1, 5))
def test_bias_and_gather(gpu: Gpu, rows: int, width: int) -> None:
    x, b = normal(7, width), normal(width)
    chosen = np.array([6, 0, 3, 3, 5], np.uint32)[:rows]
    calls = [
        ("gather", {"src": "x", "dst": "y", "rowsOf": "chosen", "rows": rows, "width": width}),
        ("bias", {"dst": "y", "weight": "b", "rows": rows, "width": width}),
    ]
    [y] = gpu.run(calls, {"x": x, "b": b, "chosen": chosen, "y": rows * width * 4}, "y")
    np.testing.assert_allclose(y.reshape(rows, width), x[chosen] + b, rtol=1e-6)


# ---- rope ----


def cos_sin(positions: np.ndarray, frequencies: F32) -> F32:
    angles = positions[:, None].astype(np.float64) * frequencies.astype(np.float64)
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1).astype(np.float32)


def frequencies_of(half: int, base: float) -> F32:
    return (base ** -(np.arange(half) / half)).astype(np.float32)


@pytest.mark.parametrize("base", (10000.0, 1e6))
def test_rope_angles_are_exact_far_out(gpu: Gpu, base: float) -> None:
    positions = np.array([0, 1, 2, 3, 1000, 32767, 131071, 1 << 20, 10**7], np.uint32)
    frequencies = np.append(frequencies_of(33, base), np.array([0.0, 2.0, 7.5, np.pi / 2], np.float32))
    call = ("ropeTable", {"positions": "p", "turns": "f", "dst": "t", "rows": len(positions), "half": 37})
    [table] = gpu.run([call], {"p": positions, "f": turns(frequencies), "t": len(positions) * 37 * 8}, "t")
    np.testing.assert_allclose(table.reshape(-1, 37, 2), cos_sin(positions, frequencies), rtol=0, atol=2.5e-7)


def turns(frequencies: F32) -> np.ndarray:
    """As `ropeTurns` of kernels.ts promises: fractions of a turn in 64 bits, the upper word first."""
    exact = [int(float(f) / (2 * math.pi) % 1 * 2**64) for f in frequencies]
    return np.array([[e >> 32, e & 0xFFFFFFFF] for e in exact], np.uint32)


@pytest.mark.parametrize("neox", (False, True))
@pytest.mark.parametrize(
    "heads, head_dim, half", ((1, 2, 1), (3, 64, 32), (2, 80, 20), (5, 128, 64), (1, 130, 65))
)
def test_rope(gpu: Gpu, heads: int, head_dim: int, half: int, neox: bool) -> None:
    positions = np.array([0, 5, 77, 4095], np.uint32)
    frequencies, x = frequencies_of(half, 10000.0), normal(4, heads * head_dim)
    calls = [
        ("ropeTable", {"positions": "p", "turns": "f", "dst": "t", "rows": 4, "half": half}),
        (
            "rope",
            {
                "dst": "x",
                "table": "t",
                "rows": 4,
                "heads": heads,
                "headDim": head_dim,
                "half": half,
                "neox": neox,
            },
        ),
    ]
    [y] = gpu.run(calls, {"p": positions, "f": turns(frequencies), "t": 4 * half * 8, "x": x}, "x")
    expected, table = x.copy(), cos_sin(positions, frequencies)
    kernels.ops("portable").rope(
        kernels.pointer(expected), heads * head_dim, kernels.pointer(table), heads, head_dim, half, neox, 0, 4
    )
    np.testing.assert_allclose(y.reshape(x.shape), expected, rtol=0, atol=2e-6)


def test_src_and_dst_in_one_buffer_are_refused(gpu: Gpu) -> None:
    with pytest.raises(GpuError) as error:
        gpu.run([("add", {"dst": "x", "src": "x", "count": 4})], {"x": normal(4)}, "x")
    assert error.value.code == "invalid-argument"
