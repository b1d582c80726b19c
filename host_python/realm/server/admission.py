"""Who may enter the engine: a fixed number of generations at once, the rest waits, tenant by tenant in
turn.

Load is shed by time, not by length: a request that would wait longer than `patience`, judged by how long
generations have been taking, is turned away at once, and one that did wait so long is turned away then.
One tenant never gets all turns: it may have three for each that stays free, so that who comes next finds one.
Shares between those inside are the engine's business.
"""

from __future__ import annotations

import asyncio
import time
from bisect import insort
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from .errors import ApiError

SMOOTHING = 0.1  # weight of the newest generation in the mean time
FOR_EACH_FREE = 3  # turns a tenant may have


@dataclass(eq=False)
class Place:
    """A request in line."""

    priority: int
    turn: asyncio.Future[None]


class Admission:
    def __init__(self, running: int, waiting: int, patience: float, *, shared: bool = True) -> None:
        """`shared`: there are several tenants, so that some turns stay free of each."""
        self.capacity = running
        self.running = 0
        self.waiting = 0
        self.patience = patience
        self._most_waiting = waiting
        self._mean_seconds = 0.0
        self._shared = shared
        self._has: Counter[str] = Counter()  # turns, by tenant
        self._lines: OrderedDict[str, list[Place]] = OrderedDict()  # the next tenant first

    def expected_wait(self) -> float:
        """Seconds until a request that comes now would get its turn."""
        if self.running < self.capacity:
            return 0.0
        return self._mean_seconds * (self.waiting + 1) / self.capacity

    @asynccontextmanager
    async def turn(self, tenant: str, priority: int = 0, due: float | None = None) -> AsyncIterator[float]:
        """Yields how long it waited. Raises 503 instead of keeping anybody too long, 504 at `due`.

        Among the tenant's own requests those of higher priority come first. `due` is a monotonic time.
        """
        waited = await self._enter(tenant, priority, due)
        began = time.monotonic()
        try:
            yield waited
        finally:
            seconds = time.monotonic() - began
            self._mean_seconds += (seconds - self._mean_seconds) * (SMOOTHING if self._mean_seconds else 1.0)
            self._leave(tenant)

    def _may_enter(self, tenant: str) -> bool:
        free = self.capacity - self.running
        return free > 0 and (not self._shared or self._has[tenant] < FOR_EACH_FREE * free)

    def _give_turn(self, tenant: str) -> None:
        self.running += 1
        self._has[tenant] += 1

    async def _enter(self, tenant: str, priority: int, due: float | None) -> float:
        if self._may_enter(tenant):
            self._give_turn(tenant)
            return 0.0
        self._check_line()
        began = time.monotonic()
        seconds = self.patience if due is None else min(self.patience, due - began)
        place = self._join(tenant, priority)
        try:
            async with asyncio.timeout(seconds):
                await place.turn
        except BaseException as problem:
            self._step_out(tenant, place)
            if isinstance(problem, TimeoutError):
                raise (DeadlinePassed() if seconds < self.patience else self._too_slow()) from None
            raise
        return time.monotonic() - began

    def _check_line(self) -> None:
        expected = self.expected_wait()
        if self.waiting >= self._most_waiting:
            raise Shed("queue_full", expected)
        if expected > self.patience:
            raise Shed("too_slow", expected - self.patience)

    def _too_slow(self) -> Shed:
        return Shed("too_slow", self._mean_seconds)

    def _join(self, tenant: str, priority: int) -> Place:
        place = Place(priority, asyncio.get_running_loop().create_future())
        insort(self._lines.setdefault(tenant, []), place, key=lambda each: -each.priority)
        self.waiting += 1
        return place

    def _step_out(self, tenant: str, place: Place) -> None:
        """Gives up waiting. A turn that had just been given goes to the next one."""
        if place.turn.done() and not place.turn.cancelled():
            self._leave(tenant)
            return
        line = self._lines.get(tenant)
        if line is not None and place in line:
            line.remove(place)
            self.waiting -= 1
            if not line:
                del self._lines[tenant]

    def _leave(self, tenant: str) -> None:
        self.running -= 1
        self._has[tenant] -= 1
        if not self._has[tenant]:
            del self._has[tenant]
        while self._hand_out():
            pass

    def _hand_out(self) -> bool:
        """A turn for the next tenant in line that may have one; its other requests go to the end."""
        for tenant, line in self._lines.items():
            if not self._may_enter(tenant):
                continue
            place = line.pop(0)
            self.waiting -= 1
            del self._lines[tenant]
            if line:
                self._lines[tenant] = line
            if not place.turn.done():
                self._give_turn(tenant)
                place.turn.set_result(None)
            return True
        return False


class Shed(ApiError):
    def __init__(self, reason: str, retry_after: float) -> None:
        super().__init__(
            503, "the server is busy; try again later", code="overloaded", retry_after=max(1.0, retry_after)
        )
        self.reason = reason


class DeadlinePassed(ApiError):
    def __init__(self) -> None:
        super().__init__(504, "the request's deadline passed while it waited for its turn", code="timed-out")
