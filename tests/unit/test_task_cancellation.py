"""Tests whether cancelled work gets a limited time to complete."""

import asyncio

import pytest

from gateway.task_cancellation import complete


class Work:
    """Work that waits for an event."""

    def __init__(self) -> None:
        self.proceed = asyncio.Event()
        self.outcome = ""

    async def run(self) -> str:
        try:
            await self.proceed.wait()
            self.outcome = "completed"
        except asyncio.CancelledError:
            self.outcome = "cancelled"
            raise
        return self.outcome


async def start(work: Work, grace: float) -> "asyncio.Task[str]":
    task = asyncio.ensure_future(complete(work.run(), grace))
    await asyncio.sleep(0.01)
    return task


async def test_the_result_is_returned() -> None:
    work = Work()
    work.proceed.set()
    assert await complete(work.run(), 0.0) == "completed"


async def test_an_error_is_raised() -> None:
    async def fail() -> None:
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        await complete(fail(), 0.0)


async def test_work_completes_after_a_cancellation() -> None:
    work = Work()
    task = await start(work, 60.0)
    task.cancel()
    await asyncio.sleep(0.01)
    assert not task.done()
    work.proceed.set()
    await asyncio.wait({task})
    assert (task.cancelled(), work.outcome) == (True, "completed")


async def test_work_that_takes_longer_is_cancelled() -> None:
    work = Work()
    task = await start(work, 0.01)
    task.cancel()
    await asyncio.wait({task})
    assert (task.cancelled(), work.outcome) == (True, "cancelled")


async def test_an_error_after_a_cancellation_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    proceed = asyncio.Event()

    async def fail() -> None:
        await proceed.wait()
        raise ValueError("wrong")

    task = asyncio.ensure_future(complete(fail(), 60.0))
    await asyncio.sleep(0.01)
    task.cancel()
    proceed.set()
    await asyncio.wait({task})
    assert task.cancelled()
    assert "ValueError: wrong" in caplog.text


async def test_a_second_cancellation_cancels_the_work() -> None:
    work = Work()
    task = await start(work, 60.0)
    task.cancel()
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait({task})
    assert (task.cancelled(), work.outcome) == (True, "cancelled")
