"""Tests of the kernels of other processors, by those of the native ones.

A subclass in a test file names its instruction sets in a fixture `isa`.
"""

from __future__ import annotations

import pytest
from gguf import GGMLQuantizationType as Type

from tests.unit import test_kernels
from tests.unit.kernels import KV_F16, KV_F32, TYPES

kinds = pytest.mark.parametrize("kind", TYPES, ids=lambda t: t.name)
quantized = pytest.mark.parametrize("kind", test_kernels.QUANTIZED, ids=lambda t: t.name)


class ForeignKernels:
    ROWS: tuple[int, ...] = (0, 1, 4, 5, 6, 7, 9, 17, 64)

    @kinds
    def test_matmul_lengths(self, isa: str, kind: Type) -> None:
        for k in test_kernels.lengths(kind):
            for n_rows in (1, 2, 3, 4, 5, 8):
                test_kernels.check_matmul(isa, kind, 9, k, n_rows, seed=k + n_rows)

    @kinds
    def test_matmul_rows_and_outputs(self, isa: str, kind: Type) -> None:
        for n_rows in self.ROWS:
            for n_out in (1, 7, 8, 9, 33):
                test_kernels.check_matmul(isa, kind, n_out, 768, n_rows, seed=n_rows + n_out)

    @quantized
    @pytest.mark.parametrize("n_rows", [1, 4, 65])
    def test_matmul_of_real_activations(self, isa: str, kind: Type, n_rows: int) -> None:
        test_kernels.test_matmul_of_real_activations_stays_within_int8_rounding(isa, kind, n_rows)

    @kinds
    @pytest.mark.parametrize("n_rows", [1, 9])
    def test_matmul_of_hostile_numbers(self, isa: str, kind: Type, n_rows: int) -> None:
        test_kernels.test_matmul_survives_hostile_scales(isa, kind, n_rows)
        test_kernels.test_matmul_activations_that_int8_cannot_hold(isa, kind, n_rows)

    @pytest.mark.filterwarnings("ignore:overflow")
    def test_rows_and_elements(self, isa: str) -> None:
        test_kernels.test_rmsnorm(isa)
        test_kernels.test_gates(isa)
        test_kernels.test_add_scale_softcap_bias(isa)
        test_kernels.test_softmax_stats(isa)
        test_kernels.test_softmax_of_banned_tokens(isa)
        test_kernels.test_kv_store(isa)
        for neox in (True, False):
            test_kernels.test_rope(isa, neox)

    @pytest.mark.parametrize("kv_type", [KV_F16, KV_F32])
    @pytest.mark.parametrize("softcap", [0.0, 2.5])
    def test_attention(self, isa: str, kv_type: int, softcap: float) -> None:
        test_kernels.test_attention(isa, kv_type, softcap)
        test_kernels.test_attention_with_scores_far_apart(isa)
