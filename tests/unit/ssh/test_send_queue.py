"""Tests whether each relay sends only little data at a time if the network is slow."""

import asyncio
import socket
import time
from types import SimpleNamespace
from typing import cast

import pytest

from gateway.contracts.states import CloseReason
from gateway.ssh import send_queue
from gateway.ssh.send_queue import SendQueue
from gateway.ssh.ssh_connection import SshConnection


class Relay:
    """A relay that writes 32 KiB to the queue each time the queue calls `resume_sending`."""

    def __init__(self, queue: SendQueue) -> None:
        self._queue = queue
        self.short: list[bool] = []
        """For each call of `resume_sending`, whether the queue permitted only little data."""

    def resume_sending(self) -> None:
        self.short.append(self._queue.contended)
        self._queue.write(bytes(32 * 1024))

    def abort(self, close_reason: CloseReason) -> None:
        pytest.fail("a relay was reset")


def fill(queue: SendQueue) -> None:
    """Write data to the queue until the socket accepts no more data."""
    while not queue.blocked:
        queue.write(bytes(32 * 1024))
        queue.flush()


def drain(queue: SendQueue, peer: socket.socket) -> None:
    """Read from `peer`, the other end of the connection, until the queue has sent its backlog."""
    while queue.blocked:
        peer.recv(1 << 20)
        queue.drain()


async def test_turns_stay_short_when_a_slow_path_takes_a_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send_queue, "_SLOW_PERIOD", 60.0)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        client.connect(server.getsockname())
        peer, _ = server.accept()
        client.setblocking(False)
        connection = cast(SshConnection, SimpleNamespace(transport_closed=False, may_send_data=True))
        with peer:
            queue = SendQueue(client, connection, lambda: None, lambda error: pytest.fail(str(error)))
            relays = [Relay(queue), Relay(queue)]
            for pause in (0.05, 0.0):
                fill(queue)
                for relay in relays:
                    queue.enqueue(relay)
                time.sleep(pause)  # noqa: ASYNC251 - the event loop has no other task
                drain(queue, peer)
            await asyncio.sleep(0)
            assert [relay.short for relay in relays] == [[True, True], [True, True]]
            queue.close()
