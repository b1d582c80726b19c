"""Writes the fuzzers' starting inputs: tests/fuzz/corpus/{gguf,handles,model,tokenizer}/.

python3 -m tests.fuzz.make_corpus
"""

from __future__ import annotations

import random
from pathlib import Path

from tests.unit import gguf_bytes as g

CORPUS = Path(__file__).parent / "corpus"
TEXTS = [
    "Hello  world\n\nit's the hell, aaaaaaaa 12345 <s>ab</s><u><us><|im_end|>",
    "▁▁ab a▁b é😀\u00a0\u3000x",
    "'re 'LL 've\r\n \t x",
]


def gguf_files() -> dict[str, bytes]:
    spm_tokens: list[str | bytes] = ["<unk>", "<s>", "</s>", "<0x0A>", "▁", "a", "b", "ab", "▁a", "<u>"]
    spm = g.spm_values(spm_tokens, [float(i) for i in range(10)], [2, 3, 3, 6, 1, 1, 1, 1, 1, 4])
    spm += [
        g.scalar("tokenizer.ggml.bos_token_id", g.U32, 1),
        g.scalar("tokenizer.ggml.add_bos_token", g.BOOL, 1),
    ]
    bpe = g.bpe_values(
        [*g.byte_symbols(), "he", "ll", "<|im_end|>"], ["h e", "l l"], [1] * 258 + [3], "llama-bpe"
    )
    kinds = [
        g.scalar(f"k{kind}", kind, 1 if kind != g.STRING else "text") for kind in range(13) if kind != g.ARRAY
    ]
    arrays = [
        g.array(f"a{kind}", kind, [1] * 3 if kind != g.STRING else ["x"] * 3)
        for kind in range(13)
        if kind != g.ARRAY
    ]
    tensors = [g.tensor("f32", [4, 2], 0, 0), g.tensor("q8_0", [32, 2], 8, 64), g.tensor("odd", [8], 99, 160)]
    return {
        "empty": g.File().build(),
        "spm": g.File(spm).build(),
        "bpe": g.File(bpe).build(),
        "types": g.File(kinds + arrays, version=2).build(),
        "tensors": g.File([g.scalar("general.alignment", g.U32, 32)], tensors, bytes(192)).build(),
    }


BLOCKS = {  # id, elements, bytes
    "F32": (0, 1, 4), "F16": (1, 1, 2), "Q4_0": (2, 32, 18), "Q8_0": (8, 32, 34), "Q4_K": (12, 256, 144),
    "Q5_K": (13, 256, 176), "Q6_K": (14, 256, 210), "BF16": (30, 1, 2),
}  # fmt: skip
SCALES = {"F32": b"\0\0\x80\x3d", "F16": b"\0\x2c", "BF16": b"\x80\x3d", "Q6_K": b"\0\x14"}
FEED_FORWARD, HEADS, KV_HEADS, HEAD = 32, 2, 1, 8


class TinyModel:
    """One layer of random bytes that runs in microseconds; `width` and the types of its matrices vary."""

    def __init__(self, arch: str, width: int, wide: str, narrow: str) -> None:
        self.arch, self.width = arch, width
        self.wide, self.narrow = wide, narrow  # types of matrices with rows of `width`, and of 16 or 32
        self.file = g.File()
        self.random = random.Random(width)

    def number(self, key: str, value: float) -> None:
        kind = g.F32 if isinstance(value, float) else g.U32
        self.file.values.append(g.scalar(f"{self.arch}.{key}", kind, value))

    def tensor(self, name: str, dims: list[int], kind: str = "F32") -> None:
        number, elements, size = BLOCKS[kind]
        rows = dims[1] if len(dims) > 1 else 1
        count = dims[0] // elements * rows
        self.file.tensors.append(g.tensor(name, dims, number, len(self.file.data)))
        self.file.data += b"".join(self.block(kind, size) for _ in range(count))
        self.file.data += bytes(-len(self.file.data) % 32)

    def block(self, kind: str, size: int) -> bytes:
        """Random bits with scales near 0.01, so that sums stay finite."""
        scale = SCALES.get(kind, b"\0\x20")
        bits = self.random.randbytes(size - len(scale))
        return bits + scale if kind == "Q6_K" else scale + bits

    def build(self) -> bytes:
        tokens: list[str | bytes] = ["<unk>", "<s>", "</s>", "▁", "a", "b", "ab", "▁a", "▁b", "ba", "▁ab"]
        self.file.values = [g.scalar("general.architecture", g.STRING, self.arch)]
        self.file.values += g.spm_values(tokens, [float(i) for i in range(11)], [2, 3, 3, *[1] * 8])
        sizes = {
            "block_count": 1, "context_length": 64, "embedding_length": self.width,
            "feed_forward_length": FEED_FORWARD, "attention.head_count": HEADS,
            "attention.head_count_kv": KV_HEADS, "attention.key_length": HEAD, "attention.value_length": HEAD,
            "attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 1e4, "rope.dimension_count": HEAD,
        }  # fmt: skip
        for key, value in sizes.items():
            self.number(key, value)
        self.tensor("token_embd.weight", [self.width, len(tokens)], self.wide)
        self.tensor("output_norm.weight", [self.width])
        self.layer()
        if self.arch == "llama":
            self.tensor("rope_freqs.weight", [HEAD // 2])
            self.tensor("output.weight", [self.width, len(tokens)], self.wide)
        return self.file.build()

    def layer(self) -> None:
        norms = ["attn_norm", "ffn_norm"]
        norms += ["post_attention_norm", "post_ffw_norm"] if self.arch == "gemma2" else []
        for name in norms:
            self.tensor(f"blk.0.{name}.weight", [self.width])
        rows_of = {"attn_q": HEADS * HEAD, "attn_k": KV_HEADS * HEAD, "attn_v": KV_HEADS * HEAD}
        for name, rows in rows_of.items():
            self.tensor(f"blk.0.{name}.weight", [self.width, rows], self.wide)
            if self.arch == "qwen2":
                self.tensor(f"blk.0.{name}.bias", [rows])
        self.tensor("blk.0.attn_output.weight", [HEADS * HEAD, self.width], "F16")
        self.tensor("blk.0.ffn_gate.weight", [self.width, FEED_FORWARD], self.wide)
        self.tensor("blk.0.ffn_up.weight", [self.width, FEED_FORWARD], self.wide)
        self.tensor("blk.0.ffn_down.weight", [FEED_FORWARD, self.width], self.narrow)


def model_files() -> dict[str, bytes]:
    return {
        "llama-simple": TinyModel("llama", 32, "Q4_0", "Q8_0").build(),
        "qwen2-float": TinyModel("qwen2", 16, "F32", "BF16").build(),
        "gemma2-half": TinyModel("gemma2", 16, "BF16", "F16").build(),
        "llama-q4_k": TinyModel("llama", 256, "Q4_K", "Q8_0").build(),
        "qwen2-q5_k": TinyModel("qwen2", 256, "Q5_K", "Q4_0").build(),
        "gemma2-q6_k": TinyModel("gemma2", 256, "Q6_K", "Q4_0").build(),
    }


def main() -> None:
    for name, data in model_files().items():
        write("model", name, data)
    for name, data in gguf_files().items():
        write("gguf", name, data)
    for program in range(12):
        write("handles", f"program-{program}", random.Random(program).randbytes(400))
    for kind in range(24):
        write("tokenizer", f"text-{kind}", bytes([kind]) + TEXTS[kind % len(TEXTS)].encode())


def write(target: str, name: str, data: bytes) -> None:
    path = CORPUS / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


if __name__ == "__main__":
    main()
