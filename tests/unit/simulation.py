"""A runtime on a simulated clock: no forward pass, steps that cost what they are told to."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from pathlib import Path
from typing import Any

from realm._library import ffi

from tests.unit.core_api import READY, Context, Runtime, check

VECTORS = Path(__file__).parents[1] / "vectors"
FAKE = 1  # REALM_EXECUTOR_FAKE
EVENTS = 4096
FOREVER = (1 << 64) - 1
SECOND = 1_000_000_000


class Simulation(Runtime):
    """Contexts have their tenant's number as tag; `on_event` hears (tag, ticket, state) at their time."""

    def __init__(
        self,
        *,
        step_ns: int = 6_000_000,
        row_ns: int = 400_000,
        position_ns: int = 0,
        batch_rows: int = 512,
        budget: int = 0,
    ) -> None:
        super().__init__(
            threads=1,
            executor=FAKE,
            no_driver=1,
            host_clock=1,
            batch_rows=batch_rows,
            fake_step_ns=step_ns,
            fake_row_ns=row_ns,
            fake_position_ns=position_ns,
            kv_bytes=4 << 30,
        )
        self.model = self.load(VECTORS / "model-llama3.gguf")
        self.now = SECOND
        self.budget = budget
        self.on_event: Callable[[int, int, int], None] = lambda tag, ticket, state: None
        self._later: list[tuple[int, int, Callable[[], None]]] = []
        self._serial = 0
        self._events = ffi.new("realm_completion[]", EVENTS)
        self._busy = ffi.new("uint32_t *")
        self._stats = ffi.new("realm_runtime_stats *")
        self._step(self.now)

    def tenant(self, number: int, **limits: int) -> Context:
        if limits:
            self.limit(number, **limits)
        return Context(self, self.model, tenant=number, tag=number)

    def limit(self, number: int, **limits: int) -> None:
        native = ffi.new("realm_tenant_limits *", limits)
        check(self.lib.realm_tenant_set_limits(self.handle, number, native, self.err), self.err)

    def account(self, number: int) -> Any:
        stats = ffi.new("realm_tenant_stats *")
        self.lib.realm_tenant_get_stats(self.handle, number, stats)
        return stats

    def tokens(self, number: int) -> int:
        stats = self.account(number)
        return int(stats.tokens_prompt + stats.tokens_generated)

    def after(self, delay_ns: int, action: Callable[[], None]) -> None:
        self._serial += 1
        heapq.heappush(self._later, (self.now + delay_ns, self._serial, action))

    def run(self, until: int, stop: Callable[[], bool] = lambda: False) -> None:
        """Steps and lets things happen until the time has come or there is nothing more to happen."""
        while self.now < until and not stop():
            if self._step(self.now):
                continue
            due = min(self._next_due(), self._later[0][0] if self._later else FOREVER, until)
            self.now = min(due, until)
            self._step(self.now)

    def until_ready(self, ctx: Context, ticket: int, within: int) -> bool:
        self.run(self.now + within, lambda: ctx.state(ticket) == READY)
        return ctx.state(ticket) == READY

    def wait(self) -> int:
        self._step(self.now)
        return 0

    def _next_due(self) -> int:
        wait = int(self.lib.realm_runtime_next_due(self.handle))
        return FOREVER if wait == FOREVER else self.now + max(wait, 1)

    def _step(self, now: int) -> bool:
        """One step, or what the budget has room for; whether it computed. What it caused is heard then."""
        took = self._read_stats().step_ns
        check(self.lib.realm_runtime_step(self.handle, now, self.budget, self._busy, self.err), self.err)
        computed = self._read_stats().step_ns != took
        self.now += int(self._stats.step_ns - took)
        self._do_due()
        while count := self.lib.realm_runtime_wait(self.handle, self._events, EVENTS, 0):
            for event in self._events[0:count]:
                self.on_event(event.tag, event.ticket, event.state)
        return bool(computed)

    def _do_due(self) -> None:
        while self._later and self._later[0][0] <= self.now:
            heapq.heappop(self._later)[2]()

    def _read_stats(self) -> Any:
        self.lib.realm_runtime_get_stats(self.handle, self._stats)
        return self._stats


def jain(values: list[float]) -> float:
    """Jain's index of fairness: 1 when all are equal, 1 / n when one has everything."""
    return sum(values) ** 2 / (len(values) * sum(v * v for v in values))
