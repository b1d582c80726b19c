"""Makes model-chain.gguf, a model whose every greedy token is known by construction.

    python -m tests.vectors.make_chain

Attention and feed-forward add nothing (their last matrices are zero), so the logits depend on the last
token alone. Embeddings are rows of signs, nearly orthogonal; the output row of a token is the embedding
of the token it follows, so each token leads to the next of its chain, far ahead of all others. The last
token of the prompt picks the chain. Tests of stop strings, UTF-8 assembly, end tokens and limits need
exactly such a model.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

PATH = Path(__file__).parent / "model-chain.gguf"
WIDTH, FEED_FORWARD, HEADS, CONTEXT = 64, 32, 2, 128
SEED = 20240726

END = "</s>"
CHAINS = {  # what follows the prompt: pieces of text, <0xNN> for a byte token; each occurs in one chain only
    "1": [" one", " two", ", th", "ree.", " four", "END", " five", END],
    "2": ["<0xC3>", "<0xA9>", "<0xE6>", "<0x97>", "<0xA5>", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>", END],
    "3": ["ok", "<0xE2>", "<0x82>", "x", "<0xFF>", "y", END],
    "4": [" la", " lo", " la"],
    "<|assistant|>": ["Hi", " there", "!", END],
}
CONTROL = ["<unk>", "<s>", END, "<|user|>", "<|assistant|>"]
LETTERS = [chr(code) for code in range(32, 127)]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def main() -> None:
    tokens, types = vocabulary()
    writer = gguf.GGUFWriter(PATH, "llama")
    add_metadata(writer, tokens, types)
    for name, values in weights(tokens).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(PATH.name, len(tokens), "tokens")


def vocabulary() -> tuple[list[str], list[int]]:
    pieces = {piece.replace(" ", "▁") for chain in CHAINS.values() for piece in chain}
    normal = [piece for piece in sorted(pieces) if not piece.startswith("<")]
    letters = [letter.replace(" ", "▁") for letter in LETTERS]
    normal = list(dict.fromkeys(normal + letters))
    tokens = CONTROL + [f"<0x{byte:02X}>" for byte in range(256)] + normal
    types = [2] + [3] * (len(CONTROL) - 1) + [6] * 256 + [1] * len(normal)
    return tokens, types


def weights(tokens: list[str]) -> dict[str, NDArray[Any]]:
    stream = np.random.RandomState(SEED)
    embedding = stream.randint(0, 2, size=(len(tokens), WIDTH)) * 2.0 - 1.0
    output = np.zeros_like(embedding)
    for first, chain in CHAINS.items():
        ids = [tokens.index(piece.replace(" ", "▁")) for piece in [first, *chain]]
        for before, after in pairwise(ids):
            output[after] += embedding[before]
    half, single = np.float16, np.float32
    made: dict[str, NDArray[Any]] = {
        "token_embd.weight": embedding.astype(half),
        "output.weight": output.astype(half),
        "output_norm.weight": np.ones(WIDTH, single),
        "blk.0.attn_norm.weight": np.ones(WIDTH, single),
        "blk.0.ffn_norm.weight": np.ones(WIDTH, single),
    }
    for name, shape in {
        "attn_q": (WIDTH, WIDTH),
        "attn_k": (WIDTH, WIDTH),
        "attn_v": (WIDTH, WIDTH),
        "ffn_gate": (FEED_FORWARD, WIDTH),
        "ffn_up": (FEED_FORWARD, WIDTH),
    }.items():
        made[f"blk.0.{name}.weight"] = (stream.randint(-64, 65, size=shape) / 256).astype(half)
    made["blk.0.attn_output.weight"] = np.zeros((WIDTH, WIDTH), half)
    made["blk.0.ffn_down.weight"] = np.zeros((WIDTH, FEED_FORWARD), half)
    return made


def add_metadata(writer: gguf.GGUFWriter, tokens: list[str], types: list[int]) -> None:
    writer.add_name("chain")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(index) for index in range(len(tokens))])
    writer.add_token_types(types)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)


if __name__ == "__main__":
    main()
