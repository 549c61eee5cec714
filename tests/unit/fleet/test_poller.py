"""The poller spreads the first requests to many members."""

import asyncio

import pytest

from gateway.contracts.values import Endpoint
from gateway.fleet import poller
from gateway.fleet.client import MemberClient
from gateway.fleet.members import Member, MemberAddress
from gateway.fleet.options import FleetOptions
from gateway.fleet.poller import FleetPoller
from gateway.fleet.view import MemberView

WITHIN = 20.0


async def test_first_requests_are_not_sent_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, times = asyncio.get_running_loop(), []

    async def ask(_: MemberClient, __: Member, before: MemberView) -> MemberView:
        times.append(loop.time())
        return before

    monkeypatch.setattr(poller, "ask", ask)
    monkeypatch.setattr(poller, "_SPACING", 0.05)
    options = FleetOptions(members=tuple(MemberAddress("http", Endpoint("127.0.0.1", port)) for port in (1, 2, 3)))
    task = asyncio.create_task(FleetPoller(lambda: options).run(lambda: None))
    async with asyncio.timeout(WITHIN):
        while len(times) < 3:
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert times[2] - times[0] >= 0.09
