from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.contracts.native_listener_interfaces import ShortLivedConnectionTotals
from gateway.ssh.pool_policy import CHANNELS_PER_CONNECTION
from gateway.ssh.ssh_native_listener_group import SshNativeListenerGroup

FULL = CHANNELS_PER_CONNECTION - 1
SERVED = ShortLivedConnectionTotals(100, 0, 0, 0)


def make_listener(loads: list[int], calls: list[str]) -> tuple[SshNativeListenerGroup, list[Any]]:
    """Return the listener of a pool, and the two native listeners of which it consists.

    The pool has one connection for each item of `loads`. `calls` receives "grow" when the pool must grow.
    """
    listener: Any = object.__new__(SshNativeListenerGroup)
    listener.connections = [
        SimpleNamespace(load=load, has_answered_open=False, adopt=lambda _: None) for load in loads
    ]
    listener._owner = SimpleNamespace(grow=lambda: calls.append("grow"))
    listener._handler = SimpleNamespace(on_served=lambda *_: None)
    listener._listeners = [SimpleNamespace(overflow_periods=0), SimpleNamespace(overflow_periods=0)]
    listener._overflow_periods, listener._active = 0, True
    return cast("SshNativeListenerGroup", listener), listener._listeners


def test_the_pool_grows_once_for_each_period_in_which_the_connections_were_full() -> None:
    calls: list[str] = []
    listener, (first, second) = make_listener([0, 0], calls)
    listener.on_served(SERVED)
    assert calls == []
    first.overflow_periods = 1
    listener.on_served(SERVED)
    listener.on_served(SERVED)
    assert calls == ["grow"]
    second.overflow_periods = 1
    listener.adopt(listener.connections[0], cast("Any", None))
    assert calls == ["grow", "grow"]


@pytest.mark.parametrize(("loads", "grows"), [([FULL, FULL], True), ([FULL, FULL - 1], False)])
def test_the_pool_grows_if_all_connections_are_full(loads: list[int], *, grows: bool) -> None:
    calls: list[str] = []
    listener, _ = make_listener(loads, calls)
    listener.adopt(listener.connections[0], cast("Any", None))
    assert calls == ["grow"] * grows


def test_a_listener_that_was_replaced_does_not_grow_the_pool() -> None:
    calls: list[str] = []
    listener, (first, _) = make_listener([FULL, FULL], calls)
    first.overflow_periods = 1
    cast("Any", listener)._active = False
    listener.on_served(SERVED)
    assert calls == []
