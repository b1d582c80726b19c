"""What stands before the engine: TLS, pages of other origins, load that is shed, circuit breakers."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import ssl
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from realm import RealmError
from realm._errors import error, limit_error
from realm.server.admission import Admission, Shed
from realm.server.app import create_app, make_services
from realm.server.breakers import Breakers
from realm.server.errors import ApiError
from realm.server.keys import add_key
from realm.server.logs import Logs
from realm.server.metrics import Metrics
from realm.server.options import ServerOptions
from realm.server.run import check_tls
from realm.server.services import Services

from tests.server.live import LiveServer, in_threads, post_bytes, wait_until
from tests.server.test_lifecycle import realm

DEMO = Path(__file__).parents[2] / "demo_model" / "realm-demo.gguf"
ORIGIN = "https://app.example"

# ---- TLS ----


def openssl(folder: Path, *arguments: str) -> None:
    """Debian's ca-certificates brings the command."""
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=60)


def make_certificate(folder: Path, name: str, subject: str) -> None:
    openssl(
        folder, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
        "-keyout", f"{name}.key", "-out", f"{name}.pem", "-days", "2", "-subj", f"/CN={subject}",
        "-addext", "subjectAltName=IP:127.0.0.1",
    )  # fmt: skip


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server's certificate, a client's, and one that nobody asked for; each signs itself."""
    folder = tmp_path_factory.mktemp("tls")
    for name in ("server", "client", "stranger"):
        make_certificate(folder, name, name)
    return folder


@pytest.fixture(scope="module")
def secure(certificates: Path) -> Iterator[LiveServer]:
    files = ["--tls-cert", certificates / "server.pem", "--tls-key", certificates / "server.key"]
    files += ["--tls-client-ca", certificates / "client.pem"]
    with LiveServer(*map(str, files)) as live:
        yield live


def ask_securely(live: LiveServer, certificates: Path, trusts: str, shows: str | None) -> int:
    context = ssl.create_default_context(cafile=str(certificates / f"{trusts}.pem"))
    if shows:
        context.load_cert_chain(certificates / f"{shows}.pem", certificates / f"{shows}.key")
    connection = http.client.HTTPSConnection("127.0.0.1", live.port, timeout=30, context=context)
    with contextlib.closing(connection):
        connection.request("GET", "/v1/models")
        return connection.getresponse().status


def test_https_with_certificates_on_both_sides(secure: LiveServer, certificates: Path) -> None:
    assert ask_securely(secure, certificates, "server", "client") == 200


@pytest.mark.parametrize("shows", [None, "stranger"])
def test_clients_without_the_right_certificate_are_refused(
    secure: LiveServer, certificates: Path, shows: str | None
) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
        ask_securely(secure, certificates, "server", shows)


def test_a_client_that_does_not_know_the_server_says_so(secure: LiveServer, certificates: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        ask_securely(secure, certificates, "stranger", "client")


def test_plain_and_half_open_connections_do_no_harm_to_tls(secure: LiveServer, certificates: Path) -> None:
    with secure.connect() as silent, secure.connect() as half:
        half.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")  # a handshake that stops
        assert not secure.raw(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n").startswith(b"HTTP/1.1 2")
        assert ask_securely(secure, certificates, "server", "client") == 200
        assert silent.fileno() >= 0


@pytest.mark.parametrize(
    "cert, key, authority, named",
    [
        ("none.pem", "server.key", None, "none.pem"),
        ("server.pem", "client.key", None, "client.key"),
        ("server.key", "server.pem", None, "server.pem"),
        ("server.pem", "server.key", "client.key", "client.key"),
    ],
)
def test_certificates_that_cannot_be_used_are_named(
    certificates: Path, cert: str, key: str, authority: str | None, named: str
) -> None:
    options = ServerOptions(
        tls_certificate=certificates / cert,
        tls_key=certificates / key,
        tls_client_ca=certificates / authority if authority else None,
    )
    with pytest.raises(RealmError, match=named) as refused:
        check_tls(options)
    assert refused.value.code == "invalid-argument" and "\n" not in refused.value.message


def test_the_command_checks_certificates_first(certificates: Path) -> None:
    cert, key = str(certificates / "none.pem"), str(certificates / "server.key")
    done = realm("serve", "-m", "none.gguf", "--tls-cert", cert, "--tls-key", key)
    assert done.returncode == 1 and cert in done.stderr and len(done.stderr.splitlines()) == 1


# ---- pages of other origins ----


@pytest.fixture(scope="module")
def open_server() -> Iterator[LiveServer]:
    with LiveServer(
        "--cors-origin", ORIGIN, "--running", "1", "--waiting", "2", "--queue-seconds", "1"
    ) as live:
        yield live


def preflight(live: LiveServer, origin: str) -> Any:
    headers = {"origin": origin, "access-control-request-method": "POST"}
    headers["access-control-request-headers"] = "authorization, content-type"
    return live.request("OPTIONS", "/v1/chat/completions", headers=headers)


def test_pages_of_the_named_origin_may_call(open_server: LiveServer) -> None:
    asked = preflight(open_server, ORIGIN)
    assert asked.status == 200 and asked.headers["access-control-allow-origin"] == ORIGIN
    assert "POST" in asked.headers["access-control-allow-methods"]
    answer = open_server.get("/v1/models", origin=ORIGIN)
    assert answer.status == 200 and answer.headers["access-control-allow-origin"] == ORIGIN
    wrong = open_server.request("POST", "/v1/generate", {"prompt": 1}, {"origin": ORIGIN})
    assert wrong.status == 400 and wrong.headers["access-control-allow-origin"] == ORIGIN
    long = open_server.request("POST", "/v1/generate", b" " * (2 << 20), {"origin": ORIGIN})
    assert long.status == 413 and long.headers["access-control-allow-origin"] == ORIGIN


def test_pages_of_other_origins_may_not(open_server: LiveServer, server: LiveServer) -> None:
    for live in (open_server, server):
        for origin in ("https://evil.example", "null", f"{ORIGIN}.evil.example"):
            refused = preflight(live, origin)
            assert refused.status in (400, 405)
            assert "access-control-allow-origin" not in refused.headers
            assert "access-control-allow-origin" not in live.get("/v1/models", origin=origin).headers
    assert "access-control-allow-origin" not in preflight(server, ORIGIN).headers  # off unless set


# ---- load that is shed ----


def test_turns_go_round_the_tenants_and_priorities_count_within_one() -> None:
    async def run() -> list[str]:
        admission = Admission(running=1, waiting=100, patience=60)
        order: list[str] = []

        async def one(tenant: str, name: str, priority: int = 0) -> None:
            async with admission.turn(tenant, priority):
                order.append(name)
                await asyncio.sleep(0)

        wanted = [("a", "a1"), ("a", "a2"), ("a", "a3", 7), ("b", "b1"), ("b", "b2"), ("c", "c1")]
        async with admission.turn("x", 0):
            tasks = [asyncio.create_task(one(*each)) for each in wanted]  # type: ignore[arg-type]
            await asyncio.sleep(0)
            assert admission.waiting == len(wanted)
        await asyncio.gather(*tasks)
        assert (admission.running, admission.waiting) == (0, 0)
        return order

    assert asyncio.run(run()) == ["a3", "b1", "c1", "a1", "b2", "a2"]


def test_who_would_wait_too_long_is_turned_away() -> None:
    async def run() -> None:
        admission = Admission(running=1, waiting=2, patience=0.05)
        async with admission.turn("slow", 0):
            began = time.monotonic()
            with pytest.raises(Shed) as shed:  # nothing is known yet: it waits as long as it may
                async with admission.turn("a", 0):
                    pass
            assert shed.value.reason == "too_slow" and time.monotonic() - began >= 0.04
        assert admission.expected_wait() == 0.0  # nobody is there
        async with admission.turn("slow", 0):
            began = time.monotonic()
            with pytest.raises(Shed) as shed:  # the last one took longer than it may wait
                async with admission.turn("a", 0):
                    pass
            assert shed.value.headers["retry-after"] and time.monotonic() - began < 0.04
        assert (admission.running, admission.waiting) == (0, 0)

    asyncio.run(run())


def test_the_line_is_bounded_and_leaving_it_keeps_the_count() -> None:
    async def run() -> None:
        admission = Admission(running=1, waiting=2, patience=60)

        async def wait() -> None:
            async with admission.turn("a", 0):
                pass

        async with admission.turn("x", 0):
            waiting = [asyncio.create_task(wait()) for _ in range(2)]
            await asyncio.sleep(0)
            with pytest.raises(Shed) as shed:
                await wait()
            assert shed.value.reason == "queue_full" and shed.value.status == 503
            waiting[0].cancel()
            await asyncio.gather(waiting[0], return_exceptions=True)
            assert admission.waiting == 1
        await waiting[1]
        assert (admission.running, admission.waiting) == (0, 0)

    asyncio.run(run())


@pytest.mark.parametrize(("shared", "most"), [(True, [6, 1, 1]), (False, [8, 0, 0])])
def test_one_tenant_never_has_all_turns(shared: bool, most: list[int]) -> None:
    """Eight turns: a flood of one leaves room for those that come later; what they leave free it may have."""

    async def run() -> None:
        admission = Admission(running=8, waiting=100, patience=60, shared=shared)
        inside: Counter[str] = Counter()

        async def stay(tenant: str, end: asyncio.Event) -> None:
            async with admission.turn(tenant):
                inside[tenant] += 1
                await end.wait()
                inside[tenant] -= 1

        end, tasks = {name: asyncio.Event() for name in "abc"}, []
        for name, count in (("a", 20), ("b", 1), ("c", 1)):
            tasks += [asyncio.create_task(stay(name, end[name])) for _ in range(count)]
            await asyncio.sleep(0.01)
        assert [inside[name] for name in "abc"] == most
        end["a"].set()
        await asyncio.sleep(0.01)
        assert (inside["a"], inside["b"], inside["c"]) == (0, 1, 1)
        for name in "bc":
            end[name].set()
        await asyncio.gather(*tasks)
        assert (admission.running, admission.waiting, dict(admission._has)) == (0, 0, {})

    asyncio.run(run())


def test_a_busy_server_says_when_to_come_back(tmp_path: Path, folder: Path) -> None:
    arguments = ["--running", "1", "--waiting", "1", "--queue-seconds", "0.3"]
    body = {"prompt": "x", "max_tokens": 90_000, "ignore_eos": True}
    with LiveServer("-m", f"endless={folder / 'long.gguf'}", *arguments) as live:
        with live.connect() as runs:
            runs.sendall(post_bytes("/v1/completions", {**body, "stream": True}))
            wait_until(lambda: live.stats()["server"]["running"] == 1, "it runs")
            replies = []
            with in_threads(4, lambda _: replies.append(live.post("/v1/completions", body))) as problems:
                pass
            assert not problems and len(replies) == 4
            for reply in replies:
                assert reply.status == 503 and int(reply.headers["retry-after"]) >= 1
                assert reply.error["code"] == "overloaded" and reply.error["type"] == "overloaded_error"
            late = live.post("/v1/completions", {**body, "deadline": 0.05})
            assert late.status == 504 and late.error["code"] == "timed-out"
            page = live.get("/metrics").body.decode()
            assert 'realm_shed_total{reason="queue_full"}' in page
            assert 'realm_shed_total{reason="too_slow"}' in page
        wait_until(lambda: live.stats()["server"]["running"] == 0, "it ended")
        assert live.post("/v1/completions", {**body, "max_tokens": 2}).status == 200


# ---- circuit breakers ----


@pytest.fixture
def breakers(tmp_path: Path) -> Iterator[tuple[Breakers, Metrics]]:
    logs, metrics = Logs(tmp_path / "log"), Metrics(10)
    yield Breakers(metrics, logs.log, faults=3, rest=0.2), metrics
    logs.close()


def is_open(breakers: Breakers, kind: str, name: str) -> bool:
    try:
        breakers.check(kind, name)
    except ApiError as problem:
        assert problem.status == 503 and problem.code == "circuit_open"
        assert int(problem.headers["retry-after"]) >= 1
        return True
    return False


TRAP = error("guest-trap", "unreachable")
LOST = error("device-lost", "gone")
NOT_FAULTS = [
    error("invalid-argument", "x"),
    limit_error("limit-exceeded", "x", "tokens_per_minute", 1, 2.0),
    error("context-full", "x"),
    error("closed", "x"),
    error("template-error", "x"),
    ApiError(404, "x"),
    asyncio.CancelledError(),
]


def test_faults_open_the_breaker_of_their_own_kind(breakers: tuple[Breakers, Metrics]) -> None:
    found, metrics = breakers
    for kind, name, problem in (("tenant", "eve", TRAP), ("model", "demo", LOST)):
        for _ in range(3):
            assert not is_open(found, kind, name)
            found.report("tenant", "eve", problem)
            found.report("model", "demo", problem)
        assert is_open(found, kind, name)
        assert metrics.registry.get_sample_value("realm_breaker_open", {"kind": kind, "name": name}) == 1
        if kind == "tenant":  # eve's traps say nothing of a model that others use
            assert not is_open(found, "model", "demo")
    assert not is_open(found, "tenant", "bob") and not is_open(found, "model", "other")


def test_wrong_requests_and_lone_faults_open_nothing(breakers: tuple[Breakers, Metrics]) -> None:
    found, _ = breakers
    for problem in NOT_FAULTS * 3:
        found.report("tenant", "bob", problem)
        found.report("model", "demo", problem)
    for _ in range(10):
        found.report("model", "demo", LOST)
        found.report("model", "demo", LOST)
        found.report("model", "demo", None)  # it works again: the count begins anew
    assert not is_open(found, "tenant", "bob") and not is_open(found, "model", "demo")


def test_after_a_rest_the_next_end_decides(breakers: tuple[Breakers, Metrics]) -> None:
    found, metrics = breakers
    for _ in range(3):
        found.report("model", "demo", LOST)
    for problem, still_open in ((LOST, True), (None, False)):
        assert is_open(found, "model", "demo")
        time.sleep(0.25)
        assert not is_open(found, "model", "demo")
        found.report("model", "demo", problem)
        assert is_open(found, "model", "demo") is still_open
    assert metrics.registry.get_sample_value("realm_breaker_open", {"kind": "model", "name": "demo"}) == 0


@pytest.fixture
def services(tmp_path: Path) -> Iterator[tuple[Services, dict[str, str]]]:
    path = tmp_path / "keys.toml"
    keys = {name: add_key(path, name) for name in ("alice", "eve")}
    made = make_services(ServerOptions(log_file=tmp_path / "log", keys_file=path))
    yield made, keys
    made.tenants.close()
    made.models.close()
    made.logs.close()


async def test_requests_meet_open_breakers(
    services: tuple[Services, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, keys = services
    good = made.tenants.realm
    problem: dict[str, RealmError] = {"eve": TRAP}

    async def realm_of(tenant: Any, model: Any) -> Any:
        if tenant.name in problem:
            raise problem[tenant.name]
        return await good(tenant, model)

    monkeypatch.setattr(made.tenants, "realm", realm_of)
    transport = httpx2.ASGITransport(app=create_app(made))
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:

        async def ask(tenant: str) -> tuple[int, Any]:
            headers = {"authorization": f"Bearer {keys[tenant]}"}
            body = {"prompt": "The capital of", "max_tokens": 2}
            reply = await client.post("/v1/completions", json=body, headers=headers)
            return reply.status_code, (reply.json().get("error") or {}).get("code")

        assert [await ask("eve") for _ in range(6)] == [(500, "guest-trap")] * 5 + [(503, "circuit_open")]
        assert (await ask("alice"))[0] == 200  # the model is not to blame
        problem["eve"] = problem["alice"] = LOST
        assert [await ask("alice") for _ in range(6)] == [(503, "device-lost")] * 5 + [(503, "circuit_open")]
