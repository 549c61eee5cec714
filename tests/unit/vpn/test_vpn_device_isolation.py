"""Tests what happens to unfinished jobs when the isolation of a VPN device is closed."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway.vpn import vpn_device_isolation
from gateway.vpn.network_namespace import NetworkNamespace
from gateway.vpn.vpn_device_isolation import NetworkNamespaceIsolation


class FakeNamespace(NetworkNamespace):
    """A substitute that creates no network namespace, because this would require privileges."""

    def __init__(self) -> None:
        self.fd = -1
        self._socket_thread = ThreadPoolExecutor(1)
        self._workers = ThreadPoolExecutor(1)


@pytest.fixture
def isolation(monkeypatch: pytest.MonkeyPatch) -> NetworkNamespaceIsolation:
    monkeypatch.setattr(vpn_device_isolation, "NetworkNamespace", FakeNamespace)
    return NetworkNamespaceIsolation()


class Busy:
    """Submits two jobs to an isolation with one thread. The first job blocks, so the second job waits."""

    def __init__(self, isolation: NetworkNamespaceIsolation) -> None:
        self._begun, self._going = threading.Event(), threading.Event()
        self._first = asyncio.ensure_future(isolation.run_blocking(self._hold))
        self.queued = asyncio.ensure_future(isolation.run_blocking(lambda: None))

    def _hold(self) -> bool:
        self._begun.set()
        return self._going.wait(30)

    async def begun(self) -> None:
        """Wait until the first job runs. Before this time, `close` would cancel the job."""
        assert await asyncio.to_thread(self._begun.wait, 30)

    async def finish(self) -> bool:
        self._going.set()
        return await self._first


async def test_a_job_that_never_ran_is_an_error_and_cancels_no_caller(isolation: NetworkNamespaceIsolation) -> None:
    busy = Busy(isolation)
    await busy.begun()
    isolation.close()
    with pytest.raises(OSError, match="Network is down"):
        await busy.queued
    assert await busy.finish()
    with pytest.raises(OSError, match="Network is down"):
        await isolation.run_blocking(lambda: None)


async def test_a_cancelled_caller_stays_cancelled(isolation: NetworkNamespaceIsolation) -> None:
    busy = Busy(isolation)
    await busy.begun()
    busy.queued.cancel()
    isolation.close()
    with pytest.raises(asyncio.CancelledError):
        await busy.queued
    assert await busy.finish()
