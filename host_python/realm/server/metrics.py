"""Prometheus metrics, every one of them: names, labels, buckets.

Labels stay few: routes are templates, models are those loaded, and only the first tenants (--tenant-labels)
get a label of their own, the rest share `other`. No label ever holds what a client sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

OTHER = "other"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
GAP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)

EngineStats = Callable[[], Mapping[str, Any]]


class Metrics:
    def __init__(self, tenant_labels: int) -> None:
        self.registry = CollectorRegistry()
        self._tenant_labels = tenant_labels
        self._tenants: set[str] = set()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=self.registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=self.registry)

        def histogram(name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, text, labels, buckets=buckets, registry=self.registry)

        # HTTP
        self.http_requests = counter("realm_http_requests", "Answered requests.", "route", "status")
        self.http_seconds = histogram(
            "realm_http_request_seconds",
            "From a request's head to the end of its answer.",
            ("route",),
            SECONDS,
        )
        # generation
        self.generations = counter("realm_generations", "Ended generations.", "tenant", "model", "outcome")
        self.tokens = counter(
            "realm_tokens", "Tokens: kind is prompt or generated.", "tenant", "model", "kind"
        )
        self.queue_seconds = histogram(
            "realm_queue_seconds", "Waiting for a turn before the engine.", ("tenant",), SECONDS
        )
        self.first_token_seconds = histogram(
            "realm_first_token_seconds",
            "From the start in the engine to the first text.",
            ("tenant", "model"),
            SECONDS,
        )
        self.token_gap_seconds = histogram(
            "realm_token_gap_seconds", "Mean time between a generation's tokens.", ("model",), GAP_SECONDS
        )
        self.running = gauge("realm_generations_running", "Generations in the engine now.")
        self.waiting = gauge("realm_generations_waiting", "Generations waiting for their turn now.")
        # refusals
        self.refused = counter("realm_refused", "Requests refused by a limit.", "tenant", "limit")
        self.shed = counter("realm_shed", "Requests turned away: queue_full, too_slow, draining.", "reason")
        self.breaker_open = gauge("realm_breaker_open", "1: the circuit breaker is open.", "kind", "name")
        # the server itself
        self.models_loaded = gauge("realm_models_loaded", "Models in memory.")
        self.realms = gauge("realm_realms", "Realms (tenants with a guest).")
        self.log_lines_lost = gauge("realm_log_lines_lost", "Log lines that could not be written.")
        self.keys_problem = gauge(
            "realm_keys_file_problem", "1: the newest keys file is broken, the old one is in force."
        )

    def tenant(self, name: str) -> str:
        """The label of a tenant."""
        if name in self._tenants:
            return name
        if len(self._tenants) >= self._tenant_labels:
            return OTHER
        self._tenants.add(name)
        return name

    def watch_engine(self, stats: EngineStats) -> None:
        self.registry.register(EngineCollector(stats))

    def page(self) -> bytes:
        return generate_latest(self.registry)


class EngineCollector(Collector):
    """The core's own counters, read when somebody asks."""

    COUNTERS = {
        "steps": ("realm_engine_steps", "Batches computed.", 1.0),
        "rows": ("realm_engine_rows", "Token rows computed.", 1.0),
        "step_ns": ("realm_engine_busy_seconds", "Time spent computing.", 1e-9),
        "prefix_hits": ("realm_engine_prefix_tokens", "Prompt tokens found in the cache.", 1.0),
    }
    GAUGES = {
        "kv_bytes_used": ("realm_engine_kv_bytes", "KV cache in use."),
        "kv_bytes_limit": ("realm_engine_kv_bytes_limit", "KV cache budget."),
    }

    def __init__(self, stats: EngineStats) -> None:
        self._stats = stats

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        stats = self._stats()
        for key, (name, text, scale) in self.COUNTERS.items():
            yield CounterMetricFamily(name, text, value=stats.get(key, 0) * scale)
        for key, (name, text) in self.GAUGES.items():
            yield GaugeMetricFamily(name, text, value=stats.get(key, 0))
