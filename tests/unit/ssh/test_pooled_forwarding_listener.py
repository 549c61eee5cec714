import time
from math import inf
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.contracts.listening_link import ShortConnectionTotals
from gateway.ssh.pool_policy import CHANNELS_PER_CONNECTION
from gateway.ssh.pooled_forwarding_listener import PooledForwardingListener

FULL = CHANNELS_PER_CONNECTION - 1


class Connection:
    """A connection of a pool, on one of several native engines."""

    has_answered_open = False

    def __init__(self, engine: str, load: int, overflow_age: float) -> None:
        self.native_transport = SimpleNamespace(runner=engine)
        self.load, self._overflow_age = load, overflow_age

    def last_overflow(self) -> float:
        return time.monotonic() - self._overflow_age


@pytest.mark.parametrize(
    ("connections", "grows"),
    [
        ([("a", FULL, inf), ("b", FULL, inf)], True),
        ([("a", FULL, inf), ("b", FULL - 1, inf)], False),
        ([("a", 0, 0.1)], True),
        ([("a", 0, 0.1), ("a", 0, inf)], True),
        ([("a", 0, 0.1), ("b", 0, inf)], False),
        ([("a", 0, 0.1), ("b", 0, 0.5)], True),
        ([("a", 0, 0.1), ("b", 0, 60.0)], False),
    ],
)
def test_the_pool_grows_if_the_connections_of_each_engine_are_or_were_full(
    connections: list[tuple[str, int, float]], grows: bool
) -> None:
    calls: list[str] = []
    listener: Any = object.__new__(PooledForwardingListener)
    listener.connections = [Connection(*each) for each in connections]
    listener._owner = SimpleNamespace(grow=lambda: calls.append("grow"))
    listener._handler = SimpleNamespace(on_served=lambda *_: None)
    cast("PooledForwardingListener", listener).on_served(ShortConnectionTotals(1, 0, 0, 0))
    assert calls == ["grow"] * grows
