"""Tokenizers against what sentencepiece and tokenizers make of the same texts (make_tokenizers.py)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit import engine

NAMES = ["spm", "spm-noprefix", "gpt2", "llama-bpe", "qwen2"]


@pytest.mark.parametrize("name", NAMES)
def test_ids_and_text(name: str) -> None:
    wrong: list[tuple[str, str, Any, Any]] = []
    with engine.open_realm(engine.VECTORS / f"tokenizer-{name}.gguf", mode="vocab") as opened:
        for case in cases(name):
            text, ids = case["text"], case["ids"]
            if opened.tokenize(text) != ids:
                wrong.append(("ids", text, opened.tokenize(text), ids))
            special = opened.tokenize(text, add_special=True, parse_special=True)
            if special != case.get("special", ids):
                wrong.append(("special", text, special, case.get("special", ids)))
            if opened.detokenize(ids) != case.get("decoded", text):
                wrong.append(("text", text, opened.detokenize(ids), case.get("decoded", text)))
            raw = engine.detokenized(opened, ids, text_start=False).decode()
            if not name.startswith("spm") and raw != text:
                wrong.append(("raw text", text, raw, text))
    assert not wrong, f"{len(wrong)} differ, the first: {wrong[:3]}"


def cases(name: str) -> list[dict[str, Any]]:
    lines = (engine.VECTORS / f"tokenizer-{name}.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) > 300
    return [json.loads(line) for line in lines]


CONTROL = {
    "gpt2": ["<|endoftext|>"],
    "llama-bpe": [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
    ],
    "qwen2": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
}


@pytest.mark.parametrize("name", CONTROL)
def test_control_tokens_as_text_or_as_nothing(name: str) -> None:
    """Byte-level vocabularies lose nothing: parsed ids give back the text, control tokens and all."""
    with engine.open_realm(engine.VECTORS / f"tokenizer-{name}.gguf", mode="vocab") as opened:
        for case in cases(name):
            ids = case.get("special", case["ids"])
            whole = ("<|begin_of_text|>" if name == "llama-bpe" else "") + case["text"]
            assert engine.detokenized(opened, ids, special=True, text_start=False).decode() == whole
            for token in CONTROL[name]:
                whole = whole.replace(token, "")
            assert engine.detokenized(opened, ids, text_start=False).decode() == whole
