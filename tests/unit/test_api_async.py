"""The asyncio side of Realm: same results, a loop that never blocks, cancellation that reaches the guest."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from realm import ClosedError, Realm, RealmError, _engine

from tests.unit.long_model import long_model

VECTORS = Path(__file__).parents[1] / "vectors"
CHAIN = VECTORS / "model-chain.gguf"
WHOLE_CHAIN = " one two, three. fourEND five"


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, timeout=60))


def test_agenerate_astream_achat() -> None:
    async def main() -> None:
        with Realm(CHAIN) as realm:
            made = await realm.agenerate("1", temperature=0)
            assert (made.text, made.finish_reason) == (WHOLE_CHAIN, "end")
            assert "".join([piece async for piece in realm.astream("1", temperature=0)]) == WHOLE_CHAIN
            messages = [{"role": "user", "content": "1"}]
            assert (await realm.achat(messages, temperature=0)).text == "Hi there!"
            assert (
                "".join([piece async for piece in realm.achat_stream(messages, temperature=0)]) == "Hi there!"
            )

    run(main())


def test_many_requests_at_once() -> None:
    async def main() -> None:
        with Realm(CHAIN) as first, Realm(CHAIN) as second:
            tasks = [realm.agenerate("1", temperature=0) for realm in (first, second) for _ in range(20)]
            assert {made.text for made in await asyncio.gather(*tasks)} == {WHOLE_CHAIN}

    run(main())


def test_errors_arrive_in_the_task() -> None:
    async def main() -> None:
        with Realm(CHAIN) as realm:
            for wrong in ({"temperature": -1}, {"max_tokens": 0}):
                with pytest.raises(RealmError) as caught:
                    await realm.agenerate("1", **wrong)
                assert caught.value.code == "invalid-argument"
            with pytest.raises(RealmError) as caught:
                await realm.agenerate("1" * 1000)
            assert caught.value.code == "context-full"
        with pytest.raises(ClosedError):
            await realm.agenerate("1")

    run(main())


def test_the_event_loop_goes_on_meanwhile(tmp_path: Path) -> None:
    async def main() -> None:
        with Realm(long_model(tmp_path)) as realm:
            task = asyncio.create_task(realm.agenerate("a", max_tokens=400, ignore_end=True))
            ticks, longest = 0, 0.0
            while not task.done():
                began = time.monotonic()
                await asyncio.sleep(0.001)
                longest = max(longest, time.monotonic() - began)
                ticks += 1
            assert (await task).finish_reason == "length"
            assert ticks > 3
            assert longest < 0.5

    run(main())


def test_cancelling_the_task_cancels_the_request(tmp_path: Path) -> None:
    async def main() -> None:
        with Realm(long_model(tmp_path)) as realm:
            engine = realm._engine
            task = asyncio.create_task(realm.agenerate("a", max_tokens=90_000, ignore_end=True))
            while not engine.run(lambda: bool(engine._requests)):
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            deadline = time.monotonic() + 10
            while engine.run(lambda: bool(engine._requests)):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)

    run(main())


def test_leaving_a_stream_cancels_it() -> None:
    async def main() -> None:
        with Realm(CHAIN) as realm:
            async with realm.astream("1", temperature=0) as stream:
                async for piece in stream:
                    assert piece
                    break
            assert (await realm.agenerate("1", temperature=0)).text == WHOLE_CHAIN

    run(main())


def test_a_loop_that_closes_during_a_request_harms_nobody(tmp_path: Path) -> None:
    with Realm(long_model(tmp_path)) as realm:

        async def main() -> None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(realm.agenerate("a", max_tokens=90_000, ignore_end=True), timeout=0.05)

        asyncio.run(main())
        assert len(realm.generate("a", max_tokens=2, ignore_end=True).tokens) == 2


def test_streams_that_end_in_the_middle_leave_the_others_whole(tmp_path: Path) -> None:
    """Events of many streams come to the loop together: those of one that was just left are for nobody."""

    async def read(realm: Realm, leaves: bool) -> str:
        text = ""
        async with realm.astream("ab", max_tokens=600, temperature=0, ignore_end=True) as stream:
            async for piece in stream:
                text += piece
                if leaves:
                    return ""
        return text

    async def main() -> None:
        with Realm(long_model(tmp_path)) as realm:
            whole = (await realm.agenerate("ab", max_tokens=600, temperature=0, ignore_end=True)).text
            texts = await asyncio.gather(*(read(realm, i % 2 == 0) for i in range(24)))
            assert texts == ["", whole] * 12
            assert not realm._engine.run(lambda: realm._engine._requests)

    run(main())


@pytest.mark.parametrize("asynchronous", [False, True])
def test_text_that_nobody_reads_stays_in_the_guests_buffer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    """And holds up nobody: the stream runs to its end, and another request meanwhile."""
    monkeypatch.setattr(_engine, "UNREAD_BYTES", 40)
    settings: dict[str, Any] = {"max_tokens": 4000, "temperature": 0, "ignore_end": True}

    async def main() -> None:
        with Realm(long_model(tmp_path)) as realm, Realm(CHAIN) as other:
            stream: Any = realm.astream("ab", **settings) if asynchronous else realm.stream("ab", **settings)
            text = await anext(stream) if asynchronous else next(stream)
            assert (await other.agenerate("1", temperature=0)).text == WHOLE_CHAIN
            deadline = time.monotonic() + 30
            while realm._engine.run(lambda: bool(realm._engine._requests)):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)
            held = stream._deliveries.qsize()
            pieces = [piece async for piece in stream] if asynchronous else list(stream)
            assert text + "".join(pieces) == realm.generate("ab", **settings).text
            assert held <= 6  # of pieces of some milliseconds each, among them the end

    run(main())
