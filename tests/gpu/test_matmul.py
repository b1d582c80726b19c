"""Products and embeddings on the GPU against what the gguf package reads out of the same bits, in float64.

Where the core has the type, its portable kernel is asked, too. Weights have random bits everywhere, so a
wrong nibble, scale or plane shows in every sum.
"""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from tests.gpu.bench import Gpu, GpuError
from tests.unit import kernels
from tests.unit.kernels import F32, Bytes

TYPES = (
    *(Type.F32, Type.F16, Type.BF16, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0),
    *(Type.Q2_K, Type.Q3_K, Type.Q4_K, Type.Q5_K, Type.Q6_K, Type.IQ4_NL, Type.IQ4_XS),
)
FLOATS = (Type.F32, Type.F16, Type.BF16)
BOUND = 2e-6  # of the largest possible sum: f32 additions in another order


def weight(kind: Type, rows: int, cols: int, parts: int = 1) -> dict[str, int | str]:
    return {"type": int(kind), "rows": rows, "cols": cols, "data": "w", "parts": parts}


def product(gpu: Gpu, kind: Type, w: Bytes, x: F32, parts: int = 1, workgroups: int = 0) -> F32:
    rows, (n_out, cols) = len(x), (len(w), x.shape[1])
    call = ("matmul", {"weight": weight(kind, n_out, cols, parts), "src": "x", "dst": "y", "rows": rows})
    [y] = gpu.run([call], {"w": w, "x": x, "y": rows * n_out * 4}, "y", workgroups=workgroups)
    return y.reshape(rows, n_out)


def check(gpu: Gpu, kind: Type, n_out: int, cols: int, rows: int, parts: int = 1) -> None:
    rng = np.random.default_rng([int(kind), n_out, cols, rows])
    w, x = kernels.random_weights(rng, kind, n_out, cols), rng.standard_normal((rows, cols), np.float32)
    w64 = kernels.dequantized(kind, w).astype(np.float64)
    y = product(gpu, kind, w, x, parts)
    largest = np.abs(x).astype(np.float64) @ np.abs(w64).T
    np.testing.assert_array_less(np.abs(y - x @ w64.T), BOUND * largest + 1e-30)
    if kind in kernels.TYPES:
        portable = kernels.matmul("portable", kind, w, x)
        np.testing.assert_array_less(np.abs(y - portable), BOUND * largest + 1e-30)


def columns(kind: Type) -> int:
    """Some whole blocks."""
    large = (Type.Q2_K, Type.Q3_K, Type.Q4_K, Type.Q5_K, Type.Q6_K, Type.IQ4_XS)
    return 512 if kind in large else 96


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_every_type_in_decode_and_prefill(gpu: Gpu, kind: Type) -> None:
    check(gpu, kind, 5, columns(kind), 1)
    check(gpu, kind, 65, columns(kind), 5)


@pytest.mark.parametrize("rows", (1, 2, 4, 5, 8, 9, 16, 17, 32, 33, 63, 64, 65, 129))
def test_rows_around_each_tile(gpu: Gpu, rows: int) -> None:
    check(gpu, Type.Q8_0, 67, 64, rows)


@pytest.mark.parametrize("n_out", (1, 3, 4, 5, 15, 16, 17, 63, 64, 65, 127, 128, 129))
def test_outputs_around_each_tile(gpu: Gpu, n_out: int) -> None:
    check(gpu, Type.Q8_0, n_out, 256, 1)
    check(gpu, Type.Q8_0, n_out, 256, 9)


@pytest.mark.parametrize("units", (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 130))
def test_columns_around_each_group_of_lanes(gpu: Gpu, units: int) -> None:
    check(gpu, Type.Q8_0, 6, 32 * units, 1)
    check(gpu, Type.Q8_0, 6, 32 * units, 5)


@pytest.mark.parametrize("kind", FLOATS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("cols", (1, 3, 30, 31, 33, 65))
def test_columns_that_are_no_whole_unit(gpu: Gpu, kind: Type, cols: int) -> None:
    check(gpu, kind, 7, cols, 2)
    check(gpu, kind, 7, cols, 9)


@pytest.mark.parametrize("parts", (2, 3, 10))
def test_a_weight_split_over_bindings(gpu: Gpu, parts: int) -> None:
    check(gpu, Type.Q6_K, 10, 256, 2, parts)
    check(gpu, Type.Q6_K, 10, 256, 9, parts)


def test_more_outputs_than_a_dispatch_has_workgroups(gpu: Gpu) -> None:
    """As with a very wide vocabulary, on kernels that believe in 3 workgroups per dimension."""
    w = kernels.random_weights(np.random.default_rng(3), Type.Q8_0, 1111, 64)
    for rows in (1, 9):
        x = np.random.default_rng(rows).standard_normal((rows, 64), np.float32)
        y = product(gpu, Type.Q8_0, w, x, workgroups=3)
        np.testing.assert_allclose(y, x @ kernels.dequantized(Type.Q8_0, w).T, rtol=2e-6, atol=2e-4)


def test_rows_see_nothing_of_each_other(gpu: Gpu) -> None:
    """Infinities and NaN in one session's row stay there, also where rows are padded."""
    rng = np.random.default_rng(4)
    for cols, rows in ((33, 3), (33, 9), (64, 3), (64, 9)):
        w = rng.standard_normal((5, cols), np.float32)
        x = rng.standard_normal((rows, cols), np.float32)
        x[1] = np.inf
        x[2, 0] = np.nan
        y = product(gpu, Type.F32, w.view(np.uint8), x)
        others = [r for r in range(rows) if r not in (1, 2)]
        np.testing.assert_allclose(y[others], x[others] @ w.T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_embedding_equals_the_dequantized_rows(gpu: Gpu, kind: Type) -> None:
    cols = 35 if kind in FLOATS else columns(kind)
    rows = 11
    w = kernels.random_weights(np.random.default_rng(int(kind)), kind, rows, cols)
    tokens = np.array([0, rows - 1, 4, 4, 6], np.uint32)
    y = embedded(gpu, kind, w, cols, tokens, 1)
    largest = np.abs(kernels.dequantized(kind, w)).max()
    np.testing.assert_allclose(y, kernels.dequantized(kind, w)[tokens], rtol=1e-6, atol=1e-6 * largest)


@pytest.mark.parametrize("parts", (1, 3))
def test_token_ids_past_the_vocabulary_give_zeros(gpu: Gpu, parts: int) -> None:
    w = kernels.random_weights(np.random.default_rng(5), Type.Q8_0, 10, 64)
    w[0] = 0xFF  # NaN scales in the row that a clamped read would return
    tokens = np.array([10, 3, 0xFFFFFFFF, 9, 0x80000000], np.uint32)
    y = embedded(gpu, Type.Q8_0, w, 64, tokens, parts)
    assert not y[[0, 2, 4]].any()
    np.testing.assert_allclose(y[[1, 3]], kernels.dequantized(Type.Q8_0, w)[[3, 9]], rtol=1e-6)


def embedded(gpu: Gpu, kind: Type, w: Bytes, cols: int, tokens: np.ndarray, parts: int) -> F32:
    args = {"weight": weight(kind, len(w), cols, parts), "tokens": "t", "dst": "y", "rows": len(tokens)}
    [y] = gpu.run([("embed", args)], {"w": w, "t": tokens, "y": len(tokens) * cols * 4}, "y")
    return y.reshape(len(tokens), cols)


def test_no_rows_record_nothing(gpu: Gpu) -> None:
    w = kernels.random_weights(np.random.default_rng(6), Type.Q8_0, 4, 32)
    x = np.ones((1, 32), np.float32)
    matmul = ("matmul", {"weight": weight(Type.Q8_0, 4, 32), "src": "x", "dst": "y", "rows": 0})
    embed = ("embed", {"weight": weight(Type.Q8_0, 4, 32), "tokens": "t", "dst": "y", "rows": 0})
    [y] = gpu.run([matmul, embed], {"w": w, "x": x, "t": np.zeros(1, np.uint32), "y": 128}, "y")
    assert np.isnan(y).all()


def test_unknown_types_and_broken_rows_are_refused(gpu: Gpu) -> None:
    w, x = np.zeros((1, 66), np.uint8), np.zeros((1, 32), np.float32)
    with pytest.raises(GpuError) as unknown:
        product(gpu, Type.IQ2_XXS, w, x)
    assert unknown.value.code == "unsupported-tensor-type"
    with pytest.raises(GpuError) as broken:
        product(gpu, Type.Q4_K, w, x)
    assert broken.value.code == "invalid-argument"
