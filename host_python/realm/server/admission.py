"""Who may enter the engine: a fixed number of generations at once, the rest waits, tenant by tenant in
turn.

Load is shed by time, not by length: a request that would wait longer than `patience`, judged by how long
generations have been taking, is turned away at once, and one that did wait so long is turned away then.
Shares between those inside are the engine's business.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from .errors import ApiError

SMOOTHING = 0.1  # weight of the newest generation in the mean time


class Admission:
    def __init__(self, running: int, waiting: int, patience: float) -> None:
        self.capacity = running
        self.running = 0
        self.waiting = 0
        self.patience = patience
        self._most_waiting = waiting
        self._mean_seconds = 0.0
        self._lines: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()  # the next tenant first

    def expected_wait(self) -> float:
        """Seconds until a request that comes now would get its turn."""
        if self.running < self.capacity:
            return 0.0
        return self._mean_seconds * (self.waiting + 1) / self.capacity

    @asynccontextmanager
    async def turn(self, tenant: str) -> AsyncIterator[float]:
        """Yields how long it waited. Raises 503 instead of keeping anybody too long."""
        waited = await self._enter(tenant)
        began = time.monotonic()
        try:
            yield waited
        finally:
            seconds = time.monotonic() - began
            self._mean_seconds += (seconds - self._mean_seconds) * (SMOOTHING if self._mean_seconds else 1.0)
            self._leave()

    async def _enter(self, tenant: str) -> float:
        if self.running < self.capacity:
            self.running += 1
            return 0.0
        expected = self.expected_wait()
        if self.waiting >= self._most_waiting:
            raise Shed("queue_full", expected)
        if expected > self.patience:
            raise Shed("too_slow", expected - self.patience)
        began = time.monotonic()
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lines.setdefault(tenant, deque()).append(place)
        self.waiting += 1
        try:
            async with asyncio.timeout(self.patience):
                await place
        except BaseException as problem:
            self._step_out(tenant, place)
            if isinstance(problem, TimeoutError):
                raise Shed("too_slow", self._mean_seconds) from None
            raise
        return time.monotonic() - began

    def _step_out(self, tenant: str, place: asyncio.Future[None]) -> None:
        """Gives up waiting. A turn that had just been given goes to the next one."""
        if place.done() and not place.cancelled():
            self._leave()
            return
        line = self._lines.get(tenant)
        if line is not None and place in line:
            line.remove(place)
            self.waiting -= 1
            if not line:
                del self._lines[tenant]

    def _leave(self) -> None:
        """Hands the turn to the next tenant in line; its other requests go to the end."""
        while self._lines:
            tenant, line = self._lines.popitem(last=False)
            place = line.popleft()
            self.waiting -= 1
            if line:
                self._lines[tenant] = line
            if not place.done():
                place.set_result(None)
                return
        self.running -= 1


class Shed(ApiError):
    def __init__(self, reason: str, retry_after: float) -> None:
        super().__init__(
            503, "the server is busy; try again later", code="overloaded", retry_after=max(1.0, retry_after)
        )
        self.reason = reason
