"""Writes the fuzzers' starting inputs: tests/fuzz/corpus/{gguf,tokenizer}/.

python3 -m tests.fuzz.make_corpus
"""

from __future__ import annotations

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


def main() -> None:
    for name, data in gguf_files().items():
        write("gguf", name, data)
    for kind in range(24):
        write("tokenizer", f"text-{kind}", bytes([kind]) + TEXTS[kind % len(TEXTS)].encode())


def write(target: str, name: str, data: bytes) -> None:
    path = CORPUS / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


if __name__ == "__main__":
    main()
