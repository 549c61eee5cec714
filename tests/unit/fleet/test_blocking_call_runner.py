"""Tests of blocking calls with a deadline: calls that hang, and calls after them."""

import asyncio
import threading

import pytest

from gateway.fleet.blocking_call_runner import BlockingCallRunner


async def test_a_call_after_one_that_hangs_returns_its_own_result() -> None:
    runner, released = BlockingCallRunner[str](), threading.Event()

    def old() -> str:
        assert released.wait(20)
        return "old"

    try:
        with pytest.raises(TimeoutError):
            await runner.run(old, 0.05)
        later = asyncio.create_task(runner.run(lambda: "new", 20))
        await asyncio.sleep(0.05)
        assert not later.done()  # the two functions do not run at the same time
    finally:
        released.set()
    assert await later == "new"
