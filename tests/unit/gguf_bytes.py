"""A GGUF writer that can lie: it writes what it is told, checks nothing, and lets tests replace any field.

Independent of the core and of the `gguf` package, so that broken files can be made byte by byte.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
FORMATS = {
    U8: "<B",
    I8: "<b",
    U16: "<H",
    I16: "<h",
    U32: "<I",
    I32: "<i",
    F32: "<f",
    BOOL: "<B",
    U64: "<Q",
    I64: "<q",
    F64: "<d",
}
NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # token types


def u32(number: int) -> bytes:
    return struct.pack("<I", number & 0xFFFFFFFF)


def u64(number: int) -> bytes:
    return struct.pack("<Q", number & 0xFFFFFFFFFFFFFFFF)


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return u64(len(data)) + data


def element(kind: int, value: Any) -> bytes:
    return text(value) if kind == STRING else struct.pack(FORMATS[kind], value)


def scalar(key: str | bytes, kind: int, value: Any) -> bytes:
    return text(key) + u32(kind) + element(kind, value)


def array(key: str | bytes, kind: int, values: Any, count: int | None = None) -> bytes:
    """`count` may differ from the number of values."""
    data = b"".join(element(kind, value) for value in values)
    return text(key) + u32(ARRAY) + u32(kind) + u64(len(values) if count is None else count) + data


def tensor(name: str | bytes, dims: list[int], kind: int, offset: int, n_dims: int | None = None) -> bytes:
    sizes = b"".join(u64(d) for d in dims)
    return text(name) + u32(len(dims) if n_dims is None else n_dims) + sizes + u32(kind) + u64(offset)


@dataclass
class File:
    """Header fields are derived unless given."""

    values: list[bytes] = field(default_factory=list)
    tensors: list[bytes] = field(default_factory=list)
    data: bytes = b""
    magic: bytes = b"GGUF"
    version: int = 3
    value_count: int | None = None
    tensor_count: int | None = None
    alignment: int = 32

    def build(self) -> bytes:
        n_tensors = len(self.tensors) if self.tensor_count is None else self.tensor_count
        n_values = len(self.values) if self.value_count is None else self.value_count
        head = self.magic + u32(self.version) + u64(n_tensors) + u64(n_values)
        body = head + b"".join(self.values) + b"".join(self.tensors)
        padding = -len(body) % self.alignment if self.data else 0
        return body + bytes(padding) + self.data


def spm_values(
    tokens: list[str | bytes], scores: list[float], kinds: list[int] | None = None, model: str = "llama"
) -> list[bytes]:
    values = [scalar("tokenizer.ggml.model", STRING, model), array("tokenizer.ggml.tokens", STRING, tokens)]
    values.append(array("tokenizer.ggml.scores", F32, scores))
    if kinds is not None:
        values.append(array("tokenizer.ggml.token_type", I32, kinds))
    return values


def bpe_values(
    tokens: list[str | bytes], merges: list[str | bytes], kinds: list[int] | None = None, pre: str = "gpt-2"
) -> list[bytes]:
    values = [scalar("tokenizer.ggml.model", STRING, "gpt2"), scalar("tokenizer.ggml.pre", STRING, pre)]
    values.append(array("tokenizer.ggml.tokens", STRING, tokens))
    values.append(array("tokenizer.ggml.merges", STRING, merges))
    if kinds is not None:
        values.append(array("tokenizer.ggml.token_type", I32, kinds))
    return values


def byte_symbols() -> list[str]:
    """The 256 printable characters byte-level vocabularies write bytes with, by byte (GPT-2's table)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) if byte in plain else chr(0x100 + others.index(byte)) for byte in range(256)]
