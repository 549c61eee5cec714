import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.contracts.listening_link import ShortConnectionTotals
from gateway.ssh import pooled_forwarding_listener
from gateway.ssh.pool_policy import CHANNELS_PER_CONNECTION
from gateway.ssh.pooled_forwarding_listener import PooledForwardingListener

FULL = CHANNELS_PER_CONNECTION - 1


def make_listener(
    loads: list[int], overflow: list[int], age: float, calls: list[str]
) -> tuple[PooledForwardingListener, list[Any]]:
    """Return a listener whose period began `age` seconds ago, and the listeners of its native engines."""
    listener: Any = object.__new__(PooledForwardingListener)
    listener.connections = [
        SimpleNamespace(load=load, has_answered_open=False, adopt=lambda _: None) for load in loads
    ]
    listener._owner = SimpleNamespace(grow=lambda: calls.append("grow"))
    listener._handler = SimpleNamespace(on_served=lambda *_: None)
    listener._listeners = [SimpleNamespace(overflow_count=each) for each in overflow]
    listener._period_start, listener._opened, listener._overflow = time.monotonic() - age, 0, 0
    return cast("PooledForwardingListener", listener), listener._listeners


def served(count: int) -> ShortConnectionTotals:
    return ShortConnectionTotals(count, 0, 0, 0)


@pytest.mark.parametrize(
    ("overflow", "age", "grows"),
    [
        ([80, 0], 2, True),
        ([40, 40], 2, True),
        ([75, 0], 2, False),
        ([100, 0], 0, False),
    ],
)
def test_the_pool_grows_if_the_connections_were_full_for_most_channels_of_a_period(
    overflow: list[int], age: float, *, grows: bool
) -> None:
    calls: list[str] = []
    listener, _ = make_listener([FULL, FULL], overflow, age, calls)
    listener.on_served(served(100))
    assert calls == ["grow"] * grows


@pytest.mark.parametrize(("loads", "grows"), [([FULL, FULL], True), ([FULL, FULL - 1], False)])
def test_the_pool_grows_if_a_channel_stays_open_and_the_connections_are_full(
    loads: list[int], *, grows: bool
) -> None:
    calls: list[str] = []
    listener, _ = make_listener(loads, [0, 0], 0, calls)
    listener.adopt(listener.connections[0], cast("Any", None))
    assert calls == ["grow"] * grows


def test_each_period_counts_only_its_own_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    listener, (engine,) = make_listener([0], [90], 2, calls)
    listener.on_served(served(100))
    assert calls == ["grow"]
    monkeypatch.setattr(pooled_forwarding_listener, "_OVERFLOW_PERIOD", 0)
    engine.overflow_count += 70
    listener.on_served(served(100))
    assert calls == ["grow"]
    engine.overflow_count += 80
    listener.on_served(served(100))
    assert calls == ["grow", "grow"]
