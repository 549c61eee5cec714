"""Limits of the ops server: connections, roles, hosts, and shared computations."""

import asyncio
import json
import resource
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.ops.access import Role, Rules, Tokens, hosts_of, knows_host, read_token, role
from gateway.ops.answers import written
from gateway.ops.bounds import Connections, Limits, Pace, limits
from gateway.ops.cache import Cache

TOKEN, METRICS = "t" * 32, "m" * 32


def test_a_listener_takes_a_small_part_of_the_descriptors() -> None:
    assert (limits(256).connections, limits(1024).connections, limits(1_000_000).connections) == (32, 64, 64)
    assert limits(resource.RLIM_INFINITY).connections == 64
    assert limits(256).of_one < limits(256).connections


def test_the_connection_without_a_request_for_the_longest_time_is_closed() -> None:
    held: Connections[str] = Connections(Limits(connections=3, of_one=3))
    assert [held.enter(name, name) for name in "abc"] == [None] * 3
    held.answering("a")
    held.answering("b")
    held.answered("b")  # of use later than c
    assert held.enter("d", "d") == "c"
    assert held.enter("e", "e") == "b"
    held.answering("d")
    held.answering("e")
    assert held.enter("f", "f") == "a"  # all are being answered: the oldest


def test_one_address_replaces_only_its_own_connections() -> None:
    held: Connections[int] = Connections(Limits(connections=10, of_one=2))
    held.enter(0, "10.0.0.1")
    assert [held.enter(number, "10.0.0.2") for number in (1, 2, 3)] == [None, None, 1]
    assert [held.enter(number, None) for number in (4, 5, 6, 7)] == [None] * 4  # a unix socket has no address
    assert 0 in held


@given(st.lists(st.tuples(st.sampled_from(["enter", "answering", "answered", "leave"]), st.integers(0, 20))))
def test_never_more_than_permitted(steps: list[tuple[str, int]]) -> None:
    bounds = Limits(connections=5, of_one=3)
    held: Connections[int] = Connections(bounds)
    inside: dict[int, str] = {}
    for act, key in steps:
        if act == "enter" and key not in inside:
            victim = held.enter(key, str(key % 3))
            inside.pop(victim, None) if victim is not None else None
            inside[key] = str(key % 3)
        elif act != "enter":
            getattr(held, act)(key)
            if act == "leave":
                inside.pop(key, None)
        assert set(held) == inside.keys()
        assert len(held) <= bounds.connections
        assert max((list(inside.values()).count(each) for each in inside.values()), default=0) <= bounds.of_one


def test_pace() -> None:
    pace = Pace(rate=10, burst=3)
    assert [round(pace.wait(100.0), 3) for _ in range(5)] == [0, 0, 0, 0.1, 0.2]
    assert pace.wait(200.0) == 0
    assert [round(pace.wait(200.0), 3) for _ in range(4)] == [0, 0, 0.1, 0.2]
    pace.refund()
    pace.refund()
    assert round(pace.wait(200.0), 3) == 0.1


RULES = Rules(hosts_of(["Ops.Example.com."]), authenticate=True)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "10.1.2.3:9090", "[::1]:9090", "[fe80::1%25eth0]", "localhost", "LOCALHOST:9090",
     "ops.example.com", "OPS.example.com.:9090"],
)  # fmt: skip
def test_hosts_of_its_own(host: str) -> None:
    assert knows_host(RULES, [host])


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:9090", "127.0.0.1.evil.example", "localhost.evil.example", "",
     "ops.example.com@evil.example", "1.2.3", "xops.example.com"],
)  # fmt: skip
def test_foreign_hosts(host: str) -> None:
    assert not knows_host(RULES, [host])


def test_a_request_without_a_host_or_with_two() -> None:
    assert knows_host(RULES, [])
    assert not knows_host(RULES, ["localhost", "localhost"])


def test_roles() -> None:
    tokens = Tokens(TOKEN, METRICS)

    def of(authorization: str | None, *, certified: bool = False) -> Role:
        return role(RULES, tokens, authorization, certified=certified)

    assert of(f"Bearer {TOKEN}") is of(f"bearer  {TOKEN} ") is Role.EVERYTHING
    assert of(f"Bearer {METRICS}") is Role.METRICS
    for wrong in (
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Basic {TOKEN}",
        TOKEN,
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        "Bearer \udce9",
    ):
        assert of(wrong) is Role.PROBES
    assert of(None, certified=True) is Role.EVERYTHING
    assert role(Rules(frozenset(), authenticate=False), Tokens(), None, certified=False) is Role.EVERYTHING
    assert role(RULES, Tokens(), "Bearer ", certified=False) is Role.PROBES
    assert TOKEN not in repr(tokens)


def test_a_token_is_private_and_long_enough(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    assert read_token(path, "ops.token_file") == TOKEN
    path.chmod(0o644)
    with pytest.raises(GatewayError, match=r"ops\.token_file: .* the token is readable by others .* chmod 600"):
        read_token(path, "ops.token_file")
    path.chmod(0o600)
    for bad in ("", "short", f"{TOKEN} {TOKEN}", f"{TOKEN}\n{TOKEN}", "é" * 32):
        path.write_text(bad)
        with pytest.raises(GatewayError, match="openssl rand -hex 32"):
            read_token(path, "ops.token_file")
    path.unlink()
    with pytest.raises(GatewayError, match="No such file"):
        read_token(path, "ops.token_file")


async def test_concurrent_requests_share_one_computation() -> None:
    cache, made = Cache(), 0

    async def compute() -> int:
        nonlocal made
        made += 1
        await asyncio.sleep(0.01)
        return made

    assert await asyncio.gather(*(cache.get("a", 60, compute) for _ in range(8))) == [1] * 8
    assert await cache.get("a", 60, compute) == 1
    assert await cache.get("b", 60, compute) == 2
    cache.clear()
    assert await cache.get("a", 60, compute) == 3
    assert await cache.get("c", 0, compute) == 4
    assert await cache.get("c", 0, compute) == 5


async def test_failures_are_not_cached_and_a_cancelled_request_does_not_cancel_others() -> None:
    cache, fails = Cache(), True
    go = asyncio.Event()

    async def compute() -> str:
        await go.wait()
        if fails:
            raise ValueError("no")
        return "fine"

    first, second = (asyncio.ensure_future(cache.get("a", 60, compute)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    go.set()
    with pytest.raises(ValueError, match="no"):
        await second
    fails = False
    assert await cache.get("a", 60, compute) == "fine"


def test_json_in_parts() -> None:
    body = {
        "a": 1,
        "b": {},
        "c": {"x": [1, "ü"], "y": {"z": None}},
        "d": (pair for pair in [("k", {"v": 1})]),
        "e": [],
    }
    text = "".join(written({**body}))
    assert json.loads(text) == {**body, "d": {"k": {"v": 1}}}
    assert json.loads("".join(written({}))) == {}


def test_non_finite_numbers_are_not_written_as_json() -> None:
    for value in (float("nan"), {"lag": float("inf")}):
        with pytest.raises(ValueError, match="not JSON compliant"):
            list(written({"a": value}))
