"""The WebAssembly kernels against the same float64 NumPy as the native ones, by the same tests."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from tests.unit import kernels, test_kernels, wasm_kernels
from tests.unit.foreign_kernels import ForeignKernels, kinds, quantized

VECTOR = ("wasm-simd128", "wasm-relaxed", "wasm-relaxed-signed")
modules = pytest.mark.parametrize("isa", VECTOR)
packed_modules = pytest.mark.parametrize("isa", [name + kernels.PACKED for name in VECTOR])


def test_feature_mask_chooses_the_kernels() -> None:
    names = [wasm_kernels.ops(name).name for name in wasm_kernels.MODULES]
    assert names == [b"portable", b"simd128", b"relaxed", b"relaxed"]
    plain = wasm_kernels.WasmKernels(True, False, wasm_kernels.PORTABLE | wasm_kernels.SIMD128)
    assert plain.name == b"simd128"
    assert wasm_kernels.WasmKernels(True, False, wasm_kernels.RELAXED).name == b"portable"


@pytest.mark.parametrize("isa", ["wasm-portable"])
@kinds
def test_dequantize(isa: str, kind: Type) -> None:
    test_kernels.test_dequantize_equals_gguf_package(isa, kind)


@modules
@quantized
@pytest.mark.parametrize("n_rows", [1, 9])
def test_matmul_of_subnormal_scales(isa: str, kind: Type, n_rows: int) -> None:
    rng = np.random.default_rng(7)
    weights = kernels.random_weights(rng, kind, 9, 512)
    blocks = weights.reshape(9, -1, gguf.GGML_QUANT_SIZES[kind][1])
    for start in kernels.scale_offsets(kind):
        halves = rng.integers(0, 1 << 10, (*blocks.shape[:2], 1), np.uint16) | rng.choice([0, 1 << 15])
        blocks[..., start : start + 2] = halves.astype(np.uint16).view(np.uint8)
    x = test_kernels.int8_exact_rows(rng, n_rows, 512)
    error = np.abs(kernels.matmul(isa, kind, weights, x) - test_kernels.reference(kind, weights, x))
    assert (error <= test_kernels.EXACT * test_kernels.magnitudes(kind, weights, x)).all()


@quantized
def test_packing_moves_every_byte_once(kind: Type) -> None:
    """A byte of a block's field stands in its row's chunk; unpacking finds all of them."""
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    rows = np.random.default_rng(3).integers(0, 256, (8, 3 * size), np.uint8)
    stripe = kernels.packed(kind, rows).reshape(-1)
    assert np.array_equal(np.bincount(stripe, minlength=256), np.bincount(rows.reshape(-1), minlength=256))
    for row in range(8):
        for block in range(3):
            out = np.zeros(size, np.uint8)
            kernels.unpack_block(kind, stripe, row, block, out)
            np.testing.assert_array_equal(out, rows[row, block * size : (block + 1) * size])


@packed_modules
@quantized
def test_packed_matmul(isa: str, kind: Type) -> None:
    for k in test_kernels.lengths(kind):
        for n_rows in (1, 2, 3, 4, 5, 8):
            test_kernels.check_matmul(isa, kind, 9, k, n_rows, seed=k + n_rows)
    for n_rows in (0, 1, 4, 6, 17):
        for n_out in (7, 8, 16, 33):
            test_kernels.check_matmul(isa, kind, n_out, 768, n_rows, seed=n_rows + n_out)


@packed_modules
@quantized
@pytest.mark.parametrize("n_rows", [1, 9])
def test_packed_matmul_of_hard_numbers(isa: str, kind: Type, n_rows: int) -> None:
    test_kernels.test_matmul_survives_hostile_scales(isa, kind, n_rows)
    test_kernels.test_matmul_activations_that_int8_cannot_hold(isa, kind, n_rows)
    test_kernels.test_matmul_of_real_activations_stays_within_int8_rounding(isa, kind, n_rows)
    test_matmul_of_subnormal_scales(isa, kind, n_rows)


class TestSimd128(ForeignKernels):
    @pytest.fixture(params=VECTOR)
    def isa(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)
