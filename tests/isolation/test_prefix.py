"""Public prefixes and the prefix cache between tenants: who finds what, and whose cached pages give way.

The oracle is what is computed: the engine counts rows, and a tenant's prompt costs what it would cost without
anybody else there. Logits are compared bit for bit (portable kernels) with sessions that use no cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from realm._library import ffi

from tests.unit.core_api import Context, CoreError, Runtime, check

LLAMA = Path(__file__).parents[1] / "vectors" / "model-llama3.gguf"
PORTABLE, KV_F32 = 1, 1
PAGE = 16


@pytest.fixture
def rt() -> Iterator[Runtime]:
    with Runtime(threads=1, features=PORTABLE) as runtime:
        yield runtime


def prompt(length: int, seed: int = 0) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(3, 256, length)]


def publish(rt: Runtime, model: Any, tokens: list[int], **options: int) -> int:
    """The number of the publication."""
    ctx = Context(rt, model, tenant=0)
    session = ctx.open(no_prefix=1, **options)
    ctx.finish(ctx.forward(session, tokens))
    number, shared = ffi.new("uint32_t *"), ffi.new("uint32_t *")
    check(rt.lib.realm_prefix_publish(ctx.handle, session, number, shared, rt.err), rt.err)
    assert shared[0] == len(tokens) // PAGE * PAGE
    ctx.close()
    return int(number[0])


def unpublish(rt: Runtime, model: Any, number: int) -> None:
    check(rt.lib.realm_prefix_unpublish(model, number, rt.err), rt.err)


def rows_of(ctx: Context, tokens: list[int], **options: int) -> int:
    """Rows computed for a prompt in a new session, which is closed again."""
    before, session = ctx.rt.stats().rows, ctx.open(**options)
    ctx.finish(ctx.forward(session, tokens))
    rows = int(ctx.rt.stats().rows - before)
    ctx.close_session(session)
    return rows


def sampled(ctx: Context, tokens: list[int], **options: int) -> tuple[int, float]:
    session = ctx.open(**options)
    ctx.finish(ctx.forward(session, tokens))
    token = ctx.sample(session)
    ctx.close_session(session)
    return int(token.id), float(token.logprob)


def test_what_is_computed_after_a_rewind_is_found_again(rt: Runtime) -> None:
    """Rewound into a page that was findable: what is written there then, and behind it, is findable, too."""
    ctx, old = Context(rt, rt.load(LLAMA), tenant=1), prompt(70)
    new = [*old[:40], *prompt(50, 1)]
    session = ctx.open()
    ctx.finish(ctx.forward(session, old))
    ctx.rewind(session, 40)
    ctx.finish(ctx.forward(session, new[40:]))
    assert rows_of(ctx, new) == len(new) - 5 * PAGE
    assert sampled(ctx, new) == sampled(ctx, new, no_prefix=1)
    ctx.close()


# ---- public prefixes


def test_a_public_prefix_is_computed_once_and_found_by_every_tenant(rt: Runtime) -> None:
    model, prefix = rt.load(LLAMA), prompt(70)
    publish(rt, model, prefix)
    for tenant in (1, 2, 3):
        ctx, tokens = Context(rt, model, tenant=tenant), [*prefix, *prompt(40, tenant)]
        assert rows_of(ctx, tokens) == len(tokens) - 64  # whole pages of the prefix
        assert sampled(ctx, tokens) == sampled(ctx, tokens, no_prefix=1)
        ctx.close()


def test_what_follows_a_public_prefix_stays_private(rt: Runtime) -> None:
    model, prefix = rt.load(LLAMA), prompt(64)
    publish(rt, model, prefix)
    tokens = [*prefix, *prompt(40, 9)]
    first, again, stranger = (Context(rt, model, tenant=t) for t in (1, 1, 2))
    assert rows_of(first, tokens) == 40
    assert rows_of(again, tokens) == 40 - 2 * PAGE  # its own tenant's pages, after the public ones
    assert rows_of(stranger, tokens) == 40
    for ctx in (first, again, stranger):
        ctx.close()


def test_no_tenant_of_hundreds_finds_anothers_pages(rt: Runtime) -> None:
    """So many that some share a place in the table of pages with a tenant that computed the same."""
    model, tokens = rt.load(LLAMA), prompt(PAGE + 1)
    for tenant in range(1, 601):
        ctx = Context(rt, model, tenant=tenant)
        assert rows_of(ctx, tokens) == len(tokens)
        ctx.close()


def test_unpublishing_ends_the_sharing_but_not_the_sessions_that_use_it(rt: Runtime) -> None:
    model, prefix = rt.load(LLAMA), prompt(64)
    numbers = [publish(rt, model, prefix), publish(rt, model, [*prefix, *prompt(16, 1)])]
    user, later = Context(rt, model, tenant=1), Context(rt, model, tenant=2)
    session = user.open()
    user.finish(user.forward(session, [*prefix, 5, 6]))
    unpublish(rt, model, numbers[0])
    assert rows_of(later, [*prefix, 7]) == 1  # the other publication holds the pages
    unpublish(rt, model, numbers[1])
    assert rows_of(later, [*prefix, 8]) == 65
    unshared = user.open(no_prefix=1)
    user.finish(user.forward(unshared, [*prefix, 5, 6]))
    assert user.sample(session).logprob == user.sample(unshared).logprob
    user.rewind(session, 20)  # inside a page that was public: its last user may write there
    user.finish(user.forward(session, prompt(20, 3)))
    user.rewind(unshared, 20)
    user.finish(user.forward(unshared, prompt(20, 3)))
    assert user.sample(session).logprob == user.sample(unshared).logprob
    with pytest.raises(CoreError) as caught:
        unpublish(rt, model, numbers[0])
    assert caught.value.code == "not-found"
    user.close()
    later.close()


def test_public_pages_stay_under_pressure_and_are_given_back(rt: Runtime) -> None:
    model, prefix = rt.load(LLAMA), prompt(64)
    number = publish(rt, model, prefix)
    per_page = rt.stats().kv_bytes_used // 4
    rt.close_model(model)
    with Runtime(threads=1, features=PORTABLE, kv_bytes=10 * per_page) as small:
        model = small.load(LLAMA)
        number = publish(small, model, prefix)
        for tenant in range(1, 8):
            ctx = Context(small, model, tenant=tenant)
            assert rows_of(ctx, prompt(90, tenant)) == 90
            assert rows_of(ctx, [*prefix, 4]) == 1
            ctx.close()
        unpublish(small, model, number)
        ctx = Context(small, model, tenant=9)
        assert rows_of(ctx, prompt(160, 9)) == 160  # all ten pages can be had again
        ctx.close()
        small.close_model(model)
        assert small.stats().kv_bytes_used == 0


def test_positions_count_against_the_sessions_limit_found_or_not(rt: Runtime) -> None:
    """Whether a limit is met must not depend on what was published."""
    model, prefix = rt.load(LLAMA), prompt(64)
    for published in (False, True):
        if published:
            publish(rt, model, prefix)
        ctx = Context(rt, model, tenant=1, kv_tokens=80)
        session = ctx.open()
        ctx.finish(ctx.forward(session, [*prefix, *prompt(16, 1)]))
        with pytest.raises(CoreError) as caught:
            ctx.forward(session, [9])
        assert caught.value.code == "limit-exceeded"
        ctx.close()


def test_element_types_are_published_apart(rt: Runtime) -> None:
    model, prefix = rt.load(LLAMA), prompt(32)
    publish(rt, model, prefix, kv_type=KV_F32)
    ctx = Context(rt, model, tenant=1)
    assert [rows_of(ctx, [*prefix, 3], kv_type=kind) for kind in (KV_F32, 0)] == [1, 33]
    ctx.close()


def test_what_cannot_be_published_is_refused() -> None:
    rt = Runtime(threads=1, features=PORTABLE, no_driver=1)
    ctx = Context(rt, rt.load(LLAMA), tenant=1)
    short, cached, busy = ctx.open(no_prefix=1), ctx.open(), ctx.open(no_prefix=1)
    ctx.finish(ctx.forward(short, prompt(15)))
    ctx.finish(ctx.forward(cached, prompt(40)))
    ctx.forward(busy, prompt(200))  # nobody steps
    number, shared = ffi.new("uint32_t *"), ffi.new("uint32_t *")
    cases = [
        (short, "invalid-argument"),
        (cached, "invalid-argument"),
        (busy, "busy"),
        (99, "invalid-handle"),
    ]
    for session, code in cases:
        with pytest.raises(CoreError) as caught:
            check(rt.lib.realm_prefix_publish(ctx.handle, session, number, shared, rt.err), rt.err)
        assert caught.value.code == code and number[0] == 0
    ctx.close()
    rt.close()


def test_tenant_zero_feeds_and_finds_no_private_cache(rt: Runtime) -> None:
    """The number public pages are registered under: a context that has it must not publish by accident."""
    model, tokens = rt.load(LLAMA), prompt(50)
    contexts = [Context(rt, model, tenant=t) for t in (0, 0, 1)]
    assert [rows_of(ctx, tokens) for ctx in contexts] == [50, 50, 50]
    for ctx in contexts:
        ctx.close()


def test_a_model_may_close_while_prefixes_are_public(rt: Runtime) -> None:
    model = rt.load(LLAMA)
    publish(rt, model, prompt(64))
    publish(rt, model, prompt(80))
    rt.close_model(model)
    assert rt.stats().kv_bytes_used == 0


# ---- one tenant's cache and the others


def test_a_warm_prompt_of_one_tenant_is_cold_for_another(rt: Runtime) -> None:
    """By rows and by steps, which is what its time is made of."""
    model, tokens = rt.load(LLAMA), prompt(120)
    warm, stranger, quiet = (Context(rt, model, tenant=t) for t in (1, 2, 3))
    cold_rows = rows_of(warm, tokens)
    assert rows_of(warm, tokens) < cold_rows // 4
    assert rows_of(stranger, tokens) == cold_rows
    assert rows_of(quiet, prompt(120, 1)) == cold_rows  # a prompt nobody has ever sent costs the same
    for ctx in (warm, stranger, quiet):
        ctx.close()


def test_the_time_of_a_prompt_does_not_tell_who_else_has_sent_it(rt: Runtime) -> None:
    """The least of many times: of prompts another tenant keeps warm, prompts nobody knows, and one's own."""
    model, known = rt.load(LLAMA), prompt(240)
    times: dict[str, list[int]] = {"known to another": [], "known to nobody": [], "its own": []}

    def measure(ctx: Context, name: str, tokens: list[int]) -> None:
        before = rt.stats().step_ns
        rows_of(ctx, tokens)
        times[name].append(int(rt.stats().step_ns - before))

    owner = Context(rt, model, tenant=1)
    rows_of(owner, known)
    least: dict[str, int] = {}
    for turn in range(200):  # on a busy machine the least times take a while to come
        stranger = Context(rt, model, tenant=100 + turn)
        measure(stranger, "known to another", known)
        measure(stranger, "known to nobody", prompt(240, 100 + turn))
        measure(owner, "its own", known)
        stranger.close()
        least = {name: min(all_of) for name, all_of in times.items()}
        alike = least["known to another"] > 0.6 * least["known to nobody"]
        if turn >= 11 and alike and least["its own"] < 0.5 * least["known to another"]:
            break
    owner.close()
    assert least["known to another"] > 0.6 * least["known to nobody"], least
    assert least["its own"] < 0.5 * least["known to another"], least


@pytest.mark.parametrize("others", [1, 3])
def test_a_tenant_under_pressure_evicts_its_own_pages_before_those_of_smaller_ones(others: int) -> None:
    """The small tenants' cached prompts stay warm while a large one goes through many of its own."""
    with Runtime(threads=1, features=PORTABLE) as rt:
        model = rt.load(LLAMA)
        ctx = Context(rt, model)
        rows_of(ctx, prompt(PAGE))
        per_page = int(rt.stats().kv_bytes_used)
        ctx.close()
    with Runtime(threads=1, features=PORTABLE, kv_bytes=32 * per_page) as rt:
        model = rt.load(LLAMA)
        small = [Context(rt, model, tenant=t) for t in range(1, others + 1)]
        for ctx in small:
            rows_of(ctx, prompt(65))
        large = Context(rt, model, tenant=99)
        for seed in range(20):
            assert rows_of(large, prompt(160, 100 + seed)) == 160
        assert [rows_of(ctx, prompt(65)) for ctx in small] == [1] * others
        large.close()
        for ctx in small:
            ctx.close()


def test_tenants_whose_limits_fit_the_budget_never_evict_each_other() -> None:
    """A small tenant at its limit takes nothing from a large one that has not used its own up, nor back."""
    with Runtime(threads=1, features=PORTABLE) as rt:
        ctx = Context(rt, rt.load(LLAMA))
        rows_of(ctx, prompt(PAGE))
        per_page = int(rt.stats().kv_bytes_used)
        ctx.close()
    with Runtime(threads=1, features=PORTABLE, kv_bytes=16 * per_page) as rt:
        model = rt.load(LLAMA)
        large = Context(rt, model, tenant=1, kv_tokens=12 * PAGE)
        small = Context(rt, model, tenant=2, kv_tokens=4 * PAGE)
        rows_of(large, prompt(12 * PAGE, 7))
        for seed in range(8):
            assert rows_of(small, prompt(4 * PAGE, 100 + seed)) == 4 * PAGE
        assert rows_of(large, prompt(12 * PAGE, 7)) == PAGE  # the last page is computed for its logits
        for seed in range(4):
            assert rows_of(large, prompt(12 * PAGE, 200 + seed)) == 12 * PAGE
        assert rows_of(small, prompt(4 * PAGE, 107)) == PAGE
        large.close()
        small.close()
