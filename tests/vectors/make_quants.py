"""Makes the quantization vectors: what the block types mean, and logits of the models of quant_models.py.

    python -m tests.vectors.make_quants

dequantize.json: for each type, bytes (hexadecimal) and the float32 values gguf.quants.dequantize makes of
them.
quant_models.json: for each type, the hash of the weights and, from the NumPy reference in float64, the logits
after the last id and at one position in the middle; int8_error is the largest logit error the same reference
makes over all positions when it rounds the inputs of every matrix product to int8 in blocks of 32, as fast
kernels do.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tests.reference import reference
from tests.vectors import quant_models

HERE = Path(__file__).parent
BLOCKS = 4  # of random bytes for each type, after the hand-made ones
MIDDLE = 9
INT8_BLOCK = 32
INT8_TYPES = ("Q4_0", "Q8_0", "Q4_K", "Q5_K", "Q6_K")


def main() -> None:
    entries = {name: dequantize_entry(name) for name in quant_models.TYPES}
    write(HERE / "dequantize.json", entries)
    with tempfile.TemporaryDirectory() as folder:
        models = {name: model_entry(name, Path(folder)) for name in quant_models.TYPES}
    write(HERE / "quant_models.json", {"ids": quant_models.IDS, "middle": MIDDLE, "models": models})


def dequantize_entry(name: str) -> dict[str, str]:
    qtype = gguf.GGMLQuantizationType[name]
    elements, size = gguf.GGML_QUANT_SIZES[qtype]
    blocks = np.random.RandomState(quant_models.SEED).randint(0, 256, size=(BLOCKS, size)).astype(np.uint8)
    if elements == 1:  # plain floats: some of each magnitude, no NaN
        values = np.array([0.0, -0.0, 1.0, -2.5, 65504.0, 6e-8, 1e-5, -3.14159, 1 / 3, 255.0], np.float32)
        raw = gguf.quants.quantize(values, qtype).view(np.uint8).reshape(-1)
    else:
        for offset in scale_offsets(name):
            blocks[:, offset : offset + 2] = np.array(SCALES, np.float16).view(np.uint8).reshape(BLOCKS, 2)
        raw = blocks.reshape(-1)
    typed = raw.view(np.float32) if name == "F32" else raw.view(np.float16) if name == "F16" else raw
    values = gguf.quants.dequantize(typed, qtype).reshape(-1)
    return {"bytes": raw.tobytes().hex(), "values": values.astype("<f4").tobytes().hex()}


SCALES = [0.0123, -1.5, 6e-8, 0.0]  # the third is a subnormal half float


def scale_offsets(name: str) -> list[int]:
    """Where the half floats of a block stand."""
    return {"Q4_0": [0], "Q8_0": [0], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}[name]


def model_entry(name: str, folder: Path) -> dict[str, Any]:
    model = reference.load(quant_models.build(name, folder))
    exact = reference.logits(model, quant_models.IDS)
    entry: dict[str, Any] = {"weights_sha256": quant_models.weights_hash(name)}
    if name in INT8_TYPES:
        rounded = reference.logits(replace(model, int8_block=INT8_BLOCK), quant_models.IDS)
        entry["int8_error"] = round(float(np.abs(rounded - exact).max()), 6)
    for key, position in (("middle", MIDDLE), ("last", -1)):
        entry[key] = exact[position].astype("<f4").tobytes().hex()
    print(name, "logit std", exact.std().round(3), "int8 error", entry.get("int8_error"))
    return entry


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=0) + "\n")


if __name__ == "__main__":
    main()
