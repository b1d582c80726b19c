"""The engine through realm.h: batching, chunks, prefixes, slices, scores, cancelling, limits, many models."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.core_api import FAILED, Context, CoreError, Runtime

VECTORS = Path(__file__).parents[1] / "vectors"
LLAMA, QWEN2, GEMMA2 = (VECTORS / f"model-{name}.gguf" for name in ("llama3", "qwen2", "gemma2"))
PORTABLE = 1
PAGE = 16
# Optimised kernels sum in an order that depends on the batch's shape.
BATCH_BOUND = 1e-3


@pytest.fixture(scope="module")
def portable() -> Iterator[Runtime]:
    with Runtime(threads=2, features=PORTABLE) as rt:
        yield rt


def prompt(vocab: int, length: int, seed: int) -> list[int]:
    return [int(t) for t in np.random.default_rng(seed).integers(3, vocab, length)]


def alone(rt: Runtime, model: Any, tokens: list[int]) -> Any:
    ctx = Context(rt, model, tenant=999)
    logits = ctx.forward_logits(ctx.open(no_prefix=1), tokens)
    ctx.close()
    return logits


# ---- one batch for many


@pytest.mark.parametrize("features, bound", [(PORTABLE, 0.0), (0, BATCH_BOUND)])
@pytest.mark.parametrize("path", [LLAMA, GEMMA2], ids=lambda p: p.stem)
def test_eight_sessions_at_once_give_what_each_gives_alone(path: Path, features: int, bound: float) -> None:
    with Runtime(threads=2, features=features) as rt:
        model = rt.load(path)
        contexts = [Context(rt, model, tenant=i) for i in range(8)]
        prompts = [prompt(contexts[0].info.vocab_size, 5 + 9 * i, i) for i in range(8)]
        expected = [alone(rt, model, p) for p in prompts]
        outs: list[Any] = [None] * 8

        def run(i: int) -> None:
            outs[i] = contexts[i].forward_logits(contexts[i].open(no_prefix=1), prompts[i])

        threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        for out, want in zip(outs, expected, strict=True):
            assert np.abs(out - want).max() <= bound
        rt.close_model(model)


def test_sessions_really_share_steps() -> None:
    with Runtime(threads=1, features=PORTABLE, no_driver=1) as rt:  # nothing runs before all are there
        model = rt.load(LLAMA)
        contexts = [Context(rt, model, tenant=i) for i in range(8)]
        before = rt.stats()
        tickets = [(c, c.generate(c.open(), [5, 6, 7 + i], 32, ignore_end=1)) for i, c in enumerate(contexts)]
        for c, t in tickets:
            c.wait(t)
        after = rt.stats()
        rows, steps = after.rows - before.rows, after.steps - before.steps
        assert rows == 8 * (3 + 31)
        assert rows / steps > 4, "eight generations should mostly step together"


def test_prompt_in_chunks_equals_prompt_at_once(portable: Runtime) -> None:
    model = portable.load(LLAMA)
    tokens = prompt(256, 100, 1)
    want = alone(portable, model, tokens)
    ctx = Context(portable, model)
    session = ctx.open(no_prefix=1)
    got = [ctx.forward_logits(session, tokens[a:b]) for a, b in ((0, 1), (1, 17), (17, 64), (64, 100))]
    assert np.array_equal(np.concatenate(got), want)
    ctx.close()
    with Runtime(threads=2, features=PORTABLE, batch_rows=7) as small:
        assert np.array_equal(alone(small, small.load(LLAMA), tokens), want)


def test_f16_cache_stays_near_the_f32_cache(portable: Runtime) -> None:
    model = portable.load(LLAMA)
    ctx = Context(portable, model)
    tokens = prompt(256, 40, 3)
    f16, f32 = (ctx.forward_logits(ctx.open(kv_type=k, no_prefix=1), tokens) for k in (0, 1))
    assert 0 < np.abs(f16 - f32).max() < 2e-2
    ctx.close()


def test_two_models_at_once(portable: Runtime) -> None:
    models = [portable.load(p) for p in (LLAMA, QWEN2, GEMMA2)]
    want = [alone(portable, m, [5, 9, 11, 30]) for m in models]
    contexts = [Context(portable, m) for m in models]
    tickets = [(c, c.generate(c.open(), [5, 9, 11, 30], 8, ignore_end=1)) for c in contexts]
    for (c, t), logits in zip(tickets, want, strict=True):
        c.wait(t)
        assert c.tokens(t)[0] == int(np.argmax(logits[-1])) or logits[-1].argmax() == c.info.eos
        c.close()


# ---- the same loop, three ways


def granular(ctx: Context, tokens: list[int], n: int, slices: int = 0) -> list[int]:
    session, out, feed = ctx.open(), [], tokens
    layers = ctx.info.layer_count
    for _ in range(n):
        if slices == 0:
            ctx.finish(ctx.forward(session, feed))
        for first in range(0, layers, slices or layers + 1):
            if slices:
                count = min(slices, layers - first)
                ctx.finish(ctx.forward_layers(session, first, count, feed if first == 0 else []))
        feed = [ctx.sample(session, ignore_end=1).id]
        out += feed
    return out


@pytest.mark.parametrize("path", [LLAMA, QWEN2, GEMMA2], ids=lambda p: p.stem)
def test_granular_whole_and_layer_slices_agree(portable: Runtime, path: Path) -> None:
    model = portable.load(path)
    ctx = Context(portable, model)
    tokens = prompt(ctx.info.vocab_size, 20, 4)
    ticket = ctx.generate(ctx.open(), tokens, 12, ignore_end=1)
    ctx.wait(ticket)
    whole = ctx.tokens(ticket)
    assert whole == granular(ctx, tokens, 12) == granular(ctx, tokens, 12, slices=1)
    ctx.close()


def test_slices_must_follow_each_other(portable: Runtime) -> None:
    ctx = Context(portable, portable.load(LLAMA))
    session = ctx.open()
    with pytest.raises(CoreError, match="slices must follow"):
        ctx.forward_layers(session, 1, 1, [])
    ctx.finish(ctx.forward_layers(session, 0, 1, [5, 6]))
    with pytest.raises(CoreError, match="split by layers"):
        ctx.forward(session, [7])
    ctx.rewind(session, 0)
    ctx.finish(ctx.forward(session, [5, 6]))
    ctx.close()


def test_caller_driven_steps_give_the_same(portable: Runtime) -> None:
    model = portable.load(LLAMA)
    want = alone(portable, model, prompt(256, 30, 5))
    with Runtime(threads=1, features=PORTABLE, no_driver=1) as rt:
        assert np.array_equal(alone(rt, rt.load(LLAMA), prompt(256, 30, 5)), want)


# ---- scores and rewinding


def test_scores_are_log_probabilities(portable: Runtime) -> None:
    model = portable.load(LLAMA)
    ctx = Context(portable, model)
    tokens = prompt(256, 90, 6)
    logits = ctx.forward_logits(ctx.open(no_prefix=1), tokens).astype(np.float64)
    logs = (
        logits
        - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))
        - logits.max(1, keepdims=True)
    )
    session = ctx.open(no_prefix=1)
    ctx.finish(ctx.forward(session, tokens[:10]))
    ticket = ctx.score(session, tokens[10:])
    ctx.wait(ticket)
    want = [logs[i - 1, tokens[i]] for i in range(10, 90)]
    assert np.abs(ctx.scores(ticket) - want).max() < 1e-4
    fresh = ctx.score(ctx.open(no_prefix=1), tokens[:3])
    ctx.wait(fresh)
    assert np.isnan(ctx.scores(fresh)[0]) and not np.isnan(ctx.scores(fresh)[1])
    ctx.close()


@pytest.mark.parametrize("keep", [0, 1, 15, 16, 17, 31, 32, 40])
def test_rewinding_forgets_what_came_after(portable: Runtime, keep: int) -> None:
    model = portable.load(LLAMA)
    ctx = Context(portable, model)
    session = ctx.open()
    first, second = prompt(256, 45, 7), prompt(256, 30, 8)
    ctx.finish(ctx.forward(session, first))
    ctx.rewind(session, keep)
    assert ctx.position(session) == keep
    tokens = first[:keep] + second
    ctx.finish(ctx.forward(session, second))
    got = ctx.sample(session, temperature=0.7, seed=3)
    other = ctx.open(no_prefix=1)
    ctx.finish(ctx.forward(other, tokens))
    assert (got.id, got.logprob) == (
        ctx.sample(other, temperature=0.7, seed=3).id,
        pytest.approx(got.logprob),
    )
    ctx.close()


# ---- prefix reuse


def test_prefix_is_reused_within_a_tenant_only(portable: Runtime) -> None:
    model = portable.load(LLAMA)
    tokens = prompt(256, 70, 9)
    contexts = [Context(portable, model, tenant=t) for t in (101, 101, 102)]

    def hits(ctx: Context) -> int:
        before = portable.stats().prefix_hits
        ctx.finish(ctx.forward(ctx.open(), tokens))
        return int(portable.stats().prefix_hits - before)

    assert [hits(c) for c in contexts] == [0, 4 * PAGE, 0]
    for c in contexts:
        c.close()


def test_reused_prefix_changes_no_logits(portable: Runtime) -> None:
    model = portable.load(LLAMA)
    ctx = Context(portable, model, tenant=103)
    tokens = prompt(256, 70, 10)
    samples = []
    for _ in range(2):
        session = ctx.open()
        ctx.finish(ctx.forward(session, tokens))
        samples.append(ctx.sample(session))
        ctx.close_session(session)
    assert samples[0].id == samples[1].id and samples[0].logprob == samples[1].logprob
    ctx.close()


def test_writing_after_a_shared_prefix_leaves_the_others_alone(portable: Runtime) -> None:
    model = portable.load(LLAMA)
    ctx = Context(portable, model, tenant=104)
    tokens = prompt(256, 40, 11)
    a, b = ctx.open(), ctx.open()
    ctx.finish(ctx.forward(a, tokens))
    ctx.finish(ctx.forward(b, tokens))
    ctx.rewind(b, 20)  # inside a page both sessions use
    ctx.finish(ctx.forward(b, prompt(256, 20, 12)))
    ctx.finish(ctx.forward(a, [9]))
    want = ctx.open(no_prefix=1)
    ctx.finish(ctx.forward(want, [*tokens, 9]))
    assert ctx.sample(a).logprob == ctx.sample(want).logprob
    ctx.close()


def test_cached_pages_give_way_when_the_budget_is_small() -> None:
    with Runtime(threads=1, features=PORTABLE, kv_bytes=400_000) as rt:
        model = rt.load(LLAMA)
        ctx = Context(rt, model)
        want = [alone(rt, model, prompt(256, 60, s))[-1].argmax() for s in range(6)]
        for _ in range(4):
            for s in range(6):
                session = ctx.open()
                ctx.finish(ctx.forward(session, prompt(256, 60, s)))
                assert ctx.sample(session).id == want[s]
                ctx.close_session(session)
        assert rt.stats().kv_bytes_used <= 400_000


# ---- cancellation, limits, handles


def test_cancel_resolves_at_once_and_the_rest_goes_on(portable: Runtime) -> None:
    model = portable.load(LLAMA)
    a, b = Context(portable, model, tenant=1), Context(portable, model, tenant=2)
    long = a.generate(a.open(), [5, 6], 400, ignore_end=1)
    short = b.generate(b.open(), [5, 6], 50, ignore_end=1)
    a.cancel(long)
    assert a.state(long) == FAILED
    with pytest.raises(CoreError) as caught:
        a.wait(long)
    assert caught.value.code == "cancelled"
    b.wait(short)
    assert len(b.tokens(short)) == 50
    a.close()
    b.close()


def test_contexts_may_end_in_the_middle_of_anything() -> None:
    with Runtime(threads=2, features=PORTABLE) as rt:
        model = rt.load(LLAMA)
        for i in range(200):
            ctx = Context(rt, model, tenant=i)
            session = ctx.open()
            ctx.generate(session, prompt(256, 1 + i % 60, i), 100, ignore_end=1)
            if i % 3 == 0:
                ctx.close_session(session)
            if i % 5 == 0:
                time.sleep(0.0005)
            ctx.close()
        rt.close_model(model)
        assert rt.stats().kv_bytes_used == 0, "pages go with the model"


def test_limits_name_themselves(portable: Runtime) -> None:
    model = portable.load(LLAMA)
    ctx = Context(portable, model, sessions=1, kv_tokens=10, tickets=1)
    session = ctx.open()
    with pytest.raises(CoreError, match="1 sessions"):
        ctx.open()
    with pytest.raises(CoreError, match="10 KV tokens"):
        ctx.forward(session, list(range(5, 16)))
    ctx.finish(ctx.forward(session, list(range(5, 15))))
    with pytest.raises(CoreError) as caught:
        ctx.forward(session, [5])
    assert caught.value.code == "limit-exceeded"
    ctx.rewind(session, 5)
    ctx.finish(ctx.forward(session, [5]))
    with pytest.raises(CoreError) as caught:
        ctx.wait(ctx.generate(session, [5], 20, ignore_end=1))
    assert caught.value.code == "limit-exceeded"
    ctx.close()


def test_kv_budget_is_a_typed_error() -> None:
    with Runtime(threads=1, features=PORTABLE, kv_bytes=1000) as rt:
        ctx = Context(rt, rt.load(LLAMA))
        with pytest.raises(CoreError) as caught:
            ctx.wait(ctx.forward(ctx.open(), [5, 6]))
        assert caught.value.code == "limit-exceeded"


def test_misuse_is_refused(portable: Runtime) -> None:
    model = portable.load(LLAMA)
    ctx, other = Context(portable, model), Context(portable, model)
    session = ctx.open(context_length=32)
    cases: list[tuple[str, Any]] = [
        ("invalid-argument", lambda: ctx.forward(session, [])),
        ("invalid-argument", lambda: ctx.forward(session, [ctx.info.vocab_size])),
        ("context-full", lambda: ctx.forward(session, [5] * 33)),
        ("invalid-argument", lambda: ctx.sample(session)),
        ("invalid-handle", lambda: other.forward(session, [5])),
        ("invalid-handle", lambda: ctx.forward(0, [5])),
        ("invalid-handle", lambda: ctx.forward(0xFFFFFFFF, [5])),
        ("invalid-handle", lambda: ctx.state(77)),
        ("invalid-argument", lambda: ctx.generate(session, [5], 0)),
        ("invalid-argument", lambda: ctx.generate(session, [5], 5, temperature=float("nan"))),
        ("invalid-argument", lambda: ctx.rewind(session, 1)),
    ]
    for code, call in cases:
        with pytest.raises(CoreError) as caught:
            call()
        assert caught.value.code == code, str(caught.value)
    ctx.close_session(session)
    reopened = ctx.open()
    assert reopened != session
    with pytest.raises(CoreError):
        ctx.position(session)
    ctx.close()
    other.close()


def test_generate_stops_when_the_context_is_full(portable: Runtime) -> None:
    ctx = Context(portable, portable.load(LLAMA))
    session = ctx.open(context_length=20)
    ticket = ctx.generate(session, [5, 6, 7, 8], 1000, ignore_end=1)
    ctx.wait(ticket)
    assert len(ctx.tokens(ticket)) == 17  # 4 + 16 computed positions, and the token after the last
    ctx.close()


# ---- host tensors


def test_products_of_tensors_and_weights(portable: Runtime) -> None:
    ctx = Context(portable, portable.load(LLAMA), tensor_bytes=1 << 20)
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(3, 5)).astype(np.float32), rng.normal(size=(5, 4)).astype(np.float32)
    ab = ctx.read(ctx.product(ctx.tensor(a), ctx.tensor(b), transposed=False))
    assert np.allclose(ab, a.astype(np.float64) @ b, atol=1e-5)
    abt = ctx.read(ctx.product(ctx.tensor(a), ctx.tensor(np.ascontiguousarray(b.T)), transposed=True))
    assert np.allclose(abt, a.astype(np.float64) @ b, atol=1e-5)
    weight = ctx.weight("blk.0.attn_q.weight")
    values = ctx.read(weight)
    x = rng.normal(size=(2, values.shape[1])).astype(np.float32)
    got = ctx.read(ctx.product(ctx.tensor(x), weight, transposed=True))
    assert np.allclose(got, x.astype(np.float64) @ values.T.astype(np.float64), atol=1e-4)
    ctx.store(1 << 40, ctx.tensor(a))
    assert np.array_equal(ctx.read(ctx.load(1 << 40)), a)
    with pytest.raises(CoreError) as caught:
        ctx.load(5)
    assert caught.value.code == "not-found"
    with pytest.raises(CoreError) as caught:
        ctx.tensor(np.zeros((1024, 1024), dtype=np.float32))
    assert caught.value.code == "limit-exceeded"
    ctx.close()


def test_stored_layers_count_like_tensors(portable: Runtime) -> None:
    ctx = Context(portable, portable.load(LLAMA), tensor_bytes=10_000)
    kilobyte = ctx.tensor(np.zeros((16, 16), dtype=np.float32))
    for _ in range(20):
        ctx.store(0, kilobyte)  # replacing takes nothing more
    with pytest.raises(CoreError, match="limit of 10000"):
        for address in range(20):
            ctx.store(address, kilobyte)
    ctx.close()
