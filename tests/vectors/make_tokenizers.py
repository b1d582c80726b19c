"""Makes the tokenizer vectors: small vocabularies in GGUF form, and what the oracles make of many texts.

    python -m tests.vectors.make_tokenizers      (needs requirements.txt)

For each vocabulary: tokenizer-NAME.gguf (vocabulary only) and tokenizer-NAME.jsonl, one case a line:
    text, ids (no special tokens parsed or added),
    decoded: the text of ids, where that differs from text,
    special: the ids with special tokens added and parsed, where they differ from ids.
Oracles: `sentencepiece` for spm*, `tokenizers` (and one function of `transformers`) for the others.
Neither normalizes the text: GGUF vocabularies of these kinds carry no normalizer.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as sentencepiece_proto
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from tests.vectors import corpus

HERE = Path(__file__).parent
SEED = 20240726
VOCAB_SIZE = 800
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6  # gguf.TokenType

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


@dataclass
class Vocabulary:
    """What goes into a GGUF file's tokenizer.ggml.* metadata, and the oracle's functions."""

    name: str
    meta: dict[str, Any]
    special: list[str]  # control tokens to write into some of the texts
    encode: Callable[[str], list[int]]
    encode_special: Callable[[str], list[int]]  # special tokens parsed and added
    decode: Callable[[list[int]], str]
    extra_texts: list[str] = field(default_factory=list)


def main() -> None:
    for vocabulary in all_vocabularies():
        write_gguf(vocabulary)
        cases = [case(vocabulary, text) for text in texts_for(vocabulary)]
        lines = "".join(json.dumps(entry) + "\n" for entry in cases)
        (HERE / f"tokenizer-{vocabulary.name}.jsonl").write_text(lines)
        print(vocabulary.name, len(vocabulary.meta["tokens"]), "tokens", len(cases), "cases")


def all_vocabularies() -> list[Vocabulary]:
    return [
        spm("spm", dummy_prefix=True),
        spm("spm-noprefix", dummy_prefix=False),
        bpe("gpt2", "gpt-2", GPT2, ["<|endoftext|>"], clean=True),
        bpe(
            "llama-bpe",
            "llama-bpe",
            LLAMA3,
            LLAMA3_SPECIAL,
            bos="<|begin_of_text|>",
            ignore_merges=True,
            clean=True,
        ),
        bpe(
            "qwen2",
            "qwen2",
            QWEN2,
            ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            user_defined=["<tool_call>"],
        ),
    ]


LLAMA3_SPECIAL = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
]


def texts_for(vocabulary: Vocabulary) -> list[str]:
    a, b = vocabulary.special[0], vocabulary.special[-1]
    special = [
        a,
        b,
        a + b,
        f"{a}Hello",
        f"Hello{b}",
        f"Hello {b} world",
        f"{a}system\n\nHi{b}\n",
        f"{a} {b}",
        f" {a}",
    ]
    special += [
        f"{a}{a}1234{b}",
        a[:-1],
        a[1:],
        f"<{a}>",
        f"{a[:3]}{b}",
        f"\n{b}\n\n{a}\n",
        f"日本{b}語",
        f"😀{a}😀",
    ]
    return list(dict.fromkeys(corpus.texts(SEED) + special + vocabulary.extra_texts))


def case(vocabulary: Vocabulary, text: str) -> dict[str, Any]:
    ids, special = vocabulary.encode(text), vocabulary.encode_special(text)
    decoded = vocabulary.decode(ids)
    entry: dict[str, Any] = {"text": text, "ids": ids}
    if decoded != text:
        entry["decoded"] = decoded
    if special != ids:
        entry["special"] = special
    return entry


def write_gguf(vocabulary: Vocabulary) -> None:
    writer = gguf.GGUFWriter(HERE / f"tokenizer-{vocabulary.name}.gguf", "llama")
    add_tokenizer(writer, vocabulary.meta)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def add_tokenizer(writer: gguf.GGUFWriter, meta: dict[str, Any]) -> None:
    """Writes tokenizer.ggml.<key> for every key of meta; also used by make_models.py."""
    for key, value in meta.items():
        name = f"tokenizer.ggml.{key}"
        if isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        elif isinstance(value, str):
            writer.add_string(name, value)
        else:
            writer.add_array(name, value)


# ---- SentencePiece ----------------------------------------------------------------------------------


def spm(name: str, dummy_prefix: bool) -> Vocabulary:
    """A llama-style vocabulary: BPE by score, byte fallback, spaces as U+2581."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=spm_train(dummy_prefix))
    size = processor.get_piece_size()
    meta: dict[str, Any] = {
        "model": "llama",
        "pre": "default",
        "tokens": [processor.id_to_piece(i) for i in range(size)],
        "scores": [float(processor.get_score(i)) for i in range(size)],
        "token_type": [spm_type(processor, i) for i in range(size)],
        "unknown_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "add_bos_token": True,
        "add_eos_token": False,
        "add_space_prefix": dummy_prefix,
    }
    control = {processor.id_to_piece(i): i for i in range(size) if processor.is_control(i)}
    parsed = {**control, "<unk>": 0}

    def encode(text: str) -> list[int]:
        return list(processor.encode(text))

    def encode_special(text: str) -> list[int]:
        """BOS, then each special token as its id and each piece of text between as a text of its own."""
        ids = [1]
        for piece in re.split("(" + "|".join(map(re.escape, parsed)) + ")", text):
            ids += [parsed[piece]] if piece in parsed else encode(piece)
        return ids

    return Vocabulary(
        name, meta, list(control), encode, encode_special, lambda ids: str(processor.decode(ids))
    )


def spm_train(dummy_prefix: bool) -> bytes:
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus.TRAINING.split("\n")),
        model_writer=buffer,
        model_type="bpe",
        vocab_size=VOCAB_SIZE,
        character_coverage=0.98,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        control_symbols=["<|user|>", "<|end|>"],
        max_sentence_length=65536,
        num_threads=1,
        minloglevel=2,
    )
    proto = sentencepiece_proto.ModelProto()
    proto.ParseFromString(buffer.getvalue())
    proto.normalizer_spec.add_dummy_prefix = dummy_prefix
    return bytes(proto.SerializeToString())


def spm_type(processor: Any, index: int) -> int:
    if processor.is_unknown(index):
        return UNKNOWN
    if processor.is_control(index):
        return CONTROL
    return BYTE if processor.is_byte(index) else NORMAL


# ---- byte-level BPE ---------------------------------------------------------------------------------


def bpe(
    name: str,
    pre: str,
    regex: str,
    special: list[str],
    bos: str | None = None,
    ignore_merges: bool = False,
    user_defined: list[str] | None = None,
    clean: bool = False,
) -> Vocabulary:
    """A gpt-2 style vocabulary. Control tokens come last; user-defined ones are parsed in every text.

    clean: decoding drops spaces before punctuation, as the vendors' configurations of these vocabularies ask.
    """
    user_defined = user_defined or []
    vocab, merges = bpe_train(regex)
    if ignore_merges:  # whole words no merge leads to: found only by looking the word up first
        for word in ("Ġunmergeable", "zyzzyva"):
            vocab[word] = len(vocab)
    plain = bpe_oracle(vocab, merges, regex, ignore_merges)
    parsing = bpe_oracle(vocab, merges, regex, ignore_merges)
    for tokenizer, added in ((plain, user_defined), (parsing, user_defined + special)):
        tokenizer.add_tokens([AddedToken(token, normalized=False) for token in added])
    tokens = sorted(vocab, key=vocab.__getitem__) + user_defined + special
    types = [NORMAL] * len(vocab) + [USER_DEFINED] * len(user_defined) + [CONTROL] * len(special)
    end = tokens.index(special[-1])
    meta: dict[str, Any] = {
        "model": "gpt2",
        "pre": pre,
        "tokens": tokens,
        "token_type": types,
        "merges": [f"{left} {right}" for left, right in merges],
        "bos_token_id": tokens.index(bos) if bos else tokens.index(special[0]),
        "eos_token_id": end,
        "add_bos_token": bos is not None,
    }
    first = [tokens.index(bos)] if bos else []

    def decode(ids: list[int]) -> str:
        text = str(plain.decode(ids, skip_special_tokens=False))
        return str(PreTrainedTokenizerBase.clean_up_tokenization(None, text)) if clean else text

    return Vocabulary(
        name,
        meta,
        special,
        lambda text: list(plain.encode(text, add_special_tokens=False).ids),
        lambda text: first + list(parsing.encode(text, add_special_tokens=False).ids),
        decode,
        [f"x{token} y" for token in user_defined] + ["an unmergeable zyzzyva", "zyzzyva zyzzyvas"],
    )


def bpe_train(regex: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = bpe_pre_tokenizer(regex)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator([corpus.TRAINING], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return dict(model["vocab"]), [(left, right) for left, right in model["merges"]]


def bpe_oracle(
    vocab: dict[str, int], merges: list[tuple[str, str]], regex: str, ignore_merges: bool
) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = bpe_pre_tokenizer(regex)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def bpe_pre_tokenizer(regex: str) -> Any:
    split = pre_tokenizers.Split(Regex(regex), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


if __name__ == "__main__":
    main()
