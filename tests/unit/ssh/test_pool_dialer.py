"""Tests when the dialer of an SSH pool dials again."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast
from unittest.mock import Mock

import pytest

from gateway.contracts.config_types import HostPort
from gateway.errors import FailureReason, TunnelError
from gateway.ssh import pool_dialer
from gateway.ssh.pool_dialer import DialConnection, PoolDialer
from gateway.ssh.pooled_connection import PooledConnection

WITHIN = 20.0


def dialer(dial: Callable[[], Coroutine[Any, Any, Any]], connections: list[Any], wanted: int) -> PoolDialer:
    return PoolDialer(
        HostPort("bastion", 22),
        cast("DialConnection", dial),
        lambda: wanted - len(connections),
        connections.append,
        lambda coroutine: asyncio.get_running_loop().create_task(coroutine),
    )


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_server_that_closes_connections_after_the_login_is_not_dialed_without_delay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool_dialer, "_MIN_RETRY", 0.25)
    monkeypatch.setattr("random.uniform", lambda _, most: most)
    dials: list[float] = []
    connections: list[PooledConnection] = []
    loop = asyncio.get_running_loop()

    async def dial() -> PooledConnection:
        dials.append(loop.time())
        return Mock(spec=PooledConnection)

    found = dialer(dial, connections, 1)
    running = asyncio.create_task(found.run())
    for number in range(1, 4):
        await until(lambda: len(connections) == 1)
        assert len(dials) == number
        connections.clear()
        found.on_lost(0.0, "closed by the server")
        assert found.last_error == "closed by the server"
    assert dials[1] - dials[0] >= 0.2
    assert dials[2] - dials[1] >= 0.4
    # A connection that lasted long resets the delay.
    await until(lambda: len(connections) == 1)
    connections.clear()
    found.on_lost(3600.0, "reset")
    started = loop.time()
    await until(lambda: len(connections) == 1)
    assert loop.time() - started < 5
    running.cancel()
    await asyncio.gather(running, *found.tasks, return_exceptions=True)


async def test_a_refused_login_is_repeated_if_the_key_changed_while_another_dial_began() -> None:
    release = asyncio.Event()
    dials = 0
    connections: list[PooledConnection] = []

    async def dial() -> PooledConnection:
        nonlocal dials
        dials += 1
        if dials == 1:
            await release.wait()
            raise TunnelError(FailureReason.AUTH, "the old key is refused", fatal=True)
        return Mock(spec=PooledConnection)

    found = dialer(dial, connections, 2)
    running = asyncio.create_task(found.run())
    await until(lambda: len(connections) == 1)
    found.renew()  # The first dial, which uses the old key, still runs.
    await asyncio.sleep(0.05)
    release.set()
    await until(lambda: len(connections) == 2)  # not only after a minute
    running.cancel()
    await asyncio.gather(running, *found.tasks, return_exceptions=True)
