"""What becomes of jobs whose place is closed."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway.vpn import places
from gateway.vpn.namespace import Namespace
from gateway.vpn.places import PrivatePlace


class Here(Namespace):
    """Threads that stay where they are: no right is needed."""

    def __init__(self) -> None:
        self.fd = -1
        self._makers = ThreadPoolExecutor(1)
        self._workers = ThreadPoolExecutor(1)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> PrivatePlace:
    monkeypatch.setattr(places, "Namespace", Here)
    return PrivatePlace()


class Busy:
    """A place whose only thread is kept busy, and a job that waits for its turn."""

    def __init__(self, place: PrivatePlace) -> None:
        self._going = threading.Event()
        self._first = asyncio.ensure_future(place.run(lambda: self._going.wait(5)))
        self.queued = asyncio.ensure_future(place.run(lambda: None))

    async def finish(self) -> bool:
        self._going.set()
        return await self._first


async def test_a_job_whose_turn_never_came_is_an_error_and_cancels_nobody(place: PrivatePlace) -> None:
    busy = Busy(place)
    await asyncio.sleep(0.01)
    place.close()
    with pytest.raises(OSError, match="Network is down"):
        await busy.queued
    assert await busy.finish()
    with pytest.raises(OSError, match="Network is down"):
        await place.run(lambda: None)


async def test_who_is_cancelled_stays_cancelled(place: PrivatePlace) -> None:
    busy = Busy(place)
    await asyncio.sleep(0.01)
    busy.queued.cancel()
    place.close()
    with pytest.raises(asyncio.CancelledError):
        await busy.queued
    assert await busy.finish()
