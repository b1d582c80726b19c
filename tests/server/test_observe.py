"""What operators see: metrics, the dashboard made of them, spans of a request, health."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from realm.server.app import create_app, make_services
from realm.server.metrics import OTHER, Metrics
from realm.server.options import ServerOptions

from tests.server.live import LiveServer

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana-dashboard.json"
CHAT = {"model": "demo", "messages": [{"role": "user", "content": "What is the capital of France?"}]}


def sample(page: str, name: str, **labels: str) -> float:
    """One metric's value; labels are those it must have, in any order."""
    for line in page.splitlines():
        head, _, value = line.rpartition(" ")
        if head.partition("{")[0] == name and all(f'{key}="{text}"' in head for key, text in labels.items()):
            return float(value)
    return 0.0


def test_metrics_count_what_happened(server: LiveServer) -> None:
    def page() -> str:
        return server.get("/metrics").body.decode()

    before = page()
    usage = server.post("/v1/chat/completions", {**CHAT, "temperature": 0}).json()["usage"]
    server.post("/v1/chat/completions", {**CHAT, "model": "nothing"})
    after = page()

    def grew(name: str, **labels: str) -> float:
        return sample(after, name, **labels) - sample(before, name, **labels)

    assert grew("realm_tokens_total", kind="prompt", model="demo") == usage["prompt_tokens"]
    assert grew("realm_tokens_total", kind="generated", model="demo") == usage["completion_tokens"]
    assert grew("realm_generations_total", tenant="local", model="demo", outcome="end") == 1
    assert grew("realm_http_requests_total", route="/v1/chat/completions", status="200") == 1
    assert grew("realm_http_requests_total", route="/v1/chat/completions", status="404") == 1
    assert grew("realm_first_token_seconds_count", model="demo") == 1
    assert grew("realm_engine_rows_total") >= usage["completion_tokens"]
    assert sample(after, "realm_models_loaded") == 2


def test_labels_never_hold_what_clients_send(server: LiveServer) -> None:
    server.get("/v1/models/intruder")
    server.get("/intruder")
    server.post("/v1/completions", {"model": "intruder", "prompt": "intruder"})
    assert "intruder" not in server.get("/metrics").body.decode()


def test_tenants_beyond_the_first_share_a_label() -> None:
    metrics = Metrics(tenant_labels=3)
    names = [metrics.tenant(f"tenant-{n}") for n in range(1000)]
    assert len(set(names)) == 4 and names[3] == OTHER and metrics.tenant("tenant-1") == "tenant-1"


def test_every_metric_of_the_dashboard_exists(server: LiveServer) -> None:
    server.post("/v1/chat/completions", CHAT)
    page = server.get("/metrics").body.decode()
    families = set(re.findall(r"^# TYPE (\S+)", page, flags=re.M))
    there = families | {f"{name}_{part}" for name in families for part in ("bucket", "sum", "count", "total")}
    dashboard = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    named = {name for query in queries for name in re.findall(r"\b(?:realm|process)_\w+", query)}
    assert len(named) >= 15 and named <= there, named - there


# ---- spans ----


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def client(spans: InMemorySpanExporter, tmp_path: Path) -> Iterator[httpx2.AsyncClient]:
    """The application without sockets, its spans collected in memory."""
    options = ServerOptions(log_file=tmp_path / "log")
    services = make_services(options, SimpleSpanProcessor(spans))
    transport = httpx2.ASGITransport(app=create_app(services))
    yield httpx2.AsyncClient(transport=transport, base_url="http://localhost")
    services.tenants.close()
    services.models.close()
    services.logs.close()


BODY: dict[str, Any] = {**CHAT, "model": "realm-demo", "temperature": 0}
TRACE = "0af7651916cd43dd8448eb211c80319c"


async def test_spans_lead_from_the_caller_down_to_the_engine(
    client: httpx2.AsyncClient, spans: InMemorySpanExporter
) -> None:
    parent = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
    async with client:
        reply = await client.post("/v1/chat/completions", json=BODY, headers=parent)
    found = {span.name: span for span in spans.get_finished_spans()}
    http = found["POST /v1/chat/completions"]
    engine = found["engine"]
    assert set(found) == {http.name, "generation", "queue", "engine", "schedule", "prefill", "decode"}
    assert all(f"{span.context.trace_id:032x}" == TRACE for span in found.values())
    assert http.parent is not None and f"{http.parent.span_id:016x}" == "b7ad6b7169203331"
    assert parent_of(found["generation"]) == http.context.span_id
    for name in ("queue", "engine"):
        assert parent_of(found[name]) == found["generation"].context.span_id
    for name in ("schedule", "prefill", "decode"):
        assert parent_of(found[name]) == engine.context.span_id
    check_times([found[name] for name in ("queue", "engine")])
    parts = [found[name] for name in ("schedule", "prefill", "decode")]
    check_times(parts)
    assert times_of(engine)[0] <= times_of(parts[0])[0] and times_of(parts[-1])[1] == times_of(engine)[1]
    usage = reply.json()["usage"]
    work, prefill, decode = (dict(found[name].attributes or {}) for name in ("engine", "prefill", "decode"))
    assert prefill["realm.prompt_tokens"] == usage["prompt_tokens"]
    assert decode["realm.tokens"] == usage["completion_tokens"]
    assert (
        work["realm.steps"] == usage["completion_tokens"] + 1
    )  # the prompt gives the first, the last the end
    assert work["realm.rows"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert (
        0
        < float(str(work["realm.step_seconds"]))
        <= sum(end - start for start, end in map(times_of, parts)) / 1e9
    )
    assert (http.attributes or {})["http.response.status_code"] == 200
    assert "France" not in "".join(span.to_json() for span in found.values())


def times_of(span: ReadableSpan) -> tuple[int, int]:
    assert span.start_time is not None and span.end_time is not None
    return span.start_time, span.end_time


def check_times(spans: list[ReadableSpan]) -> None:
    """One after the other; what the scheduler and the executor took leaves no gap."""
    assert all(times_of(span)[0] <= times_of(span)[1] for span in spans)
    for before, after in zip(spans, spans[1:], strict=False):
        assert times_of(before)[1] <= times_of(after)[0]
        assert after.name == "engine" or times_of(before)[1] == times_of(after)[0]


def parent_of(span: ReadableSpan) -> int:
    assert span.parent is not None
    return span.parent.span_id


async def test_a_request_that_fails_marks_its_span(
    client: httpx2.AsyncClient, spans: InMemorySpanExporter
) -> None:
    async with client:
        await client.post("/v1/completions", json={"prompt": "word " * 3000, "model": "realm-demo"})
    found = {span.name: span for span in spans.get_finished_spans()}
    assert (found["POST /v1/completions"].attributes or {})["http.response.status_code"] == 400
    assert not found["generation"].status.is_ok
