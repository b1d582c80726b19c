"""The asyncio side of Realm: same results, a loop that never blocks, cancellation that reaches the guest."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from realm import ClosedError, Realm, RealmError

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
