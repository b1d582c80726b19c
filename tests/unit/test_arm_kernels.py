"""The arm64 kernels under qemu-user against the same float64 NumPy as the native ones, by the same tests."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from tests.unit import arm_kernels, kernels, test_kernels
from tests.unit.kernels import KV_F16, KV_F32, TYPES

VECTOR = ("arm-neon-dotprod", "arm-neon-i8mm")
kinds = pytest.mark.parametrize("kind", TYPES, ids=lambda t: t.name)
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
@kinds
def test_matmul_lengths(isa: str, kind: Type) -> None:
    for k in test_kernels.lengths(kind):
        for n_rows in (1, 2, 3, 4, 5, 8):
            test_kernels.check_matmul(isa, kind, 9, k, n_rows, seed=k + n_rows)


@sets
@kinds
def test_matmul_rows_and_outputs(isa: str, kind: Type) -> None:
    for n_rows in (0, 1, *range(4, 18), 64):
        for n_out in (1, 7, 8, 9, 33):
            test_kernels.check_matmul(isa, kind, n_out, 768, n_rows, seed=n_rows + n_out)


@sets
@pytest.mark.parametrize("kind", test_kernels.QUANTIZED, ids=lambda t: t.name)
@pytest.mark.parametrize("n_rows", [1, 4, 65])
def test_matmul_of_real_activations_stays_within_int8_rounding(isa: str, kind: Type, n_rows: int) -> None:
    test_kernels.test_matmul_of_real_activations_stays_within_int8_rounding(isa, kind, n_rows)


@sets
@kinds
@pytest.mark.parametrize("n_rows", [1, 9])
def test_matmul_of_hostile_numbers(isa: str, kind: Type, n_rows: int) -> None:
    test_kernels.test_matmul_survives_hostile_scales(isa, kind, n_rows)
    test_kernels.test_matmul_activations_that_int8_cannot_hold(isa, kind, n_rows)


@sets
@pytest.mark.parametrize("kind", test_kernels.QUANTIZED, ids=lambda t: t.name)
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


@sets
@pytest.mark.filterwarnings("ignore:overflow")
def test_rows_and_elements(isa: str) -> None:
    test_kernels.test_rmsnorm(isa)
    test_kernels.test_gates(isa)
    test_kernels.test_add_scale_softcap_bias(isa)
    test_kernels.test_softmax_stats(isa)
    test_kernels.test_softmax_of_banned_tokens(isa)
    test_kernels.test_kv_store(isa)
    for neox in (True, False):
        test_kernels.test_rope(isa, neox)


@sets
@pytest.mark.parametrize("kv_type", [KV_F16, KV_F32])
@pytest.mark.parametrize("softcap", [0.0, 2.5])
def test_attention(isa: str, kv_type: int, softcap: float) -> None:
    test_kernels.test_attention(isa, kv_type, softcap)
    test_kernels.test_attention_with_scores_far_apart(isa)
