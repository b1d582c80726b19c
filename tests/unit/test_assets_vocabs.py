"""Real vocabularies against what their vendors' tokenizers and llama.cpp make of the same texts
(REALM_ASSETS)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit import engine

pytestmark = engine.needs_assets

SEPARATOR = "\n__ggml_vocab_test__\n"
VENDOR_CASES = ["llama-spm", "phi-3", "gpt-2", "llama-bpe", "qwen2"]
EXTRA_CASES = ["llama-spm", "gpt-2", "llama-bpe", "qwen2"]


def folder() -> Path:
    return engine.assets() / "vocabs"


def vendor_cases(name: str) -> list[tuple[str, list[int]]]:
    texts = (folder() / f"ggml-vocab-{name}.gguf.inp").read_bytes().decode().split(SEPARATOR)
    lines = (folder() / f"ggml-vocab-{name}.gguf.out").read_text(encoding="utf-8").splitlines()
    assert len(texts) - len(lines) in (0, 1)  # the last separator may end the file
    return [(text, [int(part) for part in line.split()]) for text, line in zip(texts, lines, strict=False)]


@pytest.mark.parametrize("name", VENDOR_CASES)
def test_vendor_ids(name: str) -> None:
    with engine.open_realm(folder() / f"ggml-vocab-{name}.gguf", mode="vocab") as opened:
        wrong = [
            (text, made, ids)
            for text, ids in vendor_cases(name)
            if (made := opened.tokenize(text, add_special=False, parse_special=False)) != ids
        ]
    assert not wrong, f"{len(wrong)} differ, the first: {wrong[0]}"


@pytest.mark.parametrize("name", EXTRA_CASES)
def test_extra_cases(name: str) -> None:
    extra: dict[str, Any] = json.loads((folder() / f"{name}.extra.json").read_text(encoding="utf-8"))
    wrong = []
    with engine.open_realm(folder() / f"ggml-vocab-{name}.gguf", mode="vocab") as opened:
        for case in extra["cases"]:
            text = case["text"]
            made = {
                "ids": opened.tokenize(text),
                "ids_add_special": opened.tokenize(text, add_special=True),
                "ids_add_special_parse_special": opened.tokenize(text, add_special=True, parse_special=True),
                "detok_hex": engine.detokenized(opened, case["ids"]).hex(),
                "detok_special_hex": engine.detokenized(
                    opened, case["ids_add_special_parse_special"], special=True
                ).hex(),
            }
            wrong += [(key, text, value, case[key]) for key, value in made.items() if value != case[key]]
    assert not wrong, f"{len(wrong)} differ, the first: {wrong[:3]}"


def test_other_tokenizers_are_refused() -> None:
    code = engine.load_error(folder() / "ggml-vocab-bert-bge.gguf", mode="vocab").code
    assert code in ("unsupported-tokenizer", "unsupported-architecture")
