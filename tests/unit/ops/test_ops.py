"""Tests of the ops server: limits of connections, roles, Host headers, and results that concurrent requests share."""

import asyncio
import json
import resource
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.ops.authorization import (
    AccessRole,
    AccessRules,
    BearerTokens,
    granted_role,
    is_accepted_host,
    normalize_hosts,
    read_token,
)
from gateway.ops.http_connection_limits import HttpConnectionLimits, HttpConnectionTable, limits_for
from gateway.ops.rate_limiter import RateLimiter
from gateway.ops.response_cache import ResponseCache
from gateway.ops.status_json import iter_json

TOKEN, METRICS = "t" * 32, "m" * 32


def test_a_listener_takes_a_small_part_of_the_descriptors() -> None:
    assert (limits_for(256).connections, limits_for(1024).connections, limits_for(1_000_000).connections) == (
        32,
        64,
        64,
    )
    assert limits_for(resource.RLIM_INFINITY).connections == 64
    assert limits_for(256).per_address < limits_for(256).connections


def test_the_connection_without_a_request_for_the_longest_time_is_closed() -> None:
    held: HttpConnectionTable[str] = HttpConnectionTable(HttpConnectionLimits(connections=3, per_address=3))
    assert [held.add(name, name) for name in "abc"] == [None] * 3
    held.headers_received("a")
    held.headers_received("b")
    held.response_sent("b")  # "b" is idle for a shorter time than "c".
    assert held.add("d", "d") == "c"
    assert held.add("e", "e") == "b"
    held.headers_received("d")
    held.headers_received("e")
    assert held.add("f", "f") == "a"  # No connection is idle, so the oldest is closed.


def test_one_address_replaces_only_its_own_connections() -> None:
    held: HttpConnectionTable[int] = HttpConnectionTable(HttpConnectionLimits(connections=10, per_address=2))
    held.add(0, "10.0.0.1")
    assert [held.add(number, "10.0.0.2") for number in (1, 2, 3)] == [None, None, 1]
    # Clients of a unix socket have no address, so the limit per address does not apply.
    assert [held.add(number, None) for number in (4, 5, 6, 7)] == [None] * 4
    assert 0 in held


@given(
    st.lists(st.tuples(st.sampled_from(["add", "headers_received", "response_sent", "remove"]), st.integers(0, 20)))
)
def test_the_number_of_connections_never_exceeds_the_limits(steps: list[tuple[str, int]]) -> None:
    bounds = HttpConnectionLimits(connections=5, per_address=3)
    held: HttpConnectionTable[int] = HttpConnectionTable(bounds)
    inside: dict[int, str] = {}
    for act, key in steps:
        if act == "add" and key not in inside:
            victim = held.add(key, str(key % 3))
            inside.pop(victim, None) if victim is not None else None
            inside[key] = str(key % 3)
        elif act != "add":
            getattr(held, act)(key)
            if act == "remove":
                inside.pop(key, None)
        assert set(held) == inside.keys()
        assert len(held) <= bounds.connections
        assert max((list(inside.values()).count(each) for each in inside.values()), default=0) <= bounds.per_address


def test_requests_above_the_rate_wait() -> None:
    limiter = RateLimiter(rate=10, burst=3)
    assert [round(limiter.reserve(100.0), 3) for _ in range(5)] == [0, 0, 0, 0.1, 0.2]
    assert limiter.reserve(200.0) == 0
    assert [round(limiter.reserve(200.0), 3) for _ in range(4)] == [0, 0, 0.1, 0.2]
    limiter.cancel()
    limiter.cancel()
    assert round(limiter.reserve(200.0), 3) == 0.1


RULES = AccessRules(normalize_hosts(["Ops.Example.com."]), authenticate=True)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "10.1.2.3:9090", "[::1]:9090", "[fe80::1%25eth0]", "localhost", "LOCALHOST:9090",
     "ops.example.com", "OPS.example.com.:9090"],
)  # fmt: skip
def test_configured_hosts_and_addresses_are_accepted(host: str) -> None:
    assert is_accepted_host(RULES, [host])


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:9090", "127.0.0.1.evil.example", "localhost.evil.example", "",
     "ops.example.com@evil.example", "1.2.3", "xops.example.com"],
)  # fmt: skip
def test_other_host_headers_are_refused(host: str) -> None:
    assert not is_accepted_host(RULES, [host])


def test_a_request_may_omit_the_host_header_but_not_repeat_it() -> None:
    assert is_accepted_host(RULES, [])
    assert not is_accepted_host(RULES, ["localhost", "localhost"])


def test_roles() -> None:
    tokens = BearerTokens(TOKEN, METRICS)

    def of(authorization: str | None, *, certified: bool = False) -> AccessRole:
        return granted_role(RULES, tokens, authorization, certified=certified)

    assert of(f"Bearer {TOKEN}") is of(f"bearer  {TOKEN} ") is AccessRole.EVERYTHING
    assert of(f"Bearer {METRICS}") is AccessRole.METRICS
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
        assert of(wrong) is AccessRole.PROBES
    assert of(None, certified=True) is AccessRole.EVERYTHING
    assert (
        granted_role(AccessRules(frozenset(), authenticate=False), BearerTokens(), None, certified=False)
        is AccessRole.EVERYTHING
    )
    assert granted_role(RULES, BearerTokens(), "Bearer ", certified=False) is AccessRole.PROBES
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
    cache, made = ResponseCache(), 0

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
    cache, fails = ResponseCache(), True
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


def test_iter_json_yields_the_same_object_in_short_parts() -> None:
    body = {
        "a": 1,
        "b": {},
        "c": {"x": [1, "ü"], "y": {"z": None}},
        "d": (pair for pair in [("k", {"v": 1})]),
        "e": [],
    }
    text = "".join(iter_json({**body}))
    assert json.loads(text) == {**body, "d": {"k": {"v": 1}}}
    assert json.loads("".join(iter_json({}))) == {}


def test_non_finite_numbers_are_not_written_as_json() -> None:
    for value in (float("nan"), {"lag": float("inf")}):
        with pytest.raises(ValueError, match="not JSON compliant"):
            list(iter_json({"a": value}))
