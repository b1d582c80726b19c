"""The slow NumPy reference: a GGUF file and token ids in, the logits of every position out, in float64.

It makes and checks the expected values of the tests and is never used by the engine. One straight forward
pass for the architectures llama, qwen2 and gemma2, written from the models' definitions: no cache, no speed.
Shapes: T tokens, d model width, H query heads, G kv heads, h head width, V vocabulary. Weights: (out, in).

    python tests/reference/reference.py MODEL.gguf --ids 1,2,3 [--kv f16] [--greedy N] [--out logits.npy]
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# The one gemma2 size whose attention scale is not 1/sqrt(head width); the file does not say so itself.
GEMMA2_27B_LAYERS = 46


# ---- the file ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Model:
    """Hyper-parameters and dequantized weights of one GGUF file, and what is rounded on the way (nothing)."""

    arch: str
    meta: dict[str, Any]
    weights: dict[str, Array]
    kv: str = "f64"  # "f16", "f32": keys and values are rounded as a cache of that type does
    int8_block: int = 0  # n: inputs of matrix products are rounded to int8 in blocks of n, as fast kernels do

    def get(self, key: str, default: Any = None) -> Any:
        """Metadata of this architecture: get("block_count") reads "llama.block_count"."""
        value = self.meta.get(f"{self.arch}.{key}", default)
        if value is None:
            raise KeyError(f"{self.arch}.{key} is missing")
        return value


def load(path: str | Path) -> Model:
    reader = gguf.GGUFReader(str(path))
    meta = {name: field.contents() for name, field in reader.fields.items()}
    weights = {tensor.name: dequantize(tensor) for tensor in reader.tensors}
    arch = meta["general.architecture"]
    if arch not in ("llama", "qwen2", "gemma2"):
        raise ValueError(f"the reference knows no architecture {arch!r}")
    return Model(arch, meta, weights)


def dequantize(tensor: gguf.ReaderTensor) -> Array:
    values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    return values.astype(np.float64).reshape(tensor.shape[::-1])  # GGUF gives the innermost dimension first


# ---- the forward pass ----------------------------------------------------------------------------


def logits(model: Model, ids: list[int]) -> Array:
    """Logits (T, V) of every position."""
    w = model.weights
    x = w["token_embd.weight"][ids]  # (T, d)
    if model.arch == "gemma2":
        x = x * math.sqrt(x.shape[1])
    for layer in range(model.get("block_count")):
        x = block(model, layer, x)
    x = rms_norm(model, x, "output_norm.weight")
    head = "output" if "output.weight" in w else "token_embd"  # tied where there is no output.weight
    out = linear(model, head, x)  # (T, V)
    return soft_cap(model, "final_logit_softcapping", out)


def block(model: Model, layer: int, x: Array) -> Array:
    """One layer: pre-norm attention and feed-forward with residuals; gemma2 also norms what each gives."""
    name = f"blk.{layer}."
    y = attention(model, layer, rms_norm(model, x, name + "attn_norm.weight"))
    if model.arch == "gemma2":
        y = rms_norm(model, y, name + "post_attention_norm.weight")
    x = x + y
    y = feed_forward(model, layer, rms_norm(model, x, name + "ffn_norm.weight"))
    if model.arch == "gemma2":
        y = rms_norm(model, y, name + "post_ffw_norm.weight")
    return x + y


def rms_norm(model: Model, x: Array, weight: str) -> Array:
    """x / rms(x) * w. gemma2's "1 + w" is already folded into the file's weights."""
    eps = model.get("attention.layer_norm_rms_epsilon")
    mean: Array = np.mean(x * x, axis=-1, keepdims=True)
    scaled: Array = x / np.sqrt(mean + eps) * model.weights[weight]
    return scaled


def linear(model: Model, name: str, x: Array) -> Array:
    """x (T, in) @ W (out, in)^T + b, the bias where the file has one (qwen2's q, k, v)."""
    x = round_int8(x, model.int8_block) if model.int8_block else x
    return x @ model.weights[name + ".weight"].T + model.weights.get(name + ".bias", 0.0)


def feed_forward(model: Model, layer: int, x: Array) -> Array:
    name = f"blk.{layer}.ffn_"
    gate = linear(model, name + "gate", x)
    activated = gelu_tanh(gate) if model.arch == "gemma2" else silu(gate)
    return linear(model, name + "down", activated * linear(model, name + "up", x))


def attention(model: Model, layer: int, x: Array) -> Array:
    """Causal grouped-query attention: query head i reads key/value head i // (H / G)."""
    name, count = f"blk.{layer}.attn_", len(x)
    heads = model.get("attention.head_count")
    groups = model.get("attention.head_count_kv", heads)
    width = model.get("attention.key_length", model.get("embedding_length") // heads)
    q = linear(model, name + "q", x).reshape(count, heads, width)
    k = linear(model, name + "k", x).reshape(count, groups, width)
    v = linear(model, name + "v", x).reshape(count, groups, -1)
    q, k = rope(model, q), rope(model, k)
    k, v = round_kv(k, model.kv), round_kv(v, model.kv)
    k, v = k.repeat(heads // groups, axis=1), v.repeat(heads // groups, axis=1)  # (T, H, h)
    scores = np.einsum("qhw,khw->hqk", q * attention_scale(model, heads, width), k)  # (H, T, T)
    scores = soft_cap(model, "attn_logit_softcapping", scores)
    scores = np.where(visible(model, layer, count), scores, -np.inf)
    mixed = np.einsum("hqk,khw->qhw", softmax(scores), v)  # (T, H, h)
    return linear(model, name + "output", mixed.reshape(count, -1))


def attention_scale(model: Model, heads: int, width: int) -> float:
    if model.arch == "gemma2" and model.get("block_count") == GEMMA2_27B_LAYERS:
        return 1.0 / math.sqrt(model.get("embedding_length") / heads)
    return 1.0 / math.sqrt(width)


def visible(model: Model, layer: int, count: int) -> NDArray[np.bool_]:
    """(T query, T key): the causal mask; gemma2's even layers see only the last sliding_window positions."""
    distance = np.arange(count)[:, None] - np.arange(count)[None, :]
    mask = distance >= 0
    if model.arch == "gemma2" and layer % 2 == 0:
        mask &= distance < model.get("attention.sliding_window", 4096)
    return mask


def rope(model: Model, x: Array) -> Array:
    """Rotates pairs of x (T, heads, h) by position * frequency.

    Pairs are neighbours (2i, 2i+1) in llama files, whose q and k rows were permuted for it; elsewhere
    they are halves (i, i + n/2).
    """
    count, _, width = x.shape
    rotated = model.get("rope.dimension_count", width)
    angles = np.arange(count)[:, None] * rope_frequencies(model, rotated)  # (T, rotated / 2)
    cos, sin = np.cos(angles)[:, None, :], np.sin(angles)[:, None, :]
    if model.arch == "llama":
        first, second = slice(0, rotated, 2), slice(1, rotated, 2)
    else:
        first, second = slice(0, rotated // 2), slice(rotated // 2, rotated)
    out = x.copy()
    out[..., first] = x[..., first] * cos - x[..., second] * sin
    out[..., second] = x[..., first] * sin + x[..., second] * cos
    return out


def rope_frequencies(model: Model, rotated: int) -> Array:
    """base^(-2i/n), divided by the linear scaling factor and by llama3's factor of each pair, where given."""
    base: float = model.get("rope.freq_base", 10000.0)
    frequencies: Array = base ** (-np.arange(0, rotated, 2, dtype=np.float64) / rotated)
    if model.meta.get(f"{model.arch}.rope.scaling.type") == "linear":
        frequencies = frequencies / model.get("rope.scaling.factor")
    return frequencies / model.weights.get("rope_freqs.weight", np.ones(1))


def round_kv(x: Array, kv: str) -> Array:
    return x if kv == "f64" else x.astype({"f16": np.float16, "f32": np.float32}[kv]).astype(np.float64)


def round_int8(x: Array, block: int) -> Array:
    """Each block of n values as whole multiples, -127 to 127, of a scale of its own."""
    blocks = x.reshape(*x.shape[:-1], -1, block)
    largest: Array = np.abs(blocks).max(axis=-1, keepdims=True)
    scale = np.where(largest == 0, 1.0, largest / 127.0)
    rounded: Array = np.round(blocks / scale) * scale
    return rounded.reshape(x.shape)


def soft_cap(model: Model, key: str, x: Array) -> Array:
    """cap * tanh(x / cap) in gemma2; a file that does not say has the caps of the published models."""
    if model.arch != "gemma2":
        return x
    cap: float = model.get(key, {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}[key])
    return cap * np.tanh(x / cap) if cap else x


def softmax(x: Array) -> Array:
    e: Array = np.exp(x - x.max(axis=-1, keepdims=True))
    total: Array = e.sum(axis=-1, keepdims=True)
    return e / total


def silu(x: Array) -> Array:
    return x / (1.0 + np.exp(-x))


def gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


# ---- what tests ask for --------------------------------------------------------------------------


def greedy(model: Model, ids: list[int], count: int) -> tuple[list[int], list[float]]:
    """The next `count` ids, each the best of its logits, and by how much each beats the second best."""
    ids, made, gaps = list(ids), [], []
    for _ in range(count):
        last = logits(model, ids)[-1]
        second, best = np.sort(last)[-2:]
        made.append(int(np.argmax(last)))
        gaps.append(float(best - second))
        ids.append(made[-1])
    return made, gaps


def main() -> None:
    parser = argparse.ArgumentParser(description="Logits of a GGUF model in float64.")
    parser.add_argument("model")
    parser.add_argument("--ids", required=True, help="token ids, separated by commas")
    parser.add_argument("--kv", choices=("f64", "f32", "f16"), default="f64", help="keys and values")
    parser.add_argument("--greedy", type=int, default=0, help="also continue by this many ids")
    parser.add_argument("--out", help="write the logits (T, V) to this .npy file")
    args = parser.parse_args()
    model, ids = replace(load(args.model), kv=args.kv), [int(part) for part in args.ids.split(",")]
    result = logits(model, ids)
    for position, row in enumerate(result):
        best = np.argsort(row)[::-1][:5]
        print(position, " ".join(f"{token}:{row[token]:.6f}" for token in best))
    if args.greedy:
        print("greedy", *greedy(model, ids, args.greedy)[0])
    if args.out:
        np.save(args.out, result)


if __name__ == "__main__":
    main()
