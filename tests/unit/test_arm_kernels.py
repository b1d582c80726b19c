"""The arm64 kernels under qemu-user against the same float64 NumPy as the native ones, by the same tests."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from tests.unit import arm_kernels, kernels, test_kernels
from tests.unit.foreign_kernels import ForeignKernels, kinds, quantized

VECTOR = ("arm-neon-dotprod", "arm-neon-i8mm")
sets = pytest.mark.parametrize("isa", VECTOR)


@pytest.mark.parametrize(
    ("processor", "features", "name"),
    [
        ("cortex-a72", 0, b"portable"),
        ("neoverse-n1", 0, b"neon-dotprod"),
        ("max", 0, b"neon-i8mm"),
        ("max", arm_kernels.PORTABLE, b"portable"),
        ("max", arm_kernels.PORTABLE | arm_kernels.DOTPROD, b"neon-dotprod"),
        ("max", arm_kernels.PORTABLE | arm_kernels.I8MM, b"portable"),
    ],
)
def test_processor_and_mask_choose_the_kernels(processor: str, features: int, name: bytes) -> None:
    assert arm_kernels.ArmKernels(processor, features).name == name


def test_dot_product_kernels_need_nothing_newer() -> None:
    """On a processor without matrix products the whole table runs."""
    table = arm_kernels.ArmKernels("neoverse-n1", 0)
    x = np.linspace(-3, 3, 256, dtype=np.float32)[None].repeat(9, 0)
    weights = kernels.random_weights(np.random.default_rng(1), Type.Q4_K, 8, 256)
    prepared = kernels.aligned(table.matmul[Type.Q4_K].prepared_size(9, 256))
    out = np.zeros((9, 8), np.float32)
    kernel = table.matmul[Type.Q4_K]
    kernel.prepare(kernels.pointer(x), 256, 9, 256, 0, 9, kernels.pointer(prepared))
    kernel.run(
        kernels.pointer(weights), weights.shape[1], kernels.pointer(prepared), 9, 256, 0, 8,
        kernels.pointer(out), 8,
    )  # fmt: skip
    bound = test_kernels.int8_bound(Type.Q4_K, weights, x)
    assert (np.abs(out - test_kernels.reference(Type.Q4_K, weights, x)) <= bound).all()


@pytest.mark.parametrize("isa", ["arm-portable"])
@kinds
def test_dequantize(isa: str, kind: Type) -> None:
    test_kernels.test_dequantize_equals_gguf_package(isa, kind)


@sets
@quantized
@pytest.mark.parametrize("n_rows", [1, 9])
def test_matmul_of_largest_weights(isa: str, kind: Type, n_rows: int) -> None:
    """Bytes of all ones, and activations of the largest size: sums reach their ends."""
    rng = np.random.default_rng(8)
    weights = kernels.random_weights(rng, kind, 8, 512)
    blocks = weights.reshape(8, -1, gguf.GGML_QUANT_SIZES[kind][1])
    scales = {at + i for at in kernels.scale_offsets(kind) for i in (0, 1)}
    others = [i for i in range(blocks.shape[2]) if i not in scales]
    blocks[::2, :, others], blocks[1::2, :, others] = 0xFF, 0x80
    x = np.full((n_rows, 512), 127, np.float32) * np.where(np.arange(n_rows) % 2, -1, 1)[:, None]
    y = kernels.matmul(isa, kind, weights, x.astype(np.float32))
    error = np.abs(y - test_kernels.reference(kind, weights, x.astype(np.float32)))
    assert (error <= test_kernels.EXACT * test_kernels.magnitudes(kind, weights, x)).all()


class TestNeon(ForeignKernels):
    ROWS = (0, 1, *range(4, 18), 64)

    @pytest.fixture(params=VECTOR)
    def isa(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)
