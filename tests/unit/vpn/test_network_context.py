"""Tests what happens to the jobs of a network context when the context is closed."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway.vpn import network_context
from gateway.vpn.network_context import NetnsContext
from gateway.vpn.network_namespace import NetworkNamespace


class Here(NetworkNamespace):
    """Threads that stay in the network namespace of the process, so they do not need privileges."""

    def __init__(self) -> None:
        self.fd = -1
        self._socket_thread = ThreadPoolExecutor(1)
        self._workers = ThreadPoolExecutor(1)


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> NetnsContext:
    monkeypatch.setattr(network_context, "NetworkNamespace", Here)
    return NetnsContext()


class Busy:
    """A network context whose only thread is busy, and a job that waits for the thread."""

    def __init__(self, context: NetnsContext) -> None:
        self._begun, self._going = threading.Event(), threading.Event()
        self._first = asyncio.ensure_future(context.run_blocking(self._hold))
        self.queued = asyncio.ensure_future(context.run_blocking(lambda: None))

    def _hold(self) -> bool:
        self._begun.set()
        return self._going.wait(30)

    async def begun(self) -> None:
        """Wait until the thread runs the first job. If the context closed before, it would cancel that job."""
        assert await asyncio.to_thread(self._begun.wait, 30)

    async def finish(self) -> bool:
        self._going.set()
        return await self._first


async def test_a_job_that_never_ran_is_an_error_and_cancels_no_caller(context: NetnsContext) -> None:
    busy = Busy(context)
    await busy.begun()
    context.close()
    with pytest.raises(OSError, match="Network is down"):
        await busy.queued
    assert await busy.finish()
    with pytest.raises(OSError, match="Network is down"):
        await context.run_blocking(lambda: None)


async def test_a_cancelled_caller_stays_cancelled(context: NetnsContext) -> None:
    busy = Busy(context)
    await busy.begun()
    busy.queued.cancel()
    context.close()
    with pytest.raises(asyncio.CancelledError):
        await busy.queued
    assert await busy.finish()
