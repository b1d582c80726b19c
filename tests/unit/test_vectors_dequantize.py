"""Block types against the bytes and floats of make_quants.py, bit for bit, with every kernel set."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType

from tests.unit import kernels

VECTORS: dict[str, dict[str, str]] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "dequantize.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("isa", kernels.available())
@pytest.mark.parametrize("name", VECTORS)
def test_dequantize(name: str, isa: str) -> None:
    raw = kernels.guarded(np.frombuffer(bytes.fromhex(VECTORS[name]["bytes"]), np.uint8))
    expected = np.frombuffer(bytes.fromhex(VECTORS[name]["values"]), "<f4")
    values = np.empty(len(expected), np.float32)
    kind = GGMLQuantizationType[name]
    kernels.ops(isa).dequantize[kind](kernels.pointer(raw), len(expected), kernels.pointer(values))
    np.testing.assert_array_equal(values, expected)
