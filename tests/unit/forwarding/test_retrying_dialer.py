"""Tests the dialer with two paths to each target. For each path, the test sets the outcome of the dials."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from math import inf
from typing import Any

import pytest

from gateway.contracts.config_types import HostPort
from gateway.contracts.link import Link
from gateway.errors import DialError, FailureReason, LinkLostError
from gateway.forwarding import better_path_watch
from gateway.forwarding import retrying_dialer as dialer_module
from gateway.forwarding.backend_route import BackendRoute
from gateway.forwarding.pending_client import PendingClient
from gateway.forwarding.retrying_dialer import DialResult, RetryingDialer
from gateway.forwarding.target_path import TargetIdentity, TargetPath
from gateway.metric_types import Histogram
from gateway.relay.direct_link import DirectLink

pytestmark = pytest.mark.timeout(20)

ONE, TWO = HostPort("one", 1), HostPort("two", 1)


class Scripted(DirectLink):
    """A link whose dials hang, fail, or succeed."""

    def __init__(self, outcome: str = "joined") -> None:
        super().__init__()
        self.outcome = outcome

    async def join(self, client: Any, to: HostPort, latency: Any, within: float = inf, tap: Any = None) -> Any:
        del client, to, latency, tap
        if self.outcome == "hangs":
            await asyncio.sleep(within)
            raise DialError(FailureReason.TIMEOUT, "no answer")
        if self.outcome == "slow":
            await asyncio.sleep(0.5)
        if self.outcome == "lost once":
            self.outcome = "joined"
            raise LinkLostError
        if self.outcome == "lost":
            raise LinkLostError
        if self.outcome == "refused":
            raise DialError(FailureReason.REFUSED, "no")
        if self.outcome == "prohibited":
            raise DialError(FailureReason.CHANNEL_PROHIBITED, "no")
        return self


class Uplink:
    """A substitute for an uplink."""

    def __init__(self, link: Link | None) -> None:
        self.tunnel_name: str | None = "tunnel"
        self.channel_open = Histogram()
        self.link: Link | None = None
        self._opened = asyncio.Event()
        self.open(link)

    def open(self, link: Link | None) -> None:
        self.link = link
        if link is not None:
            self._opened.set()

    async def wait_link(self) -> Link:
        await self._opened.wait()
        assert self.link is not None
        return self.link


class Paths:
    """Two paths to each target of a backend."""

    def __init__(self, one: Link | None, two: Link | None, *targets: HostPort, hold: float = 5.0) -> None:
        self.uplinks = (Uplink(one), Uplink(two))
        self.usable_paths = [
            each for target in targets or (ONE,) for each in TargetIdentity(target, self.uplinks).paths()
        ]
        self.failed: list[TargetPath] = []
        self.left: list[TargetPath] = []
        self.dialer = RetryingDialer(
            BackendRoute(
                self.uplinks, lambda: self.usable_paths, self.failed.append, hold, on_detour=self.left.append
            )
        )

    async def join(self) -> DialResult:
        near, far = socket.socketpair()
        near.setblocking(False)
        with far, contextlib.closing(near):
            return await self.dialer.join(PendingClient(near), Histogram())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def waiting(paths: Paths) -> AsyncIterator["asyncio.Task[DialResult]"]:
    task = asyncio.ensure_future(paths.join())
    await asyncio.sleep(0.05)
    yield task
    task.cancel()
    await asyncio.wait({task})


async def test_a_lost_connection_of_a_link_that_has_others_does_not_lead_to_another_path_or_target() -> None:
    for other in (Scripted(), None):
        paths = Paths(Scripted("lost once"), other, ONE, TWO)
        joined = await paths.join()
        assert (joined.target_path.target, joined.target_path.uplink) == (ONE, paths.uplinks[0])
        assert (paths.left, paths.failed) == ([], [])


async def test_a_client_whose_route_was_replaced_does_not_try_the_next_target_of_the_old_route() -> None:
    paths = Paths(Scripted(), None, ONE, TWO)
    replaced = BackendRoute(paths.uplinks, lambda: paths.usable_paths[:2], paths.failed.append, 5.0)

    class Replacing(Scripted):
        async def join(self, *arguments: Any, **options: Any) -> Any:
            del arguments, options
            paths.uplinks[0].link = Scripted()
            paths.dialer.set_route(replaced)
            raise LinkLostError

    paths.uplinks[0].link = Replacing()
    joined = await paths.join()
    assert joined.target_path.target == ONE
    assert paths.failed == []


@pytest.mark.parametrize("outcome", ["lost", "hangs", "refused", "prohibited"])
async def test_the_other_path_to_the_same_target_comes_before_the_next_target(
    outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialer_module, "_NEXT_AFTER", 0.05)
    paths = Paths(Scripted(outcome), Scripted(), ONE, TWO)
    joined = await paths.join()
    assert (joined.target_path.target, joined.target_path.uplink) == (ONE, paths.uplinks[1])
    assert paths.left == [paths.usable_paths[0]]
    assert paths.failed == ([] if outcome == "lost" else [paths.usable_paths[0]])


async def test_a_closed_path_costs_nothing() -> None:
    paths = Paths(None, Scripted())
    assert (await paths.join()).target_path.uplink is paths.uplinks[1]
    assert (paths.failed, paths.left) == ([], [])


async def test_a_client_waits_while_all_paths_are_closed_and_uses_the_first_that_opens() -> None:
    paths = Paths(None, None)
    async with waiting(paths) as client:
        assert not client.done()
        paths.uplinks[1].open(Scripted())
        assert (await client).target_path.uplink is paths.uplinks[1]


async def test_a_waiting_client_notices_that_another_target_is_better(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialer_module, "RECHECK_INTERVAL", 0.05)
    paths = Paths(None, Scripted())
    usable, paths.usable_paths = paths.usable_paths, paths.usable_paths[:1]
    async with waiting(paths) as client:
        assert not client.done()
        paths.usable_paths = usable
        assert (await client).target_path.uplink is paths.uplinks[1]


@pytest.mark.parametrize("becomes", ["usable", "preferred"])
async def test_a_dial_over_the_last_path_stops_when_another_path_becomes_better(
    becomes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialer_module, "_NEXT_AFTER", 0.1)
    monkeypatch.setattr(better_path_watch, "RECHECK_INTERVAL", 0.05)
    other = Scripted("refused")
    paths = Paths(Scripted("hangs"), None if becomes == "usable" else other, hold=15.0)
    if becomes == "preferred":
        paths.usable_paths.reverse()
    async with waiting(paths) as client:
        await until(lambda: paths.failed != [] or becomes == "usable")
        if becomes == "preferred":
            paths.usable_paths.reverse()
        await asyncio.sleep(0.3)
        assert not client.done()
        other.outcome = "joined"
        paths.dialer.set_fail_fast(enabled=True)  # A client for which another path is better continues nevertheless.
        paths.uplinks[1].open(other)
        if becomes == "preferred":
            paths.usable_paths.reverse()
        async with asyncio.timeout(10):
            assert (await client).target_path.uplink is paths.uplinks[1]
        # The client did not dial the path of the stopped dial again.
        assert paths.failed.count(TargetPath(paths.usable_paths[0].identity, paths.uplinks[0])) == 1


async def test_a_dial_is_not_stopped_shortly_before_the_end_of_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialer_module, "_NEXT_AFTER", 0.05)
    monkeypatch.setattr(better_path_watch, "RECHECK_INTERVAL", 0.02)
    paths = Paths(Scripted("slow"), None, hold=0.9)
    async with waiting(paths) as client:
        paths.uplinks[1].open(Scripted("hangs"))
        assert (await client).target_path.uplink is paths.uplinks[0]
    assert paths.failed == []


async def test_a_slow_dial_over_the_last_path_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialer_module, "_NEXT_AFTER", 0.05)
    monkeypatch.setattr(better_path_watch, "RECHECK_INTERVAL", 0.02)
    paths = Paths(Scripted("refused"), Scripted("slow"))
    assert (await paths.join()).target_path.uplink is paths.uplinks[1]
    assert paths.failed == [paths.usable_paths[0]]


async def test_the_error_is_permanent_only_if_every_path_is_prohibited() -> None:
    both = Paths(Scripted("prohibited"), Scripted("prohibited"))
    with pytest.raises(DialError, match="no"):
        # The dialer reports the error immediately, and does not wait for the hold of 5 s.
        await asyncio.wait_for(both.join(), 2)
    mixed = Paths(Scripted("prohibited"), Scripted("refused"), hold=1.0)
    with pytest.raises(DialError, match="no"):
        await mixed.join()
    assert len(mixed.failed) > 2
