"""A real GGUF taken apart with the `gguf` package and put together again with lies in it, by gguf_bytes.

model = edit("model-llama3.gguf")
model.set("llama.block_count", g.U32, 0)
model.tensors["output_norm.weight"].dims = [33]
path.write_bytes(model.build())
"""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from pathlib import Path

import gguf

from tests.unit import gguf_bytes as g

VECTORS = Path(__file__).parents[1] / "vectors"


@dataclass
class Tensor:
    dims: list[int]
    kind: int
    data: bytes


class Edited:
    """Keys keep their order and their bytes; tensors are laid out anew."""

    def __init__(self, path: Path) -> None:
        reader = gguf.GGUFReader(path)
        self.values: dict[str, bytes] = {}
        for field in reader.fields.values():
            if not field.name.startswith("GGUF."):
                self.values[field.name] = b"".join(bytes(part) for part in field.parts)
        self.tensors = {
            t.name: Tensor([int(d) for d in t.shape], int(t.tensor_type), bytes(t.data))
            for t in reader.tensors
        }

    def set(self, key: str, kind: int, value: object) -> None:
        self.values[key] = g.scalar(key, kind, value)

    def set_array(self, key: str, kind: int, values: list[int] | list[float]) -> None:
        self.values[key] = g.array(key, kind, values)

    def remove(self, key: str) -> None:
        del self.values[key]

    def build(self, alignment: int = 32) -> bytes:
        file = g.File(values=list(self.values.values()), alignment=alignment)
        chunks, at = [], 0
        for name, tensor in self.tensors.items():
            file.tensors.append(g.tensor(name, tensor.dims, tensor.kind, at))
            chunks.append(tensor.data + bytes(-len(tensor.data) % alignment))
            at += len(chunks[-1])
        file.data = b"".join(chunks)
        return file.build()


@functools.cache
def parsed(name: str) -> Edited:
    return Edited(VECTORS / name)


def edit(name: str) -> Edited:
    """A copy of its own of one of the vectors' models."""
    return copy.deepcopy(parsed(name))
