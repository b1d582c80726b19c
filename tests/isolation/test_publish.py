"""model.publish_prefix: computed once for all realms of the process, same answers, nothing private shared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from realm import ArgumentError, Realm, RealmError

SYSTEM = {
    "role": "system",
    "content": "You answer in one short sentence, and you never say more than you were asked.",
}
SETTINGS: dict[str, Any] = {"temperature": 0.0, "max_tokens": 6}
PAGE = 16


def make_realm(**options: object) -> Realm:
    return Realm(cpu_features=["portable"], threads=1, **options)  # type: ignore[arg-type]


@pytest.fixture
def realm() -> Iterator[Realm]:
    with make_realm() as made:
        yield made


def question(text: str) -> list[dict[str, str]]:
    return [SYSTEM, {"role": "user", "content": text}]


def rows_of(realm: Realm, text: str) -> tuple[str, int]:
    """The answer, and the rows computed for it."""
    before = realm.stats()["rows"]
    answer = realm.chat(question(text), **SETTINGS)
    return answer.text, realm.stats()["rows"] - before


def test_a_system_prompt_is_computed_once_for_all_realms(realm: Realm) -> None:
    answers = {}
    for text in ("What is the capital of France?", "And of Spain?"):
        with make_realm() as other:
            answers[text] = rows_of(other, text)
    prefix = realm.model.publish_prefix([SYSTEM])
    assert prefix.shared_tokens == len(prefix.tokens) // PAGE * PAGE > 0
    for text, (answer, rows) in answers.items():
        with make_realm() as other:
            assert rows_of(other, text) == (answer, rows - prefix.shared_tokens)
    realm.model.unpublish(prefix)
    with make_realm() as other:
        assert rows_of(other, "And of Spain?") == answers["And of Spain?"]


def test_a_text_and_token_ids_are_published_as_generate_takes_them(realm: Realm) -> None:
    text = "The capital of France is Paris. " * 6
    ids = realm.tokenize(text, add_special=True)
    for prefix in (realm.model.publish_prefix(text), realm.model.publish_prefix(ids)):
        assert list(prefix.tokens) == ids
        before = realm.stats()["prefix_hits"]
        with make_realm() as other:
            other.generate(text + "The capital of Spain is", **SETTINGS)
        assert realm.stats()["prefix_hits"] - before == prefix.shared_tokens
        realm.model.unpublish(prefix)


def test_misuse_is_a_typed_error(realm: Realm) -> None:
    model = realm.model
    with pytest.raises(ArgumentError, match="at least 16 tokens"):
        model.publish_prefix("short")
    with pytest.raises(ArgumentError):
        model.publish_prefix(7)  # type: ignore[arg-type]
    prefix = model.publish_prefix("The capital of France is Paris. " * 4)
    model.unpublish(prefix)
    with pytest.raises(RealmError) as caught:
        model.unpublish(prefix)
    assert caught.value.code == "not-found"
    with pytest.raises(ArgumentError, match="tenant"):
        make_realm(tenant=0)
