"""RealmManager and the limits of tenants in Python: errors that say what to do, changes at run time."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
from realm import LimitError, RealmError, RealmManager, ResourceLimits

VECTORS = Path(__file__).parents[1] / "vectors"
CHAIN, MISTRAL = VECTORS / "model-chain.gguf", VECTORS / "model-mistral.gguf"


@pytest.fixture
def manager() -> Iterator[RealmManager]:
    with RealmManager(CHAIN, threads=1, max_realms=3) as made:
        yield made


def refused(error: pytest.ExceptionInfo[LimitError]) -> tuple[str | None, int | None]:
    return error.value.limit, error.value.value


def test_realms_are_found_by_their_tenant(manager: RealmManager) -> None:
    alice = manager.create("alice")
    assert manager.get("alice") is alice is manager.get_or_create("alice")
    assert "alice" in manager and len(manager) == 1 and manager.ids() == ["alice"]
    manager.close("alice")
    assert alice.closed and "alice" not in manager
    for call in (manager.get, manager.close, manager.stats):
        with pytest.raises(RealmError) as caught:
            call("alice")
        assert caught.value.code == "not-found"
    manager.create("bob")
    with pytest.raises(RealmError, match="already"):
        manager.create("bob")
    with pytest.raises(RealmError, match="not empty"):
        manager.create("")


def test_there_are_only_so_many_realms(manager: RealmManager) -> None:
    for name in "abc":
        manager.create(name)
    with pytest.raises(LimitError) as caught:
        manager.create("d")
    assert refused(caught) == ("max_realms", 3)
    manager.close("a")
    manager.create("d")


def test_a_limit_names_itself_and_can_be_changed(manager: RealmManager) -> None:
    realm = manager.create("alice", ResourceLimits(kv_tokens=10))
    with pytest.raises(LimitError, match="10 KV tokens") as caught:
        realm.generate("ab", max_tokens=50, temperature=0, ignore_end=True)
    assert refused(caught) == ("kv_tokens", 10)
    assert caught.value.retry_after is None
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.code, again.limit, again.value) == ("limit-exceeded", "kv_tokens", 10)
    manager.set_limits("alice", ResourceLimits())
    made = realm.generate("ab", max_tokens=20, temperature=0, ignore_end=True)
    assert len(made.tokens) == 20
    stats = manager.stats("alice")
    assert stats.refused == {"kv_tokens": 1}
    assert stats.tokens_generated >= 20 and stats.running == 0
    assert manager.stats() == {"alice": manager.stats("alice")}


def test_a_rate_says_when_to_come_back_and_outlives_the_realm(manager: RealmManager) -> None:
    limits = ResourceLimits(tokens_per_minute=30)
    for name in ("alice", "bob"):
        manager.create(name, limits)
    manager.get("alice").generate("ab", max_tokens=30, temperature=0, ignore_end=True)
    for _ in range(2):
        with pytest.raises(LimitError, match="30 tokens a minute") as caught:
            manager.get("alice").generate("ab", max_tokens=5)
        assert refused(caught) == ("tokens_per_minute", 30)
        assert caught.value.retry_after is not None and 0 < caught.value.retry_after < 60
        manager.close("alice")
        manager.create("alice", limits)
    manager.get("bob").generate("ab", max_tokens=5)
    assert manager.stats("alice").retry_after > 0 == manager.stats("bob").retry_after


def test_places_and_queues(manager: RealmManager) -> None:
    realm = manager.create("alice", ResourceLimits(concurrent_requests=1, tokens_per_minute=5))
    running = realm.stream("ab", max_tokens=200, temperature=0, ignore_end=True)
    next(running)
    with pytest.raises(LimitError) as caught:
        realm.generate("ab", max_tokens=5)
    assert caught.value.limit in ("concurrent_requests", "tokens_per_minute")
    manager.set_limits("alice", ResourceLimits(concurrent_requests=1))
    with pytest.raises(LimitError) as caught:
        for _ in range(50):  # the first one may be through by now
            running = realm.stream("ab", max_tokens=200, temperature=0, ignore_end=True)
            realm.generate("ab", max_tokens=5)
    assert refused(caught) == ("concurrent_requests", 1)
    running.close()


def test_a_deadline_is_an_error_of_its_own(manager: RealmManager) -> None:
    realm = manager.create("alice", ResourceLimits(tokens_per_minute=20))
    with pytest.raises(LimitError, match="deadline") as caught:
        realm.generate("ab", max_tokens=100, temperature=0, ignore_end=True, deadline=0.2)
    assert refused(caught) == ("deadline", 199) or refused(caught) == ("deadline", 200)
    for setting in ({"deadline": 0}, {"deadline": "soon"}, {"priority": -1}):
        with pytest.raises(RealmError) as wrong:
            realm.generate("ab", max_tokens=5, **setting)
        assert wrong.value.code == "invalid-argument"


def test_models_and_guests_a_tenant_may_use(manager: RealmManager) -> None:
    realm = manager.create("alice", ResourceLimits(models=("model-chain",)))
    with pytest.raises(LimitError, match="model-mistral") as caught:
        realm.load_model(MISTRAL)
    assert caught.value.limit == "models"
    with pytest.raises(LimitError, match="guest modules") as caught:
        manager.load_guest("alice", b"\0asm\1\0\0\0")
    assert caught.value.limit == "own_guest"
    manager.set_limits("alice", ResourceLimits(own_guest=True))
    realm.load_model(MISTRAL)
    guest = manager.load_guest("alice", b"\0asm\1\0\0\0")
    assert guest.exports == []
    manager.close("alice")
    with pytest.raises(RealmError, match="closed"):
        guest.call_function("run")


def test_a_closed_manager_makes_no_realms(manager: RealmManager) -> None:
    realm = manager.create("alice")
    manager.shut_down()
    assert realm.closed
    with pytest.raises(RealmError) as caught:
        manager.create("alice")
    assert caught.value.code == "closed"
