"""Tests whether members come from the configuration, a file and DNS, and stay if the file or DNS fails."""

import asyncio
import socket
from pathlib import Path

import pytest

from gateway.contracts.config_types import Duration
from gateway.fleet import member_discovery
from gateway.fleet.member_addresses import MAX_MEMBERS, parse_member
from gateway.fleet.member_discovery import MemberDiscovery
from gateway.fleet.options import FleetOptions


def options(*members: str, file: Path | None = None) -> FleetOptions:
    return FleetOptions(members=tuple(map(parse_member, members)), file=file, timeout=Duration(20.0 if file else 0.2))


async def refresh(found: MemberDiscovery, wanted: FleetOptions) -> list[str]:
    await found.read_file(wanted)
    await found.look_up_names(wanted)
    return [str(each.endpoint) for each in found.known(wanted)]


async def test_members_of_a_file_stay_while_it_cannot_be_read(tmp_path: Path) -> None:
    file, found = tmp_path / "members", MemberDiscovery()
    wanted = options("a:1", file=file)
    assert await refresh(found, wanted) == ["a:1"]
    assert "No such file" in found.problems(wanted)[0]
    file.write_text("b:2\na:1\nnonsense\n")
    assert await refresh(found, wanted) == ["a:1", "b:2"]
    assert "line 3" in found.problems(wanted)[0]
    file.unlink()
    assert await refresh(found, wanted) == ["a:1", "b:2"]
    file.write_bytes(b"\xff")
    assert await refresh(found, wanted) == ["a:1", "b:2"]
    assert "is not UTF-8 text" in found.problems(wanted)[0]
    assert await refresh(found, options("a:1")) == ["a:1"]
    assert found.problems(options("a:1")) == []


@pytest.mark.parametrize("strict", [False, True])
async def test_a_plain_member_of_a_file_gets_no_token_in_strict_mode(tmp_path: Path, strict: bool) -> None:
    file, found = tmp_path / "members", MemberDiscovery(strict=strict)
    file.write_text("gw:1\ndns+gw:2\nhttps://gw:3\n127.0.0.1:4\n")
    wanted = FleetOptions(file=file, token_file=tmp_path / "token")
    await found.read_file(wanted)
    plain = [] if strict else ["gw:1"]
    assert [str(each.endpoint) for each in found.known(wanted)] == [*plain, "gw:3", "127.0.0.1:4"]
    (problem,) = found.problems(wanted)
    assert "sent to gw:1 without encryption: use https://" in problem
    assert ("ignores" in problem) is strict
    assert [str(each.endpoint) for each in found.known(FleetOptions(file=file))] == ["gw:1", "gw:3", "127.0.0.1:4"]


async def test_the_number_of_members_is_limited(tmp_path: Path) -> None:
    file, found = tmp_path / "members", MemberDiscovery()
    file.write_text("".join(f"127.0.0.1:{port}\n" for port in range(1, MAX_MEMBERS + 1)))
    wanted = FleetOptions(members=tuple(map(parse_member, ["a:1", "a:2"])), file=file)
    assert len(await refresh(found, wanted)) == MAX_MEMBERS
    assert "1002 members, and only the first 1000" in found.problems(wanted)[0]
    file.write_text("b:1\n")
    assert await refresh(found, wanted) == ["a:1", "a:2", "b:1"]
    assert found.problems(wanted) == []
    file.write_text("".join(f"127.0.0.1:{port}\n" for port in range(1, MAX_MEMBERS + 2)))
    assert await refresh(found, wanted) == ["a:1", "a:2", "b:1"]
    assert "members: the file has 1001 addresses, more than 1000" in found.problems(wanted)[0]


async def test_addresses_of_a_name_stay_while_it_does_not_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[object] = [
        ["10.0.0.1", "10.0.0.2"],
        socket.gaierror(-3, "Temporary failure"),
        "silent",
        ["10.0.0.3"],
    ]

    async def lookup(host: str, port: int) -> list[tuple[socket.AddressFamily, tuple[str, int]]]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, str):
            await asyncio.sleep(60)
        assert isinstance(answer, list)
        return [(socket.AF_INET, (address, port)) for address in answer]

    monkeypatch.setattr(member_discovery, "lookup", lookup)
    found, wanted = MemberDiscovery(), options("dns+tasks.gateway:9090", "a:1")
    assert [str(each.endpoint) for each in found.known(wanted)] == ["a:1"]  # No lookup has run yet.
    assert await refresh(found, wanted) == ["10.0.0.1:9090", "10.0.0.2:9090", "a:1"]
    assert await refresh(found, wanted) == ["10.0.0.1:9090", "10.0.0.2:9090", "a:1"]
    assert "Temporary failure" in found.problems(wanted)[0]
    assert await refresh(found, wanted) == ["10.0.0.1:9090", "10.0.0.2:9090", "a:1"]
    assert "do not respond" in found.problems(wanted)[0]
    assert await refresh(found, wanted) == ["10.0.0.3:9090", "a:1"]
    assert found.problems(wanted) == []
