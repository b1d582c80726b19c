"""Circuit breakers, one for each model and one for each tenant.

After several faults in a row (a model whose device is lost, a tenant whose guest traps; never a request that
was wrong) requests get 503 at once for a while; then they are let through, and the first end decides.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pybreaker

from .errors import ApiError, fault_of
from .logs import Log
from .metrics import OTHER, Metrics

FAULTS = 5
REST_SECONDS = 15.0
MOST = 10_000  # breakers kept; those that are closed are forgotten first


class Breakers:
    def __init__(self, metrics: Metrics, log: Log, faults: int = FAULTS, rest: float = REST_SECONDS) -> None:
        self._metrics = metrics
        self._log = log
        self._faults = faults
        self._rest = rest
        self._breakers: dict[tuple[str, str], Breaker] = {}

    def check(self, kind: str, name: str) -> None:
        """Raises 503 while the breaker is open."""
        breaker = self._breakers.get((kind, name))
        if breaker is None or breaker.current_state != pybreaker.STATE_OPEN:
            return
        left = breaker.rest_left()
        if left <= 0:
            breaker.half_open()
            return
        raise ApiError(
            503,
            f"this {kind} failed several times in a row and rests",
            code="circuit_open",
            retry_after=left,
        )

    def report(self, kind: str, name: str, problem: BaseException | None) -> None:
        """How a generation ended. A wrong request or a client that left says nothing of the model."""
        key = (kind, name)
        fault = problem is not None and fault_of(problem) == kind
        if not fault and (problem is not None or key not in self._breakers):
            return
        breaker = self._breakers.get(key) or self._make(kind, name)
        try:
            breaker.call(_raise, problem if fault else None)
        except pybreaker.CircuitBreakerError:
            pass  # it opened by this fault, or was open
        except Exception as raised:
            if raised is not problem:
                raise

    def _make(self, kind: str, name: str) -> Breaker:
        if len(self._breakers) >= MOST:
            for key in [key for key, item in self._breakers.items() if item.current_state == "closed"]:
                del self._breakers[key]
        made = self._breakers[kind, name] = Breaker(self._faults, self._rest, _Listener(self, kind, name))
        return made

    def changed(self, kind: str, name: str, state: str) -> None:
        self._log.warning("circuit breaker", kind=kind, name=name, state=state)
        label = self._metrics.tenant(name) if kind == "tenant" else name
        if label != OTHER:
            self._metrics.breaker_open.labels(kind, label).set(state == pybreaker.STATE_OPEN)


class Breaker(pybreaker.CircuitBreaker):
    def __init__(self, faults: int, rest: float, listener: pybreaker.CircuitBreakerListener) -> None:
        self._storage = pybreaker.CircuitMemoryStorage(pybreaker.STATE_CLOSED)
        super().__init__(faults, rest, listeners=[listener], state_storage=self._storage)
        self._rest = rest

    def rest_left(self) -> float:
        """Seconds until an open breaker lets a request through."""
        opened = self._storage.opened_at
        return self._rest - (datetime.now(UTC) - opened).total_seconds() if opened else 0.0


class _Listener(pybreaker.CircuitBreakerListener):
    def __init__(self, breakers: Breakers, kind: str, name: str) -> None:
        self._breakers, self._kind, self._name = breakers, kind, name

    def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
        self._breakers.changed(self._kind, self._name, new_state.name)


def _raise(problem: BaseException | None) -> None:
    if problem is not None:
        raise problem
