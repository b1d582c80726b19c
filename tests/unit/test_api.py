"""The class Realm: results, streams, limits, errors, sharing, closing, on a model whose tokens are known."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import realm
from realm import Realm, RealmError, ResourceLimits

from tests.unit.long_model import long_model

VECTORS = Path(__file__).parents[1] / "vectors"
CHAIN = VECTORS / "model-chain.gguf"  # " one two, three. fourEND five" after a "1"; see make_chain.py
LLAMA = VECTORS / "model-mistral.gguf"  # random weights: generates for as long as it may
WHOLE_CHAIN = " one two, three. fourEND five"


@pytest.fixture(params=["native", "public"])
def chain(request: pytest.FixtureRequest) -> Iterator[Realm]:
    with Realm(CHAIN, shim=request.param) as opened:
        assert opened._engine.native == (request.param == "native")
        yield opened


def code_of(caught: pytest.ExceptionInfo[RealmError]) -> str:
    return caught.value.code


# ---- generating ----


@pytest.mark.parametrize("mode", ["granular", "whole", "layers"])
def test_generate_reports_text_tokens_and_counts(chain: Realm, mode: str) -> None:
    made = chain.generate("1", temperature=0, mode=mode)
    assert made.text == WHOLE_CHAIN
    assert made.finish_reason == "end"
    assert made.prompt_tokens == len(chain.tokenize("1", add_special=True))
    assert made.usage.completion_tokens == len(made.tokens)
    assert made.usage.total_tokens == made.prompt_tokens + len(made.tokens)
    assert 0 < made.timings.first_token_seconds <= made.timings.total_seconds
    assert str(made) == made.text


@pytest.mark.parametrize("mode", ["granular", "whole", "layers"])
def test_timings_say_what_the_engine_did(chain: Realm, mode: str) -> None:
    made = chain.generate("1", temperature=0, mode=mode)
    work, passes = made.timings, len(made.tokens) + 1
    slices = chain.model.info.layer_count if mode == "layers" else 1
    assert work.steps == passes * slices
    assert work.rows == (made.prompt_tokens + len(made.tokens)) * slices
    engine = work.queued_seconds + work.prefill_seconds + work.decode_seconds
    assert 0 < work.step_seconds <= engine <= work.total_seconds
    assert work.prefill_seconds > 0 and work.decode_seconds > 0


@pytest.mark.parametrize("mode", ["granular", "whole", "layers"])
def test_the_reason_to_end(chain: Realm, mode: str) -> None:
    length = chain.generate("1", temperature=0, max_tokens=2, mode=mode)
    assert (length.text, length.finish_reason, len(length.tokens)) == (" one two", "length", 2)
    stopped = chain.generate("1", temperature=0, stop=["END", "never"], mode=mode)
    assert (stopped.text, stopped.finish_reason) == (" one two, three. four", "stop")
    across_tokens = chain.generate("1", temperature=0, stop="three", mode=mode)
    assert (across_tokens.text, across_tokens.finish_reason) == (" one two, ", "stop")


def test_stream_gives_the_same_text_in_whole_characters(chain: Realm) -> None:
    with chain.stream("2", temperature=0) as stream:
        pieces = list(stream)
    assert "".join(pieces) == stream.result.text == chain.generate("2", temperature=0).text
    assert all(pieces)
    assert "".join(pieces) == "é日😀"


def test_closing_a_stream_cancels_and_the_realm_goes_on(chain: Realm) -> None:
    chain.set_limits(
        ResourceLimits(tokens_per_second=1)
    )  # the prompt's two tokens and one more: then it waits
    stream = chain.stream("1", temperature=0)
    assert next(stream).startswith(" one")
    stream.close()
    stream.close()
    chain.set_limits(ResourceLimits())
    with pytest.raises(StopIteration):
        next(stream)
    with pytest.raises(RealmError) as caught:
        _ = stream.result
    assert code_of(caught) == "cancelled"
    assert chain.generate("1", temperature=0).text == WHOLE_CHAIN


def test_a_stream_that_is_read_to_no_end_has_no_result(chain: Realm) -> None:
    stream = chain.stream("1", temperature=0)
    with pytest.raises(RealmError) as caught:
        _ = stream.result
    assert code_of(caught) == "busy"
    stream.close()


def test_logit_bias_and_seed(chain: Realm) -> None:
    [one] = chain.generate("1", temperature=0, max_tokens=1).tokens
    assert chain.generate("1", temperature=0, max_tokens=1, logit_bias={one: float("-inf")}).tokens != (one,)
    hot: dict[str, Any] = {
        "temperature": 5.0,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "max_tokens": 12,
        "ignore_end": True,
    }
    first = chain.generate("1", seed=7, **hot)
    assert first.tokens == chain.generate("1", seed=7, **hot).tokens
    assert first.tokens != chain.generate("1", seed=8, **hot).tokens


def test_chat_uses_the_template_of_the_model(chain: Realm) -> None:
    messages = [{"role": "user", "content": "1"}]
    assert chain.render_chat(messages) == "<s><|user|>1<|assistant|>"
    answer = chain.chat(messages, temperature=0)
    assert (answer.text, answer.finish_reason) == ("Hi there!", "end")
    assert "".join(chain.chat_stream(messages, temperature=0)) == "Hi there!"


def test_requests_of_one_realm_run_at_once(chain: Realm) -> None:
    streams = [chain.stream("1", temperature=0) for _ in range(8)]
    assert {next(stream) + "".join(stream) for stream in streams} == {WHOLE_CHAIN}


@pytest.mark.parametrize("count", [8, 64])
def test_many_realms_at_once(count: int) -> None:
    realms = [Realm(CHAIN) for _ in range(count)]
    texts: list[str] = []

    def run(opened: Realm) -> None:
        texts.append(opened.generate("1", temperature=0).text)

    threads = [threading.Thread(target=run, args=(opened,)) for opened in realms]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for opened in realms:
        opened.close()
    assert texts == [WHOLE_CHAIN] * count


# ---- tokens and logits ----


def test_tokenize_detokenize(chain: Realm) -> None:
    ids = chain.tokenize("ok la")
    assert chain.detokenize(ids) == "ok la"
    assert chain.tokenize("ok", add_special=True)[0] == chain.model.info.bos
    assert chain.detokenize([chain.model.info.bos or 0], special=True) == "<s>"
    assert chain.tokenize("<|user|>") != chain.tokenize("<|user|>", parse_special=True)
    assert chain.tokenize("\ud800") == chain.tokenize("\ufffd")


def test_logits_are_float32_rows(chain: Realm) -> None:
    values = chain.logits([1, 40, 41])
    assert values.shape == (3, chain.model.info.vocab_size)
    assert values.dtype == "float32"
    assert (values[:2] == chain.logits([1, 40])).all()
    with pytest.raises(RealmError) as caught:
        chain.logits([])
    assert code_of(caught) == "invalid-argument"
    with pytest.raises(RealmError):
        chain.logits([chain.model.info.vocab_size])


# ---- models ----


def test_a_file_is_loaded_once_and_freed_when_all_have_closed_it() -> None:
    with Realm(CHAIN) as first, Realm(CHAIN) as second:
        store = first._engine.models
        assert first.model.shared() is second.model.shared()
        assert first.model.shared().users == 2
        key = first.model.shared().key
    assert key not in store._models


def test_progress_is_told_and_can_stop_the_loading() -> None:
    told: list[float] = []
    with Realm() as opened:
        opened.load_model(CHAIN, context_length=64, progress=told.append)
        assert opened.model.info.context_length == 64
    assert told == sorted(told)
    assert told[-1] == 1.0

    def stop(_: float) -> None:
        raise KeyboardInterrupt

    with Realm() as opened, pytest.raises(KeyboardInterrupt):
        opened.load_model(LLAMA, progress=stop)


def test_unload_takes_the_model_away() -> None:
    with Realm(CHAIN) as opened:
        model = opened.model
        opened.generate("1", temperature=0, max_tokens=1)
        opened.unload_model(model)
        assert model.closed
        with pytest.raises(RealmError) as caught:
            opened.unload_model(model)
        assert code_of(caught) == "invalid-handle"
        with pytest.raises(RealmError) as caught:
            model.tokenize("1")
        assert code_of(caught) == "closed"
        again = opened.load_model(CHAIN)
        assert opened.generate("1", temperature=0, model=again).text == WHOLE_CHAIN


def test_two_models_in_one_realm() -> None:
    with Realm(CHAIN) as opened:
        other = opened.load_model(LLAMA)
        assert opened.generate("1", temperature=0).text == WHOLE_CHAIN
        made = opened.generate("1", temperature=0, max_tokens=3, model=other, ignore_end=True)
        assert len(made.tokens) == 3


def test_a_model_handle_of_another_realm_can_be_given(tmp_path: Path) -> None:
    with Realm(CHAIN) as first, Realm(first.model) as second:
        assert second.generate("1", temperature=0).text == WHOLE_CHAIN


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda path: path / "missing.gguf", "not-found"),
        (lambda path: path, "io"),
        (lambda path: written(path / "text.gguf", b"hello, this is not a model"), "invalid-gguf"),
        (lambda path: written(path / "empty.gguf", b""), "invalid-gguf"),
        (lambda path: "a\0b", "io"),
    ],
)
def test_files_that_cannot_be_loaded(make: Any, code: str, tmp_path: Path) -> None:
    with pytest.raises(realm.ModelError) as caught:
        Realm(make(tmp_path))
    assert code_of(caught) == code


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


# ---- wrong use ----


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": -1},
        {"temperature": float("nan")},
        {"temperature": "hot"},
        {"top_p": 0},
        {"top_p": 1.5},
        {"min_p": -0.1},
        {"top_k": -1},
        {"top_k": 1.5},
        {"repetition_penalty": 0},
        {"frequency_penalty": 3},
        {"presence_penalty": -3},
        {"seed": -1},
        {"seed": 1 << 64},
        {"max_tokens": 0},
        {"max_tokens": True},
        {"stop": ""},
        {"stop": ["a", ""]},
        {"mode": "fast"},
        {"logit_bias": {-1: 0.0}},
        {"logit_bias": {1: float("nan")}},
        {"no_such_setting": 1},
    ],
)
def test_wrong_settings_are_refused(chain: Realm, settings: dict[str, object]) -> None:
    with pytest.raises(realm.ArgumentError) as caught:
        chain.generate("1", **settings)  # type: ignore[arg-type]
    assert code_of(caught) == "invalid-argument"


def test_wrong_texts_and_messages_are_refused(chain: Realm) -> None:
    calls: list[Callable[[], object]] = [
        lambda: chain.generate(1),  # type: ignore[arg-type]
        lambda: chain.chat([]),
        lambda: chain.chat("hello"),  # type: ignore[arg-type]
        lambda: chain.chat([{"content": "no role"}]),
        lambda: chain.chat(["hello"]),  # type: ignore[list-item]
        lambda: chain.detokenize(["a"]),  # type: ignore[list-item]
        lambda: chain.detokenize([-1]),
    ]
    for call in calls:
        with pytest.raises(RealmError) as caught:
            call()
        assert code_of(caught) == "invalid-argument"


@pytest.mark.parametrize("backend", ["cuda", "metal", "webgpu", "", "CPU"])
def test_a_backend_that_is_not_there(backend: str) -> None:
    with pytest.raises(realm.UnsupportedError) as caught:
        Realm(backend=backend)
    assert code_of(caught) == "backend-unavailable"


@pytest.mark.parametrize("arguments", [{"threads": 0}, {"threads": "2"}, {"cpu_features": ["mmx"]}])
def test_wrong_engine_options(arguments: dict[str, object]) -> None:
    with pytest.raises(realm.ArgumentError):
        Realm(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("limits", [{"kv_tokens": -1}, {"guest_seconds": 0}, {"weight": 1.5}])
def test_wrong_limits(limits: dict[str, object]) -> None:
    with pytest.raises(realm.ArgumentError):
        ResourceLimits(**limits)  # type: ignore[arg-type]


def test_a_prompt_that_does_not_fit(chain: Realm) -> None:
    with pytest.raises(realm.LimitError) as caught:
        chain.generate("1" * 500)
    assert code_of(caught) == "context-full"


def test_a_prompt_far_too_long_never_reaches_the_thread_of_all_guests(
    chain: Realm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokenizing it takes long: the caller's own thread does that."""
    text = "1" * (1 << 17)
    assert chain.model.count_tokens(text, add_special=True) == len(chain.tokenize(text, add_special=True))
    monkeypatch.setattr(chain._engine, "submit", None)
    with pytest.raises(
        realm.LimitError, match=r"the prompt has \d+ tokens, the model's context \d+"
    ) as caught:
        chain.generate(text)
    monkeypatch.undo()
    assert caught.value.code == "context-full"
    assert chain.generate("1", temperature=0).text == WHOLE_CHAIN


def test_a_context_that_fills_up_ends_by_length(chain: Realm) -> None:
    made = chain.generate("1", temperature=0, max_tokens=10_000, ignore_end=True)
    assert made.finish_reason == "length"
    assert len(made.tokens) <= chain.model.info.context_length


def test_the_kv_limit_of_a_realm() -> None:
    with Realm(CHAIN, limits=ResourceLimits(kv_tokens=8)) as opened, pytest.raises(realm.LimitError):
        opened.generate("1" * 50)


# ---- closing ----


def test_everything_is_refused_after_close() -> None:
    opened = Realm(CHAIN)
    model = opened.model
    opened.close()
    opened.close()
    assert opened.closed
    calls: list[Callable[[], object]] = [
        lambda: opened.generate("1"),
        lambda: opened.stream("1"),
        lambda: opened.chat([{"role": "user", "content": "1"}]),
        lambda: opened.tokenize("1"),
        lambda: opened.logits([1]),
        lambda: opened.stats(),
        lambda: opened.load_model(CHAIN),
        lambda: model.tokenize("1"),
    ]
    for call in calls:
        with pytest.raises(realm.ClosedError):
            call()


def test_close_during_generation_fails_it_with_closed(tmp_path: Path) -> None:
    opened = Realm(long_model(tmp_path))
    stream = opened.stream("a", max_tokens=90_000, ignore_end=True)
    waiter_code: list[str] = []

    def wait() -> None:
        try:
            for _ in stream:
                pass
        except RealmError as problem:
            waiter_code.append(problem.code)

    thread = threading.Thread(target=wait)
    thread.start()
    opened.close()
    thread.join(timeout=10)
    assert not thread.is_alive()
    assert waiter_code == ["closed"]


def test_a_dropped_realm_is_freed() -> None:
    opened = Realm(CHAIN)
    engine, guest = opened._engine, opened._guest
    opened.generate("1", temperature=0)
    del opened
    deadline = time.monotonic() + 5
    while guest.handle and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not guest.handle
    assert guest.tag not in engine._guests


def test_stats_tell_of_the_engine(chain: Realm) -> None:
    before = chain.stats()
    chain.generate("1", temperature=0)
    after = chain.stats()
    assert after["rows"] > before["rows"]
    assert after["threads"] >= 1
    assert after["kernels"] in ("portable", "avx2", "avx512", "amx")


# ---- the package ----


def test_the_exports_are_complete() -> None:
    """Every public class of the modules is exported, and everything exported exists."""
    import inspect

    from realm import _api, _errors, _manager, _model, _options, _prefix, _runtime, _tenant

    public = {"__version__", "DrawnToken", "Message", "demo_model_path"}
    for module in (_api, _errors, _manager, _model, _options, _prefix, _runtime, _tenant):
        for name, value in vars(module).items():
            if inspect.isclass(value) and value.__module__ == module.__name__ and not name.startswith("_"):
                public.add(name)
    internal = {"ModelOptions", "ModelStore", "SharedModel"}
    assert set(realm.__all__) == public - internal
    assert realm.__all__ == sorted(realm.__all__, key=str.lower) or set(realm.__all__) <= set(dir(realm))
    assert (Path(realm.__file__).parent / "py.typed").exists()


def test_every_code_of_the_interface_has_its_error() -> None:
    from realm._errors import FAMILIES, error
    from realm._library import ffi, library

    codes = {code for family in FAMILIES.values() for code in family}
    assert len(codes) == sum(map(len, FAMILIES.values()))
    native = set()
    for status in range(1, 64):
        name = ffi.string(library().realm_status_name(status)).decode()
        if name in codes:
            native.add(name)
    assert native == codes
    wit = (Path(__file__).parents[2] / "guest_src" / "realm.wit").read_text()
    for code in codes:
        assert f"    {code},\n" in wit
        assert error(code, "x").code == code
        assert type(error(code, "x")) is not RealmError


def test_an_error_survives_pickling() -> None:
    import pickle

    problem = pickle.loads(pickle.dumps(realm._errors.error("busy", "one line")))
    assert isinstance(problem, realm.LimitError)
    assert (problem.code, problem.message, str(problem)) == ("busy", "one line", "one line [busy]")


def test_unloading_a_model_ends_what_runs_on_it(tmp_path: Path) -> None:
    with Realm(long_model(tmp_path)) as realm:
        model = realm.load_model(realm.model)
        with realm.stream("x", max_tokens=90_000, model=model, ignore_end=True) as stream:
            next(stream)
            realm.unload_model(model)
            with pytest.raises(RealmError) as ended:
                for _ in stream:
                    pass
        assert ended.value.code == "closed"
        assert realm.generate("x", max_tokens=2, model=realm.model).tokens


def test_an_unloaded_model_is_gone_while_others_are_at_work(tmp_path: Path) -> None:
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(realm.demo_model_path().read_bytes())
    with (
        Realm(long_model(tmp_path)) as opened,
        opened.stream("x", max_tokens=90_000, ignore_end=True) as stream,
    ):
        next(stream)
        other = opened.load_model(copy)
        assert opened.generate("The", max_tokens=2, model=other).tokens
        assert str(copy) in Path("/proc/self/maps").read_text()
        opened.unload_model(other)
        other.close()
        assert str(copy) not in Path("/proc/self/maps").read_text()
        next(stream)


# ---- log probabilities ----


def log_softmax(row):
    shifted = row - row.max()
    return shifted - numpy.log(numpy.exp(shifted).sum())


@pytest.mark.parametrize("mode", ["granular", "whole", "layers"])
def test_log_probabilities_are_those_of_the_unmodified_logits(mode: str) -> None:
    prompt = "The capital of France is"
    with Realm(cpu_features=["portable"]) as realm:
        plain = realm.generate(prompt, max_tokens=6, temperature=0.7, seed=3, mode=mode)
        result = realm.generate(prompt, max_tokens=6, temperature=0.7, seed=3, mode=mode, logprobs=True)
        assert plain.logprobs is None
        assert result.tokens == plain.tokens and result.logprobs is not None
        before = realm.tokenize(prompt, add_special=True)
        logits = realm.logits([*before, *result.tokens])
    rows = logits[len(before) - 1 : -1].astype(numpy.float64)
    expected = [log_softmax(row)[token] for row, token in zip(rows, result.tokens, strict=True)]
    assert result.logprobs == pytest.approx(expected, abs=0.02)  # the cache of `logits` is f32, not f16


@pytest.mark.parametrize("mode", ["granular", "layers"])
def test_the_likeliest_tokens_at_each_place_are_those_of_the_logits(mode: str) -> None:
    settings: dict[str, Any] = {"max_tokens": 6, "temperature": 0.9, "seed": 4, "logit_bias": {5: -math.inf}}
    prompt = "The capital of France is"
    with Realm(cpu_features=["portable"]) as realm:
        before = realm.tokenize(prompt, add_special=True)
        result = realm.generate(prompt, mode=mode, top_logprobs=20, **settings)
        logits = realm.logits([*before, *result.tokens])
        plain = realm.generate(prompt, mode=mode, **settings)
        ended = realm.generate(prompt, mode=mode, top_logprobs=2, max_tokens=99, temperature=0)
    assert result.tokens == plain.tokens and plain.top_logprobs is None
    assert result.top_logprobs is not None and len(result.top_logprobs) == len(result.tokens)
    for row, top, token, own in zip(
        logits[len(before) - 1 :], result.top_logprobs, result.tokens, result.logprobs or (), strict=False
    ):
        exact = log_softmax(row.astype(numpy.float64))
        best = numpy.sort(exact)[::-1][:20]
        assert [value for _, value in top] == pytest.approx(best, abs=0.02)  # the cache of `logits` is f32
        assert [value for _, value in top] == pytest.approx([exact[id] for id, _ in top], abs=0.02)
        assert len({id for id, _ in top}) == 20 and own == pytest.approx(exact[token], abs=0.02)
    assert ended.finish_reason == "end" and len(ended.top_logprobs or ()) == len(ended.tokens)


def test_scores_of_a_text_are_those_of_its_logits() -> None:
    text = "The capital of France is Paris. " * 12  # longer than a page of the KV cache
    with Realm(cpu_features=["portable"], tenant=77) as realm:
        ids = realm.tokenize(text, add_special=True)
        exact = [log_softmax(row.astype(numpy.float64)) for row in realm.logits(ids)]
        scores = [realm.score(ids, top_logprobs=3) for _ in range(2)]  # the second finds the first one cached
        plain = realm.score(ids)
        assert realm.tenant_stats().tokens_prompt >= 3 * (len(ids) - 1)
        assert realm.tenant_stats().running == 0
    assert scores[0] == scores[1] and [token.id for token in scores[0]] == ids
    assert math.isnan(scores[0][0].logprob) and not scores[0][0].top and not plain[1].top
    assert [token.logprob for token in plain[1:]] == [token.logprob for token in scores[0][1:]]
    for row, token in zip(exact, scores[0][1:], strict=False):
        assert token.logprob == pytest.approx(
            row[token.id], abs=0.02
        )  # the cache of `logits` is f32, not f16
        assert [value for _, value in token.top] == pytest.approx(numpy.sort(row)[::-1][:3], abs=0.02)
        assert [value for _, value in token.top] == pytest.approx([row[id] for id, _ in token.top], abs=0.02)


@pytest.mark.parametrize("vocab, count", [(1, 1), (7, 7), (64, 5), (1000, 20)])
def test_the_largest_are_a_stable_sort(vocab: int, count: int) -> None:
    from realm._score import largest_of

    values = numpy.random.default_rng(vocab).integers(0, 9, vocab).astype(numpy.float32)  # many are equal
    assert list(largest_of(values, count)) == list(numpy.argsort(-values, kind="stable")[:count])


@pytest.mark.parametrize(
    "ids, limits, code",
    [([], {}, "invalid-argument"), ([1 << 20, 5], {}, "invalid-argument"), ([5] * 5000, {}, "context-full"),
     ([5] * 40, {"context_length": 30}, "context-full"), ([5] * 40, {"kv_tokens": 20}, "limit-exceeded")],
)  # fmt: skip
def test_what_cannot_be_scored_is_refused(ids: list[int], limits: dict[str, Any], code: str) -> None:
    with Realm(limits=ResourceLimits(**limits)) as opened:
        with pytest.raises(realm.RealmError) as refused:
            opened.score(ids)
        assert refused.value.code == code
        assert opened.tenant_stats().kv_tokens == 0
        assert len(opened.score([5, 6, 7])) == 3


async def test_a_cancelled_score_leaves_nothing() -> None:
    import asyncio

    with Realm(limits=ResourceLimits(tokens_per_minute=300)) as opened:
        ids = [5] * 400
        task = asyncio.create_task(opened.ascore(ids, top_logprobs=1))
        waited = asyncio.create_task(asyncio.sleep(0.3))
        await asyncio.wait((task, waited), return_when=asyncio.FIRST_COMPLETED)
        task.cancel()
        with pytest.raises((asyncio.CancelledError, realm.LimitError)):
            await task
        end = time.monotonic() + 20
        while opened.tenant_stats().sessions and time.monotonic() < end:
            await asyncio.sleep(0.01)
        assert opened.tenant_stats().sessions == 0


@pytest.mark.parametrize(
    "wrong", [{"top_logprobs": 21}, {"top_logprobs": -1}, {"top_logprobs": 2, "mode": "whole"}]
)
def test_wrong_numbers_of_likeliest_tokens_are_refused(wrong: dict[str, Any]) -> None:
    with Realm() as opened, pytest.raises(realm.ArgumentError, match="top_logprobs"):
        opened.generate("x", **wrong)


def test_streams_tell_log_probabilities_as_they_come() -> None:
    prompt = "The capital of France is"
    with Realm(limits=ResourceLimits(tokens_per_second=12)) as realm:  # so that it does not all come at once
        stream = realm.stream(prompt, max_tokens=16, temperature=0, logprobs=True, ignore_end=True)
        counts = [len(stream.drawn) for _ in stream]
        assert counts[0] < counts[-1]
        assert tuple(token.id for token in stream.drawn)[: len(stream.result.tokens)] == stream.result.tokens
        assert stream.result.logprobs is not None
        assert all(value <= 0 for value in stream.result.logprobs)
