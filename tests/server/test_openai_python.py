"""The official Python client of OpenAI against a live server: unchanged, its own types."""

from __future__ import annotations

import math

import numpy
import openai
import pytest
from realm import Realm

from tests.server.live import LiveServer

FRANCE = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture
def client(server: LiveServer):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60) as made:
        yield made


def test_chat(client) -> None:
    answer = client.chat.completions.create(model="demo", messages=FRANCE, temperature=0)
    [choice] = answer.choices
    assert choice.message.role == "assistant" and "Paris" in choice.message.content
    assert choice.finish_reason == "stop" and answer.model == "demo" and answer.object == "chat.completion"
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens > usage.prompt_tokens > 0


def test_chat_stream_says_the_same_as_the_whole(client) -> None:
    whole = client.chat.completions.create(model="demo", messages=FRANCE, temperature=0)
    chunks = list(
        client.chat.completions.create(
            model="demo", messages=FRANCE, temperature=0, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1


def test_stream_without_usage_has_none(client) -> None:
    stream = client.chat.completions.create(model="demo", messages=FRANCE, temperature=0, stream=True)
    assert all(chunk.usage is None and chunk.choices for chunk in stream)


def test_content_parts_are_one_text(client) -> None:
    parts = [{"type": "text", "text": "What is the capital "}, {"type": "text", "text": "of France?"}]
    answer = client.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": parts}], temperature=0
    )
    assert "Paris" in answer.choices[0].message.content


def test_stop(client) -> None:
    full = client.chat.completions.create(model="demo", messages=FRANCE, temperature=0)
    cut = client.chat.completions.create(model="demo", messages=FRANCE, temperature=0, stop=["Par"])
    assert cut.choices[0].finish_reason == "stop"
    assert cut.choices[0].message.content == full.choices[0].message.content.partition("Par")[0]


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_length(client, name: str) -> None:
    answer = client.chat.completions.create(model="demo", messages=FRANCE, temperature=0, **{name: 3})
    assert answer.choices[0].finish_reason == "length" and answer.usage.completion_tokens == 3


def test_choices_and_seed(client) -> None:
    def ask():
        return client.chat.completions.create(
            model="endless", messages=FRANCE, n=3, seed=5, max_tokens=8,
        )  # fmt: skip

    with pytest.raises(openai.BadRequestError, match="chat template"):
        ask()
    first, second = (
        client.completions.create(model="endless", prompt="x", n=3, seed=5, max_tokens=8, temperature=1)
        for _ in range(2)
    )
    texts = [choice.text for choice in first.choices]
    assert texts == [choice.text for choice in second.choices]
    assert [choice.index for choice in first.choices] == [0, 1, 2] and len(set(texts)) == 3
    assert first.usage.completion_tokens == 24


def test_completion_and_several_prompts(client) -> None:
    both = client.completions.create(model="demo", prompt=["The capital of", "The capital of"], temperature=0)
    alone = client.completions.create(model="demo", prompt="The capital of", temperature=0, echo=True)
    assert both.choices[0].text == both.choices[1].text
    assert alone.choices[0].text == "The capital of" + both.choices[0].text
    assert both.usage.prompt_tokens == 2 * alone.usage.prompt_tokens
    streamed = client.completions.create(model="demo", prompt="The capital of", temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == both.choices[0].text


def test_log_probabilities(client) -> None:
    answer = client.chat.completions.create(model="demo", messages=FRANCE, temperature=0, logprobs=True)
    tokens = answer.choices[0].logprobs.content
    assert "".join(token.token for token in tokens) == answer.choices[0].message.content
    assert all(-math.inf < token.logprob <= 0 for token in tokens)
    assert bytes(sum((token.bytes for token in tokens), [])).decode() == answer.choices[0].message.content
    stream = client.chat.completions.create(
        model="demo", messages=FRANCE, temperature=0, logprobs=True, stream=True
    )
    streamed = [
        token
        for chunk in stream
        if chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content or []
    ]
    assert [(token.token, token.logprob) for token in streamed] == [
        (token.token, token.logprob) for token in tokens
    ]


def test_log_probabilities_of_completions(client) -> None:
    answer = client.completions.create(model="demo", prompt="The capital of", temperature=0, logprobs=0)
    found = answer.choices[0].logprobs
    assert "".join(found.tokens) == answer.choices[0].text
    assert len(found.token_logprobs) == len(found.text_offset) == answer.usage.completion_tokens


def exact_logprobs(text: str) -> dict[str, float]:
    """Of the token after `text` in the demo model, from its logits by numpy: token -> log probability."""
    with Realm(threads=1) as realm:
        logits = realm.logits(realm.tokenize(text, add_special=True))[-1].astype(numpy.float64)
        values = logits - numpy.log(numpy.exp(logits - logits.max()).sum()) - logits.max()
        ids = numpy.argsort(-values, kind="stable")[:8]
        return {realm.detokenize([int(i)]): float(values[i]) for i in ids}


def test_the_likeliest_tokens_of_a_chat(client) -> None:
    settings = {"model": "demo", "messages": FRANCE, "temperature": 0, "logprobs": True}
    plain = client.chat.completions.create(**settings).choices[0].logprobs.content
    asked = client.chat.completions.create(**settings, top_logprobs=4).choices[0].logprobs.content
    assert [token.token for token in asked] == [token.token for token in plain]
    for token, before in zip(asked, plain, strict=True):
        values = [top.logprob for top in token.top_logprobs]
        assert len(values) == 4 and values == sorted(values, reverse=True)
        assert (token.top_logprobs[0].token, values[0]) == (token.token, token.logprob)  # greedy
        assert token.logprob == pytest.approx(before.logprob, abs=1e-3) and not before.top_logprobs
        assert sum(map(math.exp, values)) <= 1.0001
    stream = client.chat.completions.create(**settings, top_logprobs=4, stream=True)
    entries = [chunk.choices[0].logprobs for chunk in stream if chunk.choices[0].logprobs]
    streamed = [token for entry in entries for token in entry.content or []]
    assert [token.token for token in streamed] == [token.token for token in asked]
    assert all(len(token.top_logprobs) == 4 for token in streamed)


def test_the_likeliest_tokens_are_those_of_the_logits(client) -> None:
    text = "The capital of"
    answer = client.completions.create(model="demo", prompt=text, logprobs=5, max_tokens=1, temperature=1)
    found = answer.choices[0].logprobs
    exact = exact_logprobs(text)
    top = dict(found.top_logprobs[0])
    assert found.tokens[0] in top and 5 <= len(top) <= 6
    for token, value in list(exact.items())[:3]:  # the fast kernels' bound, and f16 beside f32 in the cache
        assert top[token] == pytest.approx(value, abs=0.15)


def exact_scores(ids: list[int]) -> list[dict[int, float]]:
    """Of every token after the first: all log probabilities at its place, from the logits by numpy."""
    with Realm(threads=1) as realm:
        logits = realm.logits(ids)[:-1].astype(numpy.float64)
    rows = logits - logits.max(axis=1, keepdims=True)
    rows -= numpy.log(numpy.exp(rows).sum(axis=1, keepdims=True))
    return [dict(enumerate(row)) for row in rows]


def tokens_of(text: str, add_special: bool) -> tuple[list[int], list[str]]:
    with Realm(threads=1) as realm:
        ids = realm.tokenize(text, add_special=add_special)
        return ids, [
            realm.model.detokenize_bytes([i], text_start=False).decode("utf-8", "replace") for i in ids
        ]


TEXT = "The capital of France is Paris. \u4f60 costs 3 \u20ac."


@pytest.mark.parametrize("top, most", [(0, 0), (2, 0), (1, 3)])
def test_echo_tells_the_log_probabilities_of_the_prompt(client, top: int, most: int) -> None:
    answer = client.completions.create(
        model="demo",
        prompt=TEXT,
        temperature=0,
        echo=True,
        logprobs=top,
        max_tokens=most,
        extra_body={"ignore_eos": True},
    )
    ids, _ = tokens_of(TEXT, add_special=True)
    own, texts = tokens_of(TEXT, add_special=False)
    exact, extra = exact_scores(ids), len(ids) - len(own)  # the token that begins every text has no place
    [choice] = answer.choices
    found = choice.logprobs
    assert choice.text.startswith(TEXT) and (most or choice.text == TEXT)
    assert answer.usage.prompt_tokens == len(ids) and answer.usage.completion_tokens == most
    assert choice.finish_reason == "length" and len(found.tokens) == len(own) + most
    assert found.tokens[1 : len(own)] == texts[1:]
    for place, token in enumerate(own):
        if place + extra == 0:
            assert found.token_logprobs[0] is None
            continue
        row = exact[place + extra - 1]
        assert found.token_logprobs[place] == pytest.approx(row[token], abs=0.15)
        if top:
            best = sorted(row.values(), reverse=True)[:top]
            told = found.top_logprobs[place]
            assert found.tokens[place] in told and top <= len(told) <= top + 1
            assert sorted(told.values(), reverse=True)[:top] == pytest.approx(best, abs=0.15)
    assert top or found.top_logprobs is None
    whole = [text for text in found.tokens if "\ufffd" not in text]
    for text, at in zip(found.tokens, found.text_offset, strict=True):
        assert text not in whole or choice.text[at : at + len(text)] == text


def test_echo_streams_the_same(client) -> None:
    settings = {"model": "demo", "prompt": [TEXT, "One two"], "temperature": 0, "max_tokens": 4, "n": 2}
    whole = client.completions.create(**settings, echo=True, logprobs=1)
    chunks = list(client.completions.create(**settings, echo=True, logprobs=1, stream=True))
    for choice in whole.choices:
        mine = [c for chunk in chunks for c in chunk.choices if c.index == choice.index]
        assert "".join(c.text for c in mine) == choice.text
        told = [c.logprobs for c in mine if c.logprobs]
        for name in ("tokens", "text_offset"):
            assert [x for each in told for x in getattr(each, name)] == getattr(choice.logprobs, name)
        values = [x for each in told for x in each.token_logprobs]
        assert values == pytest.approx(choice.logprobs.token_logprobs, abs=0.15)  # other rows beside them


@pytest.mark.parametrize("stream", [False, True])
def test_the_token_that_ends_has_a_place_behind_an_echo(client, stream: bool) -> None:
    settings = {
        "model": "demo",
        "prompt": TEXT,
        "temperature": 0,
        "max_tokens": 1,
        "echo": True,
        "logprobs": 1,
    }
    answer = client.completions.create(**settings, stream=stream)
    choices = [c for chunk in answer for c in chunk.choices] if stream else answer.choices
    own, _ = tokens_of(TEXT, add_special=False)
    values = [value for c in choices if c.logprobs for value in c.logprobs.token_logprobs]
    assert "".join(c.text for c in choices) == TEXT and choices[-1].finish_reason == "stop"
    assert len(values) == len(own) + 1 and -5 < values[-1] <= 0


def test_token_ids_are_a_prompt(client) -> None:
    ids, _ = tokens_of("The capital of France is", add_special=True)
    by_ids = client.completions.create(model="demo", prompt=ids, temperature=0, max_tokens=5)
    by_text = client.completions.create(
        model="demo", prompt="The capital of France is", temperature=0, max_tokens=5
    )
    assert by_ids.choices[0].text == by_text.choices[0].text
    assert by_ids.usage == by_text.usage
    scored = client.completions.create(
        model="demo", prompt=[ids, ids[:3]], echo=True, logprobs=1, max_tokens=1, temperature=0
    )
    exact = exact_scores(ids)
    for choice, own in zip(scored.choices, (ids, ids[:3]), strict=True):  # as evaluation harnesses read it
        values = choice.logprobs.token_logprobs
        assert len(values) == len(own) + 1 and values[0] is None and choice.logprobs.top_logprobs[0] is None
        expected = [row[token] for row, token in zip(exact, own[1:], strict=False)]
        assert values[1:-1] == pytest.approx(expected, abs=0.15)


@pytest.mark.parametrize(
    "wrong, param",
    [({"max_tokens": 0}, "max_tokens"), ({"prompt": [1 << 30]}, "prompt"), ({"prompt": [[-1]]}, "prompt"),
     ({"prompt": "word " * 2000, "echo": True, "logprobs": 1}, None), ({"n": 16, "prompt": ["x"] * 5}, "n"),
     ({"prompt": ["word " * 300] * 64, "echo": True, "logprobs": 1}, "echo")],
)  # fmt: skip
def test_what_cannot_be_scored_is_refused(client, wrong, param) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(**{"model": "demo", "prompt": "x", **wrong})
    assert refused.value.param == param


def test_bias_bans_a_token(client) -> None:
    plain = client.completions.create(model="demo", prompt="The capital of", temperature=0, max_tokens=1)
    token = client.post("/generate", body={"prompt": "The capital of", "temperature": 0}, cast_to=object)[
        "tokens"
    ][0]
    banned = client.completions.create(
        model="demo", prompt="The capital of", temperature=0, max_tokens=1, logit_bias={str(token): -100}
    )
    assert banned.choices[0].text != plain.choices[0].text


def test_models(client) -> None:
    assert [model.id for model in client.models.list()] == ["demo", "endless"]
    assert client.models.retrieve("demo").owned_by == "realm"


def test_errors_are_those_of_the_client(client) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-99", messages=FRANCE)
    assert missing.value.code == "model_not_found" and missing.value.param == "model"
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model="demo", messages=FRANCE, temperature=9)
    assert wrong.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as long:
        client.completions.create(model="demo", prompt="word " * 2000)
    assert long.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    "field",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"response_format": {"type": "json_object"}},
        {"top_logprobs": 3},
        {"logprobs": True, "top_logprobs": 21},
        {"modalities": ["text", "audio"]},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}},
    ],
)
def test_what_cannot_be_done_is_refused_by_name(client, field) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="demo", messages=FRANCE, **field)
    assert refused.value.param in field


async def test_leaving_a_stream_ends_the_generation(server: LiveServer) -> None:
    from tests.server.live import wait_until

    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        stream = await client.completions.create(
            model="endless", prompt="x", max_tokens=50_000, stream=True, extra_body={"ignore_eos": True}
        )
        async for _ in stream:
            break
        await stream.close()
    wait_until(lambda: server.stats()["server"]["running"] == 0, "the generation ended")
