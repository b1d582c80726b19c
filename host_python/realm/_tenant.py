"""Tenants in the core: their numbers, what they may use together, and what they have used."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ._errors import error
from ._library import check, ffi, library, new_error
from ._options import ResourceLimits

if TYPE_CHECKING:
    from ._engine import Engine

OWN = 1 << 63  # numbers from here on belong to realms that are tenants of their own
NAMED = 1 << 62  # and from here on to managers


@dataclass(frozen=True)
class TenantStats:
    """What a tenant uses now, and has used since it came."""

    running: int = 0  # requests that compute
    queued: int = 0  # requests that wait for a place
    sessions: int = 0
    kv_tokens: int = 0
    requests: int = 0
    tokens_prompt: int = 0
    tokens_generated: int = 0
    waited_seconds: float = 0.0  # of all requests, before their first row was computed
    retry_after: float = 0.0  # seconds until the rates allow new work
    refused: dict[str, int] = field(default_factory=dict)  # work that failed, by the limit


def tenant_number(engine: Engine, tenant: int | None) -> int:
    """Realms share prefixes and limits only when the application says they belong to one tenant."""
    if tenant is None:
        return OWN | engine.take_serial()
    if not isinstance(tenant, int) or not 0 < tenant < OWN:  # 0 is the host itself
        raise error("invalid-argument", f"tenant must be a whole number from 1 to 2**63 - 1, not {tenant!r}")
    return tenant


def set_tenant_limits(engine: Engine, tenant: int, limits: ResourceLimits) -> None:
    native = ffi.new("realm_tenant_limits *")
    native.weight = limits.weight
    native.concurrent_requests = limits.concurrent_requests
    native.queue_length = limits.queue_length
    native.context_length = limits.context_length
    native.kv_tokens = limits.kv_tokens
    native.tokens_per_second = limits.tokens_per_second
    native.tokens_per_minute = limits.tokens_per_minute
    err = new_error()
    check(library().realm_tenant_set_limits(engine.runtime, tenant, native, err), err, "setting limits")


def context_limits(limits: ResourceLimits) -> Any:
    """What belongs to one realm alone, whoever else is of its tenant."""
    return {
        "sessions": limits.sessions,
        "tickets": limits.tickets,
        "tensor_bytes": limits.tensor_bytes,
    }


def tenant_stats(engine: Engine, tenant: int) -> TenantStats:
    native = ffi.new("realm_tenant_stats *")
    library().realm_tenant_get_stats(engine.runtime, tenant, native)
    return TenantStats(
        running=native.running,
        queued=native.queued,
        sessions=native.sessions,
        kv_tokens=native.kv_tokens,
        requests=native.requests,
        tokens_prompt=native.tokens_prompt,
        tokens_generated=native.tokens_generated,
        waited_seconds=native.waited_ns / 1e9,
        retry_after=native.retry_after_ns / 1e9,
        refused=refusals(engine, tenant) if native.refused else {},
    )


def refusals(engine: Engine, tenant: int) -> dict[str, int]:
    counts = {}
    kind = 1
    while name := ffi.string(library().realm_limit_name(kind)).decode():
        count = int(library().realm_tenant_refused(engine.runtime, tenant, kind))
        if count:
            counts[name] = count
        kind += 1
    return counts
