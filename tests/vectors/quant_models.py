"""Builds the 256-wide llama models of the quantization tests, one for each block type, in a given folder.

They are too large to commit and need no oracle to make, so tests build them; quant_models.json
(make_quants.py) has the hash of their weights and the logits. Every byte comes from a fixed stream of
integers, the same on every machine. Types that `gguf` can quantize are made from one set of weights; the
K types are made block by block, since any bytes with sane scales are a valid block.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

TYPES = ["F32", "F16", "BF16", "Q4_0", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]
SEED = 20240726
WIDTH, FEED_FORWARD, HEADS, HEADS_KV, LAYERS, VOCAB = 256, 512, 4, 2, 2, 320
K_BLOCK = 256  # elements in a block of the K types
SPREAD = 0.08  # standard deviation of the weights: attention is uneven and logits differ by units
IDS = [1, 300, 17, 42, 255, 3, 99, 310, 128, 64, 7, 7, 201, 150, 31, 277, 88, 12, 5, 319]

HEAD_WIDTH = WIDTH // HEADS
SHAPES = {  # (out, in)
    "attn_q": (WIDTH, WIDTH),
    "attn_k": (HEADS_KV * HEAD_WIDTH, WIDTH),
    "attn_v": (HEADS_KV * HEAD_WIDTH, WIDTH),
    "attn_output": (WIDTH, WIDTH),
    "ffn_gate": (FEED_FORWARD, WIDTH),
    "ffn_up": (FEED_FORWARD, WIDTH),
    "ffn_down": (WIDTH, FEED_FORWARD),
}


def build(type_name: str, folder: Path) -> Path:
    """Writes llama256-TYPE.gguf into folder and returns its path."""
    path = folder / f"llama256-{type_name.lower()}.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    add_hyper_parameters(writer)
    add_vocabulary(writer)
    qtype = gguf.GGMLQuantizationType[type_name]
    for name, values in tensors(type_name).items():
        is_norm = values.dtype == np.float32 and values.ndim == 1
        writer.add_tensor(name, values, raw_dtype=gguf.GGMLQuantizationType.F32 if is_norm else qtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def weights_hash(type_name: str) -> str:
    """The same on every machine; the file around the weights may differ with the gguf package."""
    digest = hashlib.sha256()
    for name, values in sorted(tensors(type_name).items()):
        digest.update(name.encode() + values.tobytes())
    return digest.hexdigest()


def tensors(type_name: str) -> dict[str, NDArray[Any]]:
    stream = np.random.RandomState(SEED)  # frozen for ever, unlike default_rng
    matrix = MAKERS.get(type_name) or quantizer(type_name)
    made: dict[str, NDArray[Any]] = {
        "token_embd.weight": matrix(stream, (VOCAB, WIDTH)),
        "output.weight": matrix(stream, (VOCAB, WIDTH)),
        "output_norm.weight": norm(stream),
    }
    for layer in range(LAYERS):
        for name, shape in SHAPES.items():
            made[f"blk.{layer}.{name}.weight"] = matrix(stream, shape)
        made[f"blk.{layer}.attn_norm.weight"] = norm(stream)
        made[f"blk.{layer}.ffn_norm.weight"] = norm(stream)
    return made


def norm(stream: np.random.RandomState) -> NDArray[np.float32]:
    return uniform(stream, (WIDTH,), 0.5) + np.float32(1.0)


def uniform(stream: np.random.RandomState, shape: tuple[int, ...], spread: float) -> NDArray[np.float32]:
    """Multiples of 2^-20, from -spread * sqrt(3) to +spread * sqrt(3): exact on every machine."""
    limit = round(spread * 3**0.5 * 2**20)
    return stream.randint(-limit, limit + 1, size=shape).astype(np.float32) / np.float32(2**20)


def quantizer(type_name: str) -> Callable[[np.random.RandomState, tuple[int, int]], NDArray[Any]]:
    def make(stream: np.random.RandomState, shape: tuple[int, int]) -> NDArray[Any]:
        values = uniform(stream, shape, SPREAD)
        return np.asarray(gguf.quants.quantize(values, gguf.GGMLQuantizationType[type_name]))

    return make


# ---- K types, block by block ------------------------------------------------------------------------


def q4_k(stream: np.random.RandomState, shape: tuple[int, int]) -> Bytes:
    return scale_min_blocks(stream, shape, largest=15, quant_bytes=128)


def q5_k(stream: np.random.RandomState, shape: tuple[int, int]) -> Bytes:
    return scale_min_blocks(stream, shape, largest=31, quant_bytes=32 + 128)


def scale_min_blocks(
    stream: np.random.RandomState, shape: tuple[int, int], largest: int, quant_bytes: int
) -> Bytes:
    """d, dmin: f16; 12 bytes of 6-bit scales and minimums; quants. w = d * scale * q - dmin * minimum.

    dmin is d * largest / 2, so that the weights' mean is near 0; both halves spread about
    10 d largest.
    """
    count = shape[0] * shape[1] // K_BLOCK
    d = half_floats(stream, count, 2 * SPREAD / (20 * largest))
    dmin = (d.astype(np.float32) * np.float32(largest / 2)).astype(np.float16)
    body = random_bytes(stream, (count, 12 + quant_bytes))
    return rows(shape, d.view(np.uint8).reshape(count, 2), dmin.view(np.uint8).reshape(count, 2), body)


def q6_k(stream: np.random.RandomState, shape: tuple[int, int]) -> Bytes:
    """quants (128 + 64 bytes), 16 int8 scales, d: f16. w = d * scale * (q - 32)."""
    count = shape[0] * shape[1] // K_BLOCK
    quants = random_bytes(stream, (count, 192))
    scales = stream.randint(-64, 64, size=(count, 16)).astype(np.int8).view(np.uint8)
    d = half_floats(stream, count, SPREAD / (37 * 18.5))
    return rows(shape, quants, scales, d.view(np.uint8).reshape(count, 2))


def random_bytes(stream: np.random.RandomState, shape: tuple[int, int]) -> Bytes:
    return stream.randint(0, 256, size=shape).astype(np.uint8)


def half_floats(stream: np.random.RandomState, count: int, typical: float) -> NDArray[np.float16]:
    """From half to one and a half times `typical`."""
    factor = stream.randint(512, 1537, size=count).astype(np.float32) / np.float32(1024)
    return (factor * np.float32(typical)).astype(np.float16)


def rows(shape: tuple[int, int], *parts: Bytes) -> Bytes:
    return np.concatenate(parts, axis=1).reshape(shape[0], -1)


MAKERS: dict[str, Callable[[np.random.RandomState, tuple[int, int]], NDArray[Any]]] = {
    "Q4_K": q4_k,
    "Q5_K": q5_k,
    "Q6_K": q6_k,
}


# ---- metadata ---------------------------------------------------------------------------------------


def add_hyper_parameters(writer: gguf.GGUFWriter) -> None:
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS_KV)
    writer.add_rope_dimension_count(HEAD_WIDTH)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCAB)


def add_vocabulary(writer: gguf.GGUFWriter) -> None:
    """The least a tokenizer accepts: three special tokens, all bytes, and words nobody merges."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += [f"word{index}" for index in range(VOCAB - len(tokens))]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * 259 + [-float(index) for index in range(VOCAB - 259)])
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * (VOCAB - 259))
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
