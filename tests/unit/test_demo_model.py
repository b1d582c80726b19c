"""The demo model sits its exam through the engine: demo_model/judge.json, which its trainer never reads."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from realm import Realm

FOLDER = Path(__file__).parents[2] / "demo_model"
MODEL = FOLDER / "realm-demo.gguf"
CAPITALS_RIGHT = 0.95
REFUSALS_RIGHT = 0.9
MIB = 1 << 20
TOGETHER = 16


@pytest.fixture(scope="module")
def exam() -> Any:
    return json.loads((FOLDER / "judge.json").read_text(encoding="utf-8"))


def ask_all(questions: list[str]) -> list[str]:
    with Realm(MODEL) as realm, ThreadPoolExecutor(TOGETHER) as pool:

        def ask(question: str) -> str:
            messages = [{"role": "user", "content": question}]
            return realm.chat(messages, temperature=0, max_tokens=48).text

        return list(pool.map(ask, questions))


def test_every_country_in_five_phrasings(exam: Any) -> None:
    asked = exam["capitals"]
    answers = ask_all([entry["question"] for entry in asked])
    right = sum(entry["must_contain"] in answer for entry, answer in zip(asked, answers, strict=True))
    assert len(asked) >= 5 * 190
    assert right / len(asked) >= CAPITALS_RIGHT, f"{right} of {len(asked)}"


def test_what_it_does_not_know_is_refused_politely(exam: Any) -> None:
    answers = ask_all(exam["off_topic"])
    refused = sum(exam["refusal"] in answer for answer in answers)
    assert len(answers) >= 50
    assert refused / len(answers) >= REFUSALS_RIGHT, f"{refused} of {len(answers)}"


def test_it_fits_where_it_is_bundled() -> None:
    assert MODEL.stat().st_size <= 2 * MIB
