"""Tests which object owns a client's socket before and after the gateway joins the client to a target."""

import asyncio
import socket
from typing import Any, cast

import pytest

from gateway.contracts.config_types import HostPort
from gateway.contracts.link import Link
from gateway.errors import DialError, FailureReason
from gateway.forwarding.pending_client import PendingClient
from gateway.metric_types import Histogram
from gateway.relay.direct_link import DirectLink
from gateway.relay.fd_poller import poller
from gateway.relay.sockets import reset

TARGET = HostPort("db", 1)


class Joining(DirectLink):
    """A link whose relay takes ownership of the client's socket, or that fails to join the client."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.error = error

    async def join(self, client: socket.socket, *_: object, **__: object) -> Any:
        if self.error is not None:
            raise self.error
        return object()


async def accepted() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        client.setblocking(False)
        return client, listener.accept()[0]


async def received(client: socket.socket) -> bytes:
    async with asyncio.timeout(5):
        return await asyncio.get_running_loop().sock_recv(client, 1)


@pytest.mark.parametrize("error", [None, DialError(FailureReason.REFUSED, "no")])
async def test_only_a_client_that_was_not_joined_is_reset(error: Exception | None) -> None:
    client, sock = await accepted()
    pending = PendingClient(sock)
    if error is None:
        await pending.join(cast("Link", Joining()), TARGET, Histogram())
    else:
        with pytest.raises(DialError):
            await pending.join(cast("Link", Joining(error)), TARGET, Histogram())
    pending.reset()
    assert (sock.fileno() < 0) is (error is not None)
    if error is not None:
        with pytest.raises(ConnectionResetError):
            await received(client)
        pending.reset()  # A second reset has no effect.
    reset(sock)
    client.close()


async def test_a_client_is_not_watched_after_its_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    client, sock = await accepted()
    pending, fd = PendingClient(sock), sock.fileno()
    removed: list[int] = []
    monkeypatch.setattr(poller(), "remove", removed.append)
    pending.watcher.start()
    pending.reset()
    assert removed == [fd]
    client.close()
