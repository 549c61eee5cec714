"""Tests of direct links whose clients the native engine accepts."""

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from gateway._dataplane import settings
from gateway.contracts.config_types import HostPort
from gateway.contracts.native_listener_interfaces import (
    LinkWithNativeListeners,
    NativeListenerRule,
    ShortLivedConnectionTotals,
)
from gateway.metric_types import Histogram
from gateway.relay import native_listener_group
from gateway.relay.direct_link import DirectLink
from gateway.relay.native_engine_selection import relay_sockets, use_native_engine
from tests.support.requirements import need_data_plane
from tests.support.servers import echoing, serving

pytestmark = pytest.mark.timeout(30)
LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)


class Handler:
    """Records the calls that a listener makes to its handler."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.relays: list[Any] = []
        self.served: list[ShortLivedConnectionTotals] = []

    def on_joined(self, listener: Any, relay: Any, tap: Any) -> None:
        self.calls.append("joined")
        self.relays.append(relay)

    def on_served(self, listener: Any, clients: ShortLivedConnectionTotals) -> None:
        self.served.append(clients)

    def on_returned(self, listener: Any, client: socket.socket, seconds: float, *, abandoned: bool) -> None:
        self.calls.append("returned")
        client.close()

    def on_stopped(self, listener: Any, *, failed: bool) -> None:
        self.calls.append(f"stopped {failed}")

    def on_closed(self, listener: Any) -> None:
        self.calls.append("closed")


class Rig:
    """A listening socket, and a direct link that accepts the clients of this socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.link, self.handler = sock, DirectLink(), Handler()

    def listen(self, host: str, port: int, permits: int = 10) -> Any:
        rule = NativeListenerRule((self.sock,), HostPort(host, port), LOOPBACK, Histogram(), Histogram())
        return self.link.listen(rule, permits, self.handler)

    async def connect(self) -> socket.socket:
        client = socket.socket()
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, self.sock.getsockname())
        return client

    async def echo(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(client, b"hello")
        assert await loop.sock_recv(client, 100) == b"hello"

    async def until(self, *calls: str) -> None:
        async with asyncio.timeout(20):
            while self.handler.calls != list(calls):
                await asyncio.sleep(0.01)


@pytest.fixture
def echo_port() -> Iterator[int]:
    with serving(echoing) as port:
        yield port


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    need_data_plane()
    monkeypatch.setattr(settings, "threads", 2)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.setblocking(False)
        yield Rig(sock)
        use_native_engine(enabled=True)


async def test_all_threads_accept_clients_until_the_rule_is_withdrawn(rig: Rig, echo_port: int) -> None:
    from gateway.relay.native_engine_runner import native_engines  # noqa: PLC0415 - the native engine is optional

    assert isinstance(rig.link, LinkWithNativeListeners)
    listener = rig.listen("127.0.0.1", echo_port, permits=3)
    assert [runner.load for runner in native_engines().runners] == [1, 1]
    assert (listener.reserved, listener.waiting) == (3, 0)
    with await rig.connect() as client:
        await rig.echo(client)
        await rig.until("joined")
        (relay,) = rig.handler.relays
        assert (relay.to_backend, relay.from_backend, relay.responses) == (5, 5, 1)
        assert (listener.reserved, listener.waiting) == (2, 0)
        listener.permit(2)
        assert listener.reserved == 4
        listener.withdraw()
        await rig.until("joined", "closed")
        assert listener.reserved == 0
        await rig.echo(client)
    async with asyncio.timeout(10):
        await relay.ended
    assert sum(runner.load for runner in native_engines().runners) == 0


async def test_each_socket_has_a_listener_even_with_fewer_permits_than_sockets(rig: Rig, echo_port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as second:
        second.setblocking(False)
        rule = NativeListenerRule(
            (rig.sock, second), HostPort("127.0.0.1", echo_port), LOOPBACK, Histogram(), Histogram()
        )
        assert isinstance(rig.link, LinkWithNativeListeners)
        listener = rig.link.listen(rule, 1, rig.handler)
        assert listener is not None
        with socket.create_connection(second.getsockname(), timeout=10):
            # The native listener on `second` has no permits, so it stops when a client connects. This test then
            # accepts the client itself.
            await rig.until("stopped True", "closed")
            accepted, _ = second.accept()
            accepted.close()


async def test_short_connections_are_reported_as_a_sum_and_use_no_permit(rig: Rig, echo_port: int) -> None:
    listener = rig.listen("127.0.0.1", echo_port, permits=1000)
    clients = 0

    def served() -> list[int]:
        return [sum(column) for column in zip(*rig.handler.served, strict=True)]

    async with asyncio.timeout(20):
        # On a slow machine, a connection can last longer than 50 ms. The native engine then reports the connection
        # individually. Therefore, the test opens connections until the native engine reports a sum.
        while not rig.handler.served:
            with await rig.connect() as client:
                await rig.echo(client)
            clients += 1
            while listener.clients:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
        while served()[0] + len(rig.handler.relays) < clients:
            await asyncio.sleep(0.01)
    alone = len(rig.handler.relays)
    assert served() == [clients - alone, 0, 5 * (clients - alone), 5 * (clients - alone)]
    assert listener.reserved == 1000 - alone
    listener.withdraw()


async def test_a_client_of_a_target_that_is_down_is_returned(rig: Rig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    rig.listen("127.0.0.1", port)
    with await rig.connect():
        await rig.until("stopped True", "returned", "closed")


async def test_a_client_of_a_target_that_does_not_answer_is_returned_early(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, contextlib.ExitStack() as stack:
        for _ in range(4):  # Fill the accept queue of the server, so that the kernel drops the next SYN.
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        rig.listen("127.0.0.1", server.getsockname()[1])
        monkeypatch.setattr(native_listener_group, "_RECALL_AFTER", 3600.0)
        with await rig.connect():
            await rig.until("stopped True", "returned", "closed")


async def test_the_clients_are_accepted_again_if_a_failed_native_engine_cannot_start(
    rig: Rig, echo_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gateway.relay.native_engine_runner import native_engines  # noqa: PLC0415 - the native engine is optional

    listener = rig.listen("127.0.0.1", echo_port)
    for runner in native_engines().runners:
        monkeypatch.setattr(runner, "_start", failing)
        with pytest.raises(OSError, match="Too many open files"):
            runner._restart()
    assert rig.handler.calls == ["stopped True", "closed"]
    listener.withdraw()
    listener.recall()


def failing() -> None:
    raise OSError(errno.EMFILE, "Too many open files")


@pytest.mark.parametrize("host", ["localhost", "db.example", "/run/db.sock"])
async def test_only_targets_with_an_ip_address_are_dialed_in_the_native_engine(rig: Rig, host: str) -> None:
    assert rig.listen(host, 5432) is None


async def test_a_disabled_native_engine_stops_accepting_and_relaying(rig: Rig, echo_port: int) -> None:
    rig.listen("127.0.0.1", echo_port)
    use_native_engine(enabled=False)
    assert rig.handler.calls == ["stopped False"]
    await rig.until("stopped False", "closed")
    assert rig.listen("127.0.0.1", echo_port) is None
    near, far = socket.socketpair(), socket.socketpair()
    relay = relay_sockets(near[1], far[1], Histogram())
    assert type(relay).__name__ == "SocketRelay"
    for each in (near[0], far[0]):
        each.close()
    await asyncio.wait({relay.ended}, timeout=10)


async def test_without_descriptors_the_event_loop_accepts(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, calls = os.dup, 0

    def dup(descriptor: int) -> int:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError(errno.EMFILE, "Too many open files")
        return real(descriptor)

    monkeypatch.setattr(os, "dup", dup)
    with caplog.at_level(logging.WARNING):
        assert rig.listen("127.0.0.1", 1) is None
    assert "cannot accept clients" in caplog.text
    await rig.until("closed")
    with await rig.connect(), rig.sock.accept()[0]:
        assert rig.handler.calls == ["closed"]
