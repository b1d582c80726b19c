"""Keys and tenants: the file, its changes, and the limits it sets, as clients feel them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from realm import RealmError
from realm.server.errors import ApiError
from realm.server.keys import Keys, add_key, read_keys, remove_key

from tests.server.live import LiveServer, in_threads, wait_until

# ---- the file ----


def test_a_key_opens_its_tenant_and_is_not_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    key = add_key(path, "alice")
    other = add_key(path, "bob")
    text = path.read_text()
    assert re.fullmatch(r"rk-[a-z0-9]{8}-[\w-]{43}", key)
    assert key not in text and key.rpartition("-")[2] not in text and key[12:] not in text
    assert path.stat().st_mode & 0o077 == 0
    keys = Keys(path)
    assert keys.tenant(f"Bearer {key}").name == "alice" and keys.tenant(f"bearer {other}").name == "bob"


def test_wrong_keys_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    key = add_key(path, "alice")
    keys = Keys(path)
    changed = key[:-1] + ("A" if key[-1] != "A" else "B")
    for wrong in (None, "", "Bearer", f"Basic {key}", f"Bearer {changed}", f"Bearer {key}x", "Bearer \ud800"):
        with pytest.raises(ApiError) as refused:
            keys.tenant(wrong)
        assert refused.value.status == 401 and "www-authenticate" in refused.value.headers


def test_removing_a_key_leaves_the_rest_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text("# mine\n[tenants.alice]\nweight = 2\n")
    first, second = add_key(path, "alice"), add_key(path, "alice")
    assert remove_key(path, first.split("-")[1]) == "alice"
    assert path.read_text().startswith("# mine\n[tenants.alice]\nweight = 2\n")
    assert list(read_keys(path).keys) == [second.split("-")[1]]
    with pytest.raises(RealmError, match="no key"):
        remove_key(path, "abcdefgh")


def test_limits_of_tenants(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(
        "[defaults]\ntokens_per_minute = 100\nweight = 3\n"
        '[tenants.alice]\nweight = 5\nmodels = ["demo"]\nadmin = true\n'
    )
    add_key(path, "alice"), add_key(path, "bob")
    tenants = read_keys(path).tenants
    alice, bob = tenants["alice"], tenants["bob"]
    assert (alice.limits.weight, alice.limits.tokens_per_minute, alice.admin) == (5, 100, True)
    assert (bob.limits.weight, bob.limits.tokens_per_minute, bob.admin) == (3, 100, False)
    assert alice.may_use("demo") and not alice.may_use("other") and bob.may_use("other")


@pytest.mark.parametrize(
    "text",
    [
        "[",
        "[tenant.alice]",
        "tenants = 3",
        "[tenants.alice]\nwieght = 2",
        "[tenants.alice]\nweight = -2",
        '[tenants.alice]\nweight = "2"',
        '[tenants."a b"]',
        '[tenants.alice]\nmodels = "demo"',
        '[tenants.alice]\nadmin = "yes"',
        '[[keys]]\nid = "x"',
        '[[keys]]\nid = "x"\ntenant = "t"\nsalt = "s"\nhash = "plain"',
        "a = " + "[" * 10_000,
    ],
)
def test_wrong_files_are_refused_with_a_reason(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    with pytest.raises(RealmError) as refused:
        read_keys(path)
    assert refused.value.code == "invalid-argument" and str(path) in refused.value.message


def test_a_broken_new_version_leaves_the_old_one_in_force(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("realm.server.keys.CHECK_SECONDS", 0.0)
    path = tmp_path / "keys.toml"
    key = add_key(path, "alice")
    keys = Keys(path)
    good = path.read_text()
    path.write_text("[")
    assert keys.refresh() and keys.problem and keys.tenant(f"Bearer {key}").name == "alice"
    path.unlink()
    keys.refresh()
    assert keys.problem and keys.tenant(f"Bearer {key}").name == "alice"
    path.write_text(good.replace('"alice"', '"carol"'))
    assert keys.refresh() and keys.problem is None and keys.tenant(f"Bearer {key}").name == "carol"


# ---- over HTTP ----

LIMITS = """
[tenants.admin]
admin = true
[tenants.slow]
tokens_per_minute = 60
[tenants.narrow]
concurrent_requests = 1
queue_length = 1
[tenants.short]
context_length = 32
[tenants.picky]
models = ["demo"]
"""


class Tenants:
    def __init__(self, path: Path, live: LiveServer, keys: dict[str, str]) -> None:
        self.path, self.live, self.keys = path, live, keys

    def post(self, tenant: str, path: str, body):
        return self.live.post(path, body, authorization=f"Bearer {self.keys[tenant]}")

    def get(self, tenant: str, path: str):
        return self.live.get(path, authorization=f"Bearer {self.keys[tenant]}")


@pytest.fixture(scope="module")
def tenants(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[Tenants]:
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    path.write_text(LIMITS)
    names = ("admin", "slow", "narrow", "short", "picky", "free", "gone")
    keys = {name: add_key(path, name) for name in names}
    demo = Path(__file__).parents[2] / "demo_model" / "realm-demo.gguf"
    models = ["-m", f"demo={demo}", "-m", f"endless={folder / 'long.gguf'}", "--models-dir", str(folder)]
    with LiveServer(*models, "--keys", str(path), key=keys["admin"]) as live:
        yield Tenants(path, live, keys)


def test_endpoints_need_a_key(tenants: Tenants) -> None:
    for method, path in [
        ("GET", "/v1/models"),
        ("GET", "/v1/stats"),
        ("GET", "/metrics"),
        ("POST", "/v1/generate"),
        ("POST", "/v1/chat/completions"),
        ("DELETE", "/v1/models/demo"),
    ]:
        reply = tenants.live.request(method, path, {}, {"authorization": "Bearer wrong"})
        assert reply.status == 401 and reply.error["code"] == "invalid_api_key"
    assert tenants.live.get("/healthz", authorization="").status == 200


def test_administration_needs_an_administrator(tenants: Tenants) -> None:
    assert tenants.get("free", "/metrics").status == 403
    assert tenants.post("free", "/v1/models/load", {"path": "copy.gguf"}).status == 403
    assert tenants.get("admin", "/metrics").status == 200


def test_a_rate_gives_429_and_says_when(tenants: Tenants) -> None:
    body = {"model": "endless", "prompt": "x", "max_tokens": 61, "ignore_eos": True}
    replies = [tenants.post("slow", "/v1/completions", body) for _ in range(3)]
    refused = next(reply for reply in replies if reply.status != 200)
    assert refused.status == 429 and refused.error["param"] == "tokens_per_minute"
    assert refused.error["type"] == "rate_limit_error" and int(refused.headers["retry-after"]) >= 1
    assert tenants.post("free", "/v1/completions", body).status == 200


def test_concurrency_gives_429_to_this_tenant_alone(tenants: Tenants) -> None:
    body = {"model": "endless", "prompt": "x", "max_tokens": 400, "ignore_eos": True}
    statuses = []

    def one(index: int) -> None:
        statuses.append(tenants.post("narrow", "/v1/completions", body).status)

    with in_threads(6, one) as problems:
        assert tenants.post("free", "/v1/completions", {**body, "max_tokens": 4}).status == 200
    assert not problems and set(statuses) <= {200, 429} and 429 in statuses and 200 in statuses


def test_a_tenants_context(tenants: Tenants) -> None:
    reply = tenants.post("short", "/v1/completions", {"model": "endless", "prompt": "word " * 100})
    assert reply.status == 400 and reply.error["param"] == "context_length"


def test_a_tenants_models(tenants: Tenants) -> None:
    assert [model["id"] for model in tenants.get("picky", "/v1/models").json()["data"]] == ["demo"]
    assert tenants.post("picky", "/v1/completions", {"model": "endless", "prompt": "x"}).status == 404
    assert tenants.get("picky", "/v1/models/endless").status == 404


def test_statistics_show_ones_own_tenant(tenants: Tenants) -> None:
    tenants.post("free", "/v1/completions", {"model": "demo", "prompt": "x"})
    tenants.post("picky", "/v1/completions", {"model": "demo", "prompt": "x"})
    assert set(tenants.get("free", "/v1/stats").json()["tenants"]) == {"free"}
    assert {"free", "picky"} <= set(tenants.get("admin", "/v1/stats").json()["tenants"])


def test_changes_of_the_file_hold_soon(tenants: Tenants) -> None:
    body = {"model": "demo", "prompt": "x", "max_tokens": 2}
    assert tenants.post("gone", "/v1/completions", body).status == 200
    remove_key(tenants.path, tenants.keys["gone"].split("-")[1])
    wait_until(lambda: tenants.post("gone", "/v1/completions", body).status == 401, "the key is gone")
    wait_until(lambda: "gone" not in tenants.live.stats()["tenants"], "its realm is gone")
    fresh = add_key(tenants.path, "fresh")
    tenants.keys["fresh"] = fresh
    wait_until(lambda: tenants.post("fresh", "/v1/completions", body).status == 200, "the new key works")
    text = tenants.path.read_text()
    tenants.path.write_text(text + "[tenants.fresh]\ncontext_length = 1\n")
    wait_until(lambda: tenants.post("fresh", "/v1/completions", body).status == 400, "the new limit holds")


def test_models_come_and_go(tenants: Tenants) -> None:
    loaded = tenants.post("admin", "/v1/models/load", {"path": "copy.gguf"})
    assert loaded.status == 201 and loaded.json()["id"] == "copy"
    assert tenants.post("admin", "/v1/models/load", {"path": "copy.gguf"}).status == 409
    body = {"model": "copy", "prompt": "The capital of", "max_tokens": 2}
    assert tenants.post("free", "/v1/completions", body).status == 200
    assert tenants.live.request("DELETE", "/v1/models/copy").status == 200
    assert tenants.post("free", "/v1/completions", body).status == 404
    assert tenants.live.request("DELETE", "/v1/models/copy").status == 404


def test_a_model_taken_away_ends_what_runs_on_it(tenants: Tenants) -> None:
    assert tenants.post("admin", "/v1/models/load", {"path": "long.gguf", "id": "taken"}).status == 201
    replies = []

    def one(index: int) -> None:
        body = {"model": "taken", "prompt": "x", "max_tokens": 90_000, "ignore_eos": True}
        replies.append(tenants.post("free", "/v1/completions", body))

    with in_threads(1, one) as problems:
        wait_until(lambda: tenants.live.stats()["server"]["running"] == 1, "it runs")
        time.sleep(0.1)
        assert tenants.live.request("DELETE", "/v1/models/taken").status == 200
    assert not problems and replies[0].status in (400, 503)
