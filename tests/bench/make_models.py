"""Writes the benchmarks' models: real shapes and block types, random weights, a made-up vocabulary.

Speed does not depend on the values, so nothing is downloaded and nothing is quantized: the blocks are random
bytes with scales that keep activations in range. Any GGUF reader accepts the files.

    python tests/bench/make_models.py [--out build/bench] [110m-q8_0 1.1b-q4_k_m 1.1b-q8_0]
"""

from __future__ import annotations

import argparse
import itertools
import os
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind

VOCABULARY = 32_000
FOLDER = Path(__file__).resolve().parents[2] / "build" / "bench"


@dataclass(frozen=True)
class Shape:
    layers: int
    width: int
    ff: int
    heads: int
    heads_kv: int
    context: int = 2048

    @property
    def width_kv(self) -> int:
        return self.width // self.heads * self.heads_kv


SMALL = Shape(layers=12, width=768, ff=2048, heads=12, heads_kv=12)
TINYLLAMA = Shape(layers=22, width=2048, ff=5632, heads=32, heads_kv=4)

Mix = Callable[[str, int, int], Kind]  # (tensor's last name, layer, layers) -> block type


def all_q8_0(name: str, layer: int, layers: int) -> Kind:
    return Kind.Q8_0


def q4_k_m(name: str, layer: int, layers: int) -> Kind:
    """llama.cpp's mix of that name: Q6_K for the output and, in half of the layers, v and ffn_down."""
    first, last = layers // 8, 7 * layers // 8
    more_bits = layer < first or layer >= last or (layer - first) % 3 == 2
    if name == "output" or (name in ("attn_v", "ffn_down") and more_bits):
        return Kind.Q6_K
    return Kind.Q4_K


MODELS: dict[str, tuple[Shape, Mix]] = {
    "110m-q8_0": (SMALL, all_q8_0),
    "1.1b-q4_k_m": (TINYLLAMA, q4_k_m),
    "1.1b-q8_0": (TINYLLAMA, all_q8_0),
}


def tensors(shape: Shape, mix: Mix) -> Iterator[tuple[str, Kind, int, int]]:
    """(name, type, rows, row length) of every weight; rows are outputs. Norms have one row."""
    d, kv, ff = shape.width, shape.width_kv, shape.ff
    yield "token_embd.weight", mix("token_embd", 0, shape.layers), VOCABULARY, d
    for layer in range(shape.layers):
        matrices = {
            "attn_q": (d, d), "attn_k": (kv, d), "attn_v": (kv, d), "attn_output": (d, d),
            "ffn_gate": (ff, d), "ffn_up": (ff, d), "ffn_down": (d, ff),
        }  # fmt: skip
        for name, (rows, length) in matrices.items():
            yield f"blk.{layer}.{name}.weight", mix(name, layer, shape.layers), rows, length
        yield f"blk.{layer}.attn_norm.weight", Kind.F32, 1, d
        yield f"blk.{layer}.ffn_norm.weight", Kind.F32, 1, d
    yield "output_norm.weight", Kind.F32, 1, d
    yield "output.weight", mix("output", 0, shape.layers), VOCABULARY, d


# ---- weights ----


def random_blocks(kind: Kind, rows: int, length: int, rng: np.random.Generator) -> np.ndarray:
    """(rows, bytes of a row): values of about zero mean and a spread of 1 / sqrt(length)."""
    if kind == Kind.F32:
        return np.ones(length, np.float32)
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = np.frombuffer(rng.bytes(rows * length // elements * size), np.uint8).reshape(-1, size).copy()
    SCALERS[kind](blocks, 1 / np.sqrt(length))
    return blocks.reshape(rows, -1)


def put_f16(blocks: np.ndarray, offset: int, value: float) -> None:
    blocks[:, offset : offset + 2] = np.array([value], np.float16).view(np.uint8)


def scale_q8_0(blocks: np.ndarray, spread: float) -> None:
    put_f16(blocks, 0, spread / 74)  # of a uniform int8


def scale_q4_k(blocks: np.ndarray, spread: float) -> None:
    """d * scale * q - dmin * min with 6-bit scale and min, 4-bit q of mean 7.5: the means cancel."""
    put_f16(blocks, 0, spread / 260)
    put_f16(blocks, 2, spread / 260 * 7.5)


def scale_q6_k(blocks: np.ndarray, spread: float) -> None:
    """d * scale * (q - 32): scales are cut to -16 ... 15, so that d stays a normal half."""
    blocks[:, 192:208] = (blocks[:, 192:208] & 31) - np.uint8(16)
    put_f16(blocks, 208, spread / 170)


SCALERS = {Kind.Q8_0: scale_q8_0, Kind.Q4_K: scale_q4_k, Kind.Q6_K: scale_q6_k}


# ---- vocabulary ----


def vocabulary() -> tuple[list[str], list[float], list[int]]:
    """(pieces, scores, types) like SentencePiece's: specials, bytes, then pieces, shorter ones likelier."""
    kinds = gguf.TokenType
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    types = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, *[kinds.BYTE] * 256]
    scores = [0.0] * len(pieces)
    for count, piece in enumerate(itertools.islice(made_up_pieces(), VOCABULARY - len(pieces))):
        pieces.append(piece)
        types.append(kinds.NORMAL)
        scores.append(float(-count))
    return pieces, scores, [int(kind) for kind in types]


def made_up_pieces() -> Iterator[str]:
    yield "▁"
    yield from string.printable[:94]
    letters = string.ascii_lowercase
    for size in (1, 2, 3):
        for word in itertools.product(letters, repeat=size):
            yield "▁" + "".join(word)
            if size > 1:
                yield "".join(word)


# ---- files ----


def write_model(path: Path, shape: Shape, mix: Mix) -> None:
    listed = list(tensors(shape, mix))
    writer = write_directory(path, shape, mix)
    rng = np.random.default_rng(1)
    for (
        _,
        kind,
        rows,
        length,
    ) in listed:  # one at a time: the largest file is bigger than some machines' memory
        writer.write_tensor_data(random_blocks(kind, rows, length, rng))
    writer.close()


def write_sparse_model(path: Path, shape: Shape, mix: Mix) -> int:
    """A whole directory, and weights of zero that take no room on the disk; returns where they begin."""
    write_directory(path, shape, mix).close()
    weights = sum(tensor_bytes(kind, rows, length) for _, kind, rows, length in tensors(shape, mix))
    start = gguf.GGUFWriter.ggml_pad(path.stat().st_size, gguf.GGUF_DEFAULT_ALIGNMENT)
    os.truncate(path, start + weights)
    return start


def write_directory(path: Path, shape: Shape, mix: Mix) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(str(path), "llama")
    add_metadata(writer, path.stem, shape)
    for name, kind, rows, length in tensors(shape, mix):
        size = gguf.GGML_QUANT_SIZES[kind]
        dims = [length] if rows == 1 else [rows, length // size[0] * size[1]]
        dtype, raw = (np.dtype(np.float32), None) if kind == Kind.F32 else (np.dtype(np.uint8), kind)
        writer.add_tensor_info(name, dims, dtype, tensor_bytes(kind, rows, length), raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    return writer


def tensor_bytes(kind: Kind, rows: int, length: int) -> int:
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    return rows * length // elements * size


def add_metadata(writer: gguf.GGUFWriter, name: str, shape: Shape) -> None:
    writer.add_name(name)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ff)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads_kv)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    pieces, scores, types = vocabulary()
    writer.add_vocab_size(len(pieces))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)


def make(name: str, folder: Path = FOLDER) -> Path:
    """The file of a model, written when it is not there yet."""
    path = folder / f"random-{name}.gguf"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".part")
        write_model(temporary, *MODELS[name])
        temporary.replace(path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the benchmarks' random models.")
    parser.add_argument("names", nargs="*", default=list(MODELS), metavar="NAME", help=", ".join(MODELS))
    parser.add_argument("--out", type=Path, default=FOLDER)
    options = parser.parse_args()
    if unknown := set(options.names) - set(MODELS):
        parser.error(f"no model {', '.join(sorted(unknown))}; there are: {', '.join(MODELS)}")
    for name in options.names:
        path = make(name, options.out)
        print(f"{path}  {path.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
