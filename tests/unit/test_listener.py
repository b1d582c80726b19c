"""A host hears of first tokens and ends at once, of others together; nobody waits for it for ever.

It hears as a listener, or by waiting.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from realm._library import ffi

from tests.unit.core_api import PROGRESS, READY, Context, Runtime

MODEL = Path(__file__).parents[1] / "vectors" / "model-mistral.gguf"
FAKE = 1  # REALM_EXECUTOR_FAKE
TOKENS = 60
SECOND = 1_000_000_000


class Listener:
    """Counts its calls, by the states they tell of; `ended` is set at the first end."""

    def __init__(self, rt: Runtime) -> None:
        self.rt, self.calls, self.ended = rt, [], threading.Event()  # type: ignore[var-annotated]
        self.function = ffi.callback("void(void *, const realm_completion *, uint32_t)", self.hear)
        rt.lib.realm_runtime_set_listener(rt.handle, self.function, ffi.NULL)

    def hear(self, _: Any, done: Any, count: int) -> None:
        self.calls.append([int(done[i].state) for i in range(count)])
        self.rt.lib.realm_runtime_acknowledge(self.rt.handle)
        if any(state != PROGRESS for state in self.calls[-1]):
            self.ended.set()


@pytest.fixture
def rt() -> Iterator[Runtime]:
    with Runtime(executor=FAKE) as opened:
        yield opened


def generated(rt: Runtime, hold_ns: int) -> list[list[int]]:
    """The calls during one generation, whose tokens are all there at its end."""
    listener, model = Listener(rt), rt.load(MODEL)
    context = Context(rt, model)
    rt.lib.realm_context_hold_progress(context.handle, hold_ns)
    ticket = context.generate(context.open(), [5, 6, 7], TOKENS, ignore_end=1)
    assert listener.ended.wait(30)
    assert len(context.tokens(ticket)) == TOKENS
    context.close()
    rt.close_model(model)
    return listener.calls


def test_without_holding_every_token_is_told(rt: Runtime) -> None:
    assert generated(rt, 0) == [[PROGRESS]] * (TOKENS - 1) + [[READY]]


def test_held_progress_is_told_together_and_the_end_at_once(rt: Runtime) -> None:
    calls = generated(rt, 3600 * SECOND)
    assert calls == [[PROGRESS], [READY]]


def test_a_host_that_announces_work_and_says_no_more_is_not_waited_for(rt: Runtime) -> None:
    rt.lib.realm_runtime_announce(rt.handle)
    assert generated(rt, 0)[-1] == [READY]


def waited(rt: Runtime, hold_ns: int) -> list[int]:
    """The same by waiting: the states that were told. Nothing else wakes the host before its time is up."""
    context = Context(rt, rt.load(MODEL))
    rt.lib.realm_context_hold_progress(context.handle, hold_ns)
    ticket = context.generate(context.open(), [5, 6, 7], TOKENS, ignore_end=1)
    told, events = [], ffi.new("realm_completion[64]")
    while READY not in told:
        count = rt.lib.realm_runtime_wait(rt.handle, events, 64, 30 * SECOND)
        assert count > 0
        told += [int(events[i].state) for i in range(count)]
    assert len(context.tokens(ticket)) == TOKENS
    context.close()
    return told


def test_a_host_that_waits_is_woken_for_the_first_token_and_the_end(rt: Runtime) -> None:
    assert waited(rt, 3600 * SECOND) in ([PROGRESS, READY], [READY])  # the end alone, when it came first


def test_tokens_are_not_held_back_while_their_tenant_has_to_wait(rt: Runtime) -> None:
    """Of a tenant that may compute 20 tokens a second the later ones come one by one, not all at the end."""
    limits = ffi.new("realm_tenant_limits *", {"tokens_per_second": 20})
    rt.lib.realm_tenant_set_limits(rt.handle, 1, limits, ffi.NULL)
    context = Context(rt, rt.load(MODEL))
    rt.lib.realm_context_hold_progress(context.handle, 3600 * SECOND)
    ticket = context.generate(context.open(), [5, 6, 7], TOKENS, ignore_end=1)
    found, events, end = 0, ffi.new("realm_completion[64]"), time.monotonic() + 20
    while found < 22:
        assert time.monotonic() < end
        if rt.lib.realm_runtime_wait(rt.handle, events, 64, SECOND // 10):
            found += len(context.tokens(ticket))
    assert found < TOKENS
    context.close()
