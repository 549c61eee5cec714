"""Tests native listeners without SSH connections. tests/integration/test_accepting.py uses SSH connections."""

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.contracts.config_types import HostPort
from gateway.contracts.native_listener_interfaces import NativeListenerRule, ShortLivedConnectionTotals
from gateway.metric_types import Histogram
from tests.support.requirements import need_data_plane


class Events:
    """Records the calls that a listener makes."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.waiting: list[int] = []

    def adopt(self, connection: Any, channel: Any) -> None:
        self.calls.append("adopted")

    def on_joined(self, relay: Any, tap: Any) -> None:
        self.calls.append("joined")

    def on_served(self, clients: ShortLivedConnectionTotals) -> None:
        self.calls.append("served")

    def on_returned(self, client: socket.socket, seconds: float, *, abandoned: bool) -> None:
        self.calls.append(f"returned {client.getpeername()[0]} {client.gettimeout()}")
        client.close()

    def on_stopped(self) -> None:
        self.calls.append("stopped")

    def on_closed(self, listener: Any) -> None:
        self.calls.append("closed")
        self.waiting.append(listener.waiting)


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield listening


def listen(sock: socket.socket, events: Events) -> tuple[Any, Any]:
    """Return the runner of a native engine without a thread, and a listener without an SSH connection."""
    need_data_plane()
    from gateway.relay.native_engine_runner import NativeEngineRunner  # noqa: PLC0415 - the native engine is optional
    from gateway.ssh.ssh_native_listener import SshNativeListener  # noqa: PLC0415 - the native engine is optional

    runner = NativeEngineRunner(asyncio.get_running_loop(), 1 << 20, thread=False)
    rule = NativeListenerRule(
        (sock,), HostPort("target", 1), (ipaddress.ip_network("127.0.0.0/8"),), Histogram(), Histogram()
    )
    return runner, SshNativeListener(runner, rule, {1 << 40: cast("Any", None)}, 1 << 15, sock, 5, events)


async def test_a_client_without_a_connection_is_returned(sock: socket.socket) -> None:
    events = Events()
    runner, listener = listen(sock, events)
    assert (listener.reserved, listener.waiting) == (5, 0)
    listener.permit(2)
    with socket.create_connection(sock.getsockname(), timeout=10):
        runner.handle_records()
    assert events.calls == ["stopped", "returned 127.0.0.1 0.0", "closed"]
    assert (listener.reserved, events.waiting, runner.load) == (0, [0], 0)
    for call in (listener.withdraw, listener.recall):
        call()
    runner.close()


async def test_a_listener_reads_the_values_of_its_gauge(sock: socket.socket) -> None:
    runner, listener = listen(sock, Events())
    real, gauge = runner.engine, (7, 3, 2, 0.0, 0.0, 0, False)
    runner.engine = listener._engine = cast("Any", SimpleNamespace(gauge=lambda _: gauge))
    assert (listener.clients, listener.overflow_periods, listener.waiting) == (7, 3, 5)
    # The native engine of the runner is no longer that of the listener, as after a failure.
    runner.engine = real
    assert (listener.clients, listener.overflow_periods, listener.waiting) == (0, 0, 0)
    runner.close()


async def test_a_withdrawn_listener_closes_without_being_reported_as_stopped(sock: socket.socket) -> None:
    events = Events()
    runner, listener = listen(sock, events)
    listener.withdraw()
    assert listener.reserved == 0
    runner.handle_records()
    assert events.calls == ["closed"]
    runner.close()


async def test_the_listeners_of_a_native_engine_that_fails_stop(sock: socket.socket) -> None:
    events = Events()
    runner, listener = listen(sock, events)
    real = runner.engine

    def lose() -> list[Any]:
        raise OSError(errno.ENOMEM, "records were lost")

    runner.engine = cast("Any", SimpleNamespace(turn=lambda: None, take=lose, close=real.close))
    runner.handle_records()
    assert events.calls == ["stopped", "closed"]
    assert (listener.reserved, events.waiting) == (0, [0])
    runner.close()
