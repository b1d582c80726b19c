"""Tenants in the core: fair shares, rates, places, deadlines, priorities. On a simulated clock."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.core_api import FAILED, READY, Context, CoreError, Runtime
from tests.unit.simulation import SECOND, VECTORS, Simulation, jain

STEP_NS, ROW_NS = 6_000_000, 400_000  # about a 110M model on two cores
HOST_NS = 300_000  # a host takes for a token
BUDGET = 20_000  # multiply-adds between two looks of the host: less than a row


@pytest.fixture
def sim() -> Iterator[Simulation]:
    made = Simulation(step_ns=STEP_NS, row_ns=ROW_NS)
    yield made
    made.close()


def tokens(seed: int, count: int) -> list[int]:
    return [5 + (seed * 7 + i) % 200 for i in range(count)]


def begin(ctx: Context, prompt: int, made: int, **options: int) -> int:
    """A generation in a session of its own."""
    return ctx.generate(ctx.open(no_prefix=1, **options), tokens(prompt, prompt), made, ignore_end=1)


def shares(sim: Simulation, numbers: range, rows: int) -> list[int]:
    """Tokens computed for each tenant while the engine computes so many rows, after as many to settle."""
    start = sim.stats().rows
    sim.run(sim.now + 10_000 * SECOND, lambda: sim.stats().rows - start > rows)
    before = [sim.tokens(n) for n in numbers]
    sim.run(sim.now + 10_000 * SECOND, lambda: sim.stats().rows - start > 2 * rows)
    return [sim.tokens(n) - b for n, b in zip(numbers, before, strict=True)]


# ---- shares


@pytest.mark.parametrize("batch_rows, streams", [(16, 60), (64, 200)])
def test_streams_share_by_weight(batch_rows: int, streams: int) -> None:
    with Simulation(step_ns=STEP_NS, row_ns=ROW_NS, batch_rows=batch_rows) as sim:
        for number, weight in ((1, 1), (2, 2), (3, 4)):
            ctx = sim.tenant(number, weight=weight)
            for _ in range(streams):
                begin(ctx, 3, 240)
        one, two, four = shares(sim, range(1, 4), 100 * streams)
        assert two / one == pytest.approx(2, rel=0.05)
        assert four / one == pytest.approx(4, rel=0.05)


def test_prompts_share_by_weight(sim: Simulation) -> None:
    """Tenants that only have prompts, always one more than is computed."""
    contexts = {n: sim.tenant(n, weight=w) for n, w in ((1, 1), (2, 2), (3, 4))}

    def more(tag: int, ticket: int, state: int) -> None:
        if state == READY:
            begin(contexts[tag], 240, 1)

    sim.on_event = more
    for ctx in contexts.values():
        for _ in range(8):
            begin(ctx, 240, 1)
    one, two, four = shares(sim, range(1, 4), 60_000)
    assert two / one == pytest.approx(2, rel=0.05)
    assert four / one == pytest.approx(4, rel=0.05)


def test_ten_thousand_tenants_get_the_same(sim: Simulation) -> None:
    numbers = range(1, 10_001)
    for n in numbers:
        begin(sim.tenant(n), 20, 40)
    sim.run(sim.now + 100_000 * SECOND, lambda: sim.stats().rows > 300_000)
    assert jain([sim.tokens(n) for n in numbers]) > 0.99


def test_the_schedule_is_deterministic() -> None:
    def history() -> list[tuple[int, int, int]]:
        with Simulation(batch_rows=32) as sim:
            seen: list[tuple[int, int, int]] = []
            sim.on_event = lambda tag, ticket, state: seen.append((sim.now, tag, ticket))
            for n in range(1, 20):
                begin(sim.tenant(n, weight=1 + n % 3), 5 * n, 30)
            sim.run(sim.now + 100 * SECOND)
            return seen

    assert history() == history()


def gaps(sim: Simulation, flood: int, *, granular: bool) -> list[int]:
    """Times between the tokens of tenant 1, while tenant 2 has so many long prompts from half a second on.
    Granular: the host gives the core each token, and takes a while for it."""
    quiet, loud = sim.tenant(1), sim.tenant(2)
    mine, theirs = quiet.open(no_prefix=1), [loud.open(no_prefix=1) for _ in range(flood)]
    steps: dict[tuple[int, int], int] = {}
    times: list[int] = []

    def forward(ctx: Context, session: int, ids: list[int]) -> None:
        steps[1 if ctx is quiet else 2, ctx.forward(session, ids)] = session

    def heard(tag: int, ticket: int, state: int) -> None:
        if tag == 1:
            times.append(sim.now)
        if granular and len(times) < 240:
            ctx, session = (quiet, loud)[tag - 1], steps.pop((tag, ticket))
            ctx.drop(ticket)
            if ctx.position(session) < 250:
                sim.after(HOST_NS, lambda: forward(ctx, session, [7]))

    def start() -> None:
        for session in theirs:
            begin_in(loud, session, tokens(190, 190))

    def begin_in(ctx: Context, session: int, ids: list[int]) -> None:
        if granular:
            forward(ctx, session, ids)
        else:
            ctx.generate(session, ids, 240 if ctx is quiet else 60, ignore_end=1)

    sim.on_event = heard
    begin_in(quiet, mine, tokens(3, 3))
    sim.after(SECOND // 2, start)
    sim.run(sim.now + 60 * SECOND, lambda: len(times) == 240)
    assert len(times) == 240
    return sorted(b - a for a, b in zip(times, times[1:], strict=False))


@pytest.mark.parametrize("granular", [False, True])
@pytest.mark.parametrize("position_ns", [0, 40_000])
def test_a_flood_does_not_double_the_time_between_anothers_tokens(granular: bool, position_ns: int) -> None:
    """Also where a row deep in its context costs as much as a whole step of a stream."""
    longest = {}
    for flood in (0, 100):
        with Simulation(step_ns=STEP_NS, row_ns=ROW_NS, position_ns=position_ns, budget=BUDGET) as sim:
            found = gaps(sim, flood, granular=granular)
            longest[flood] = found[int(len(found) * 0.99)]
            if flood:
                assert sim.tokens(2) > 300, "the flood has its share, too"
    assert longest[100] < 1.5 * longest[0]


def test_a_prompt_has_its_share_beside_a_flood_of_streams(sim: Simulation) -> None:
    loud, small = sim.tenant(1), sim.tenant(2)
    for _ in range(200):
        begin(loud, 3, 240)
    sim.run(sim.now + 2 * SECOND)
    ticket, start = begin(small, 200, 2), sim.now
    sim.run(sim.now + 10 * SECOND, lambda: small.state(ticket) == READY)
    alone = STEP_NS + 201 * ROW_NS
    assert sim.now - start < 4 * alone


# ---- rates


def test_a_rate_holds_over_time(sim: Simulation) -> None:
    ctx = sim.tenant(1, tokens_per_second=100)
    for _ in range(10):
        begin(ctx, 3, 240)
    start = sim.now
    sim.run(start + 20 * SECOND)
    assert 20 * 100 <= sim.account(1).tokens_generated <= 21 * 100 + 10


def test_work_beyond_a_rate_is_refused_until_it_says(sim: Simulation) -> None:
    ctx = sim.tenant(1, tokens_per_minute=120)
    first = begin(ctx, 200, 1)
    sim.run(sim.now + SECOND)
    assert ctx.state(first) == READY, "what has begun may go into debt once"
    with pytest.raises(CoreError, match="120 tokens a minute") as caught:
        begin(ctx, 3, 3)
    assert (caught.value.code, caught.value.limit, caught.value.value) == (
        "limit-exceeded",
        "tokens_per_minute",
        120,
    )
    assert caught.value.retry_ns == pytest.approx((200 - 120 + 1) / 2 * SECOND, rel=0.05)
    assert sim.account(1).retry_after_ns == caught.value.retry_ns
    other = begin(sim.tenant(2), 3, 3)
    sim.run(sim.now + caught.value.retry_ns - SECOND // 10)
    with pytest.raises(CoreError):
        begin(ctx, 3, 3)
    sim.run(sim.now + SECOND // 5)
    begin(ctx, 3, 3)
    assert sim.account(2).tokens_generated == 3 and other


def test_a_running_request_is_throttled_not_failed(sim: Simulation) -> None:
    """Token by token as guests do: no submission of a running request is refused."""
    ctx = sim.tenant(1, tokens_per_second=50)
    session = ctx.open()
    for _ in range(200):
        assert sim.until_ready(ctx, ctx.forward(session, [5]), SECOND)
    assert sim.now >= 3 * SECOND


def test_lifting_a_rate_wakes_who_waits(sim: Simulation) -> None:
    ctx = sim.tenant(1, tokens_per_minute=10)
    ticket = begin(ctx, 200, 20)
    sim.run(sim.now + SECOND)
    assert ctx.state(ticket) != READY
    sim.limit(1, tokens_per_minute=0)
    sim.run(sim.now + SECOND)
    assert ctx.state(ticket) == READY


def test_closing_and_coming_back_is_no_way_around_a_rate(sim: Simulation) -> None:
    ctx = sim.tenant(1, tokens_per_minute=60)
    begin(ctx, 200, 1)
    sim.run(sim.now + SECOND)
    ctx.close()
    for n in range(2, 9000):  # many others come and go
        sim.tenant(n).close()
    with pytest.raises(CoreError, match="60 tokens a minute"):
        begin(sim.tenant(1, tokens_per_minute=60), 3, 1)


# ---- places and queues


def test_requests_wait_for_a_place_and_are_refused_beyond_the_queue(sim: Simulation) -> None:
    ctx = sim.tenant(1, concurrent_requests=2, queue_length=3)
    tickets = [begin(ctx, 3, 20) for _ in range(5)]
    account = sim.account(1)
    assert (account.running, account.queued) == (2, 3)
    with pytest.raises(CoreError, match="2 concurrent requests") as caught:
        begin(ctx, 3, 20)
    assert (caught.value.limit, caught.value.value) == ("queue_length", 3)
    assert caught.value.retry_ns > 0
    assert sim.lib.realm_tenant_refused(sim.handle, 1, 7) == 1
    sim.run(sim.now + 30 * SECOND)
    assert [ctx.state(t) for t in tickets] == [READY] * 5
    account = sim.account(1)
    assert (account.running, account.queued, account.requests) == (0, 0, 5)


def test_without_a_queue_the_places_are_the_limit(sim: Simulation) -> None:
    ctx = sim.tenant(1, concurrent_requests=1)
    begin(ctx, 3, 20)
    with pytest.raises(CoreError) as caught:
        begin(ctx, 3, 20)
    assert (caught.value.limit, caught.value.value) == ("concurrent_requests", 1)
    sim.limit(1, concurrent_requests=2)
    begin(ctx, 3, 20)


def test_a_request_keeps_its_place_between_its_tokens(sim: Simulation) -> None:
    ctx = sim.tenant(1, concurrent_requests=1, queue_length=1)
    first, second = ctx.open(), ctx.open()
    ctx.finish(ctx.forward(first, [5, 6]))
    waits = ctx.forward(second, [5])
    for _ in range(5):
        assert sim.until_ready(ctx, ctx.forward(first, [7]), SECOND // 2)
        assert ctx.state(waits) != READY
    ctx.close_session(first)
    sim.run(sim.now + SECOND // 2)
    assert ctx.state(waits) == READY


def test_an_idle_request_gives_its_place_away(sim: Simulation) -> None:
    ctx = sim.tenant(1, concurrent_requests=1, queue_length=1)
    first, second = ctx.open(), ctx.open()
    ctx.finish(ctx.forward(first, [5, 6]))
    waits, start = ctx.forward(second, [5]), sim.now
    sim.run(sim.now + 5 * SECOND, lambda: ctx.state(waits) == READY)
    assert SECOND // 2 < sim.now - start < 2 * SECOND


def test_what_waits_can_be_cancelled_and_closed(sim: Simulation) -> None:
    ctx = sim.tenant(1, concurrent_requests=1, queue_length=9)
    running, cancelled, left = (begin(ctx, 3, 20) for _ in range(3))
    gone = ctx.open()
    ctx.forward(gone, [5])
    ctx.cancel(cancelled)
    ctx.close_session(gone)
    assert sim.account(1).queued == 1
    sim.run(sim.now + 30 * SECOND)
    assert (ctx.state(running), ctx.state(cancelled), ctx.state(left)) == (READY, FAILED, READY)
    begin(ctx, 3, 20)
    begin(ctx, 3, 20)
    ctx.close()
    assert (sim.account(1).running, sim.account(1).queued) == (0, 0)


def test_priority_then_deadline_then_arrival(sim: Simulation) -> None:
    ctx = sim.tenant(1, concurrent_requests=1, queue_length=9)
    order: list[int] = []

    def heard(tag: int, ticket: int, state: int) -> None:
        if state == READY:
            order.append(ticket)

    sim.on_event = heard
    running = begin(ctx, 3, 5)
    late, soon, first, second, urgent = (
        begin(ctx, 3, 5, deadline_ns=20 * SECOND),
        begin(ctx, 3, 5, deadline_ns=10 * SECOND),
        begin(ctx, 3, 5),
        begin(ctx, 3, 5),
        begin(ctx, 3, 5, priority=1),
    )
    sim.run(sim.now + 60 * SECOND)
    assert order == [running, urgent, soon, late, first, second]


# ---- deadlines and lengths


def test_a_deadline_ends_a_request_wherever_it_is(sim: Simulation) -> None:
    ctx = sim.tenant(1, concurrent_requests=1, queue_length=9)
    session = ctx.open(deadline_ns=SECOND)
    runs = ctx.generate(session, [5], 240, ignore_end=1)
    waits = begin(ctx, 3, 240, deadline_ns=SECOND // 2)
    late = begin(ctx, 3, 20)
    sim.run(sim.now + SECOND * 3)
    for ticket in (runs, waits):
        with pytest.raises(CoreError) as caught:
            ctx.wait(ticket)
        assert (caught.value.code, caught.value.limit) == ("limit-exceeded", "deadline")
    assert ctx.tokens(runs), "what came before stays"
    assert ctx.state(late) == READY
    with pytest.raises(CoreError, match="deadline"):
        ctx.forward(session, [5])


def test_lengths_and_kv_are_the_tenants_together(sim: Simulation) -> None:
    ctx, other = sim.tenant(1, kv_tokens=100, context_length=60), sim.tenant(1)
    a, b = ctx.open(), other.open()
    ctx.finish(ctx.forward(a, tokens(1, 50)))
    with pytest.raises(CoreError, match="tenant's limit of 60") as caught:
        ctx.forward(a, tokens(1, 11))
    assert (caught.value.code, caught.value.limit) == ("context-full", "context_length")
    other.finish(other.forward(b, tokens(2, 45)))
    with pytest.raises(CoreError) as caught:
        other.forward(b, tokens(2, 6))
    assert (caught.value.limit, caught.value.value) == ("kv_tokens", 100)
    sim.limit(1, kv_tokens=200, context_length=0)
    other.finish(other.forward(b, tokens(2, 60)))
    assert sim.account(1).kv_tokens == 155
    ctx.close_session(a)
    assert sim.account(1).kv_tokens == 105


def test_accounts_count_what_was_computed(sim: Simulation) -> None:
    ctx: Any = sim.tenant(1)
    begin(ctx, 30, 10)
    sim.run(sim.now + SECOND)
    account = sim.account(1)
    assert (account.tokens_prompt, account.tokens_generated) == (30, 10)
    assert (account.contexts, account.requests) == (1, 1)
    ctx.close()
    assert (sim.account(1).contexts, sim.account(1).kv_tokens) == (0, 0)


# ---- what was done for a ticket


def test_a_ticket_tells_what_was_done_for_it(sim: Simulation) -> None:
    ctx = sim.tenant(1, concurrent_requests=1, queue_length=1)
    first, second = begin(ctx, 30, 10), begin(ctx, 20, 1)
    sim.run(sim.now + 10 * SECOND)
    prefill, decode = STEP_NS + 30 * ROW_NS, 9 * (STEP_NS + ROW_NS)
    work = ctx.work(first)
    assert (work.queued_ns, work.prefill_ns, work.decode_ns) == (0, prefill, decode)
    assert (work.step_ns, work.steps, work.rows) == (prefill + decode, 10, 30 + 9)
    work = ctx.work(second)
    held = SECOND  # a request keeps its place for so long after its work
    assert (work.queued_ns, work.prefill_ns) == (prefill + decode + held, STEP_NS + 20 * ROW_NS)
    assert (work.decode_ns, work.steps, work.rows) == (0, 1, 20)


def test_waits_between_steps_are_no_time_of_steps(sim: Simulation) -> None:
    ctx = sim.tenant(1, tokens_per_second=10)
    ticket = begin(ctx, 3, 20)
    sim.run(sim.now + 10 * SECOND)
    work = ctx.work(ticket)
    assert work.step_ns == 20 * STEP_NS + 22 * ROW_NS
    assert work.prefill_ns + work.decode_ns > SECOND, "throttled for more than a second in between"


def test_a_token_by_itself_is_decoded(sim: Simulation) -> None:
    ctx = sim.tenant(1)
    session = ctx.open()
    prompt = ctx.forward(session, [5, 6, 7])
    assert sim.until_ready(ctx, prompt, SECOND)
    token = ctx.forward(session, [8])
    assert sim.until_ready(ctx, token, SECOND)
    assert (ctx.work(prompt).prefill_ns, ctx.work(prompt).decode_ns) == (STEP_NS + 3 * ROW_NS, 0)
    assert (ctx.work(token).prefill_ns, ctx.work(token).decode_ns) == (0, STEP_NS + ROW_NS)


# ---- with a real executor


def test_a_stream_goes_on_between_the_slices_of_a_prompt() -> None:
    """A long prompt is computed in one piece or few, and yet another tenant's tokens come meanwhile."""
    with Runtime(threads=1, no_driver=1) as rt:
        rt.stepped = True
        model = rt.load(VECTORS / "model-llama3.gguf")
        quiet, loud = Context(rt, model, tenant=1), Context(rt, model, tenant=2)
        stream = quiet.generate(quiet.open(no_prefix=1), [5, 6, 7], 200, ignore_end=1)
        made = 0
        while made < 20:
            rt.wait()
            made += len(quiet.tokens(stream))
        prompt = loud.generate(loud.open(no_prefix=1), tokens(1, 240), 1, ignore_end=1)
        beside = 0
        while loud.state(prompt) != READY:
            rt.wait()
            beside += len(quiet.tokens(stream))
        assert beside >= 3
        assert loud.work(prompt).steps <= 6, "not in chunks of a few rows"
        quiet.wait(stream)
        assert made + beside + len(quiet.tokens(stream)) == 200
        quiet.close()
        loud.close()
        rt.close_model(model)
