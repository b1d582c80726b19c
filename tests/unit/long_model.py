"""A model that generates for as long as a test needs: the tiny random one, with a longer context."""

from __future__ import annotations

import struct
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "vectors" / "model-mistral.gguf"
KEY, UINT32 = b"llama.context_length", 4


def long_model(folder: Path, context_length: int = 100_000) -> Path:
    data = SOURCE.read_bytes()
    old = KEY + struct.pack("<II", UINT32, 256)
    assert data.count(old) == 1
    path = folder / "long.gguf"
    path.write_bytes(data.replace(old, KEY + struct.pack("<II", UINT32, context_length)))
    return path
