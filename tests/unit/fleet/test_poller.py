"""Tests whether the poller spreads its first requests over time, and whether it needs the token."""

import asyncio
import threading
from pathlib import Path

import pytest

from gateway.contracts.config_types import Duration, HostPort
from gateway.fleet import poller
from gateway.fleet.fleet_state import MemberState
from gateway.fleet.member_addresses import Member, MemberAddress
from gateway.fleet.member_client import MemberClient
from gateway.fleet.options import FleetOptions
from gateway.fleet.poller import FleetPoller
from tests.support.files import write_secret

WITHIN = 20.0


async def test_first_requests_are_not_sent_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, times = asyncio.get_running_loop(), []

    async def ask(_: MemberClient, __: Member, before: MemberState) -> MemberState:
        times.append(loop.time())
        return before

    monkeypatch.setattr(poller, "ask", ask)
    monkeypatch.setattr(poller, "_SPACING", 0.05)
    options = FleetOptions(members=tuple(MemberAddress("http", HostPort("127.0.0.1", port)) for port in (1, 2, 3)))
    began = loop.time()
    task = asyncio.create_task(FleetPoller(lambda: options).run(lambda: None))
    async with asyncio.timeout(WITHIN):
        while len(times) < 3:
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert times[1] - began >= 0.045
    assert times[2] - began >= 0.09


async def test_a_token_on_a_file_system_that_hangs_delays_no_member(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    release, asked = threading.Event(), asyncio.Event()
    calls: list[None] = []

    def hang(_: FleetOptions) -> list[tuple[Path, int, int]]:
        calls.append(None)
        release.wait(WITHIN)
        return []

    async def ask(_: MemberClient, __: Member, before: MemberState) -> MemberState:
        asked.set()
        return before

    monkeypatch.setattr(poller, "_stamps", hang)
    monkeypatch.setattr(poller, "ask", ask)
    monkeypatch.setattr(poller, "_DISCOVERY_INTERVAL", 0.0)
    monkeypatch.setattr(poller, "_CONFIG_CHECK_INTERVAL", 0.01)
    token = tmp_path / "token"
    write_secret(token, "t" * 40)
    members = (MemberAddress("http", HostPort("127.0.0.1", 1)),)
    options = FleetOptions(members=members, token_file=token, timeout=Duration(0.05))
    found = FleetPoller(lambda: options)
    task = asyncio.create_task(found.run(lambda: None))
    try:
        async with asyncio.timeout(WITHIN):
            await asked.wait()
            while not any("does not respond" in each for each in found.snapshot().problems):
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)
            assert len(calls) == 1  # While the first call hangs, there is no second call.
            release.set()
            while found.snapshot().problems:
                await asyncio.sleep(0.01)
    finally:
        release.set()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_problems_end_with_the_section(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(poller, "_CONFIG_CHECK_INTERVAL", 0.01)
    options = [FleetOptions(file=tmp_path / "absent", token_file=tmp_path / "absent")]
    found = FleetPoller(lambda: options[0])
    task = asyncio.create_task(found.run(lambda: None))
    try:
        async with asyncio.timeout(WITHIN):
            while not found.snapshot().problems:
                await asyncio.sleep(0.01)
            options[0] = FleetOptions()
            while found.snapshot().problems:
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_members_are_discovered_when_the_file_was_read_and_all_names_were_looked_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def ask(_: MemberClient, __: Member, before: MemberState) -> MemberState:
        return before

    monkeypatch.setattr(poller, "ask", ask)
    monkeypatch.setattr(poller, "_CONFIG_CHECK_INTERVAL", 0.01)
    monkeypatch.setattr(poller, "_DISCOVERY_INTERVAL", 0.05)
    file, known = tmp_path / "members", MemberAddress("http", HostPort("127.0.0.1", 1))
    unknown = MemberAddress("http", HostPort("absent.invalid", 1), discover=True)
    local = MemberAddress("http", HostPort("localhost", 1), discover=True)
    options = [FleetOptions(members=(known,), file=file)]
    found = FleetPoller(lambda: options[0])
    assert not found.snapshot().is_discovered
    task = asyncio.create_task(found.run(lambda: None))

    async def discovered() -> None:
        async with asyncio.timeout(WITHIN):
            while not found.snapshot().is_discovered:
                await asyncio.sleep(0.01)

    async def reported() -> None:
        async with asyncio.timeout(WITHIN):
            while not found.snapshot().problems:
                await asyncio.sleep(0.01)

    try:
        await reported()
        assert not found.snapshot().is_discovered
        file.write_text("127.0.0.1:2\n")
        await discovered()
        options[0] = FleetOptions(members=(known, unknown, local))
        assert not found.snapshot().is_discovered
        await reported()
        async with asyncio.timeout(WITHIN):
            while all(each.member.server_name != "localhost" for each in found.snapshot().members):
                await asyncio.sleep(0.01)
        assert not found.snapshot().is_discovered
        monkeypatch.setattr(poller, "_DISCOVERY_GRACE", 0.0)
        options[0] = FleetOptions(members=(unknown, local))
        await discovered()
        assert [each.member.server_name for each in found.snapshot().members][:1] == ["localhost"]
        options[0] = FleetOptions()
        assert found.snapshot().is_discovered  # Without members, the empty list is complete.
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
