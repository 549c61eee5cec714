"""Messages between the main process and a worker process."""

import asyncio
import logging
import os
import pickle
import socket
import struct
from typing import Any

import pytest

from gateway.app.worker.messenger import Messenger


def packed(body: bytes, descriptors: int) -> bytes:
    return struct.pack(">II", len(body), descriptors) + body


class Heard:
    """One end of the connection, and the messages that this end received."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.messages: list[tuple[Any, list[int]]] = []
        self.ends = 0
        self.ended = asyncio.Event()
        self.messenger = Messenger(sock, lambda message, fds: self.messages.append((message, fds)), self._end)

    def _end(self) -> None:
        self.ends += 1
        self.ended.set()


async def test_an_invalid_message_closes_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    near, far = socket.socketpair()
    reader, writer = os.pipe()
    with far, caplog.at_level(logging.ERROR):
        heard = Heard(near)
        # The class of this message exists only in another version of the gateway. Another message follows directly.
        strange = packed(b"cgateway.app.worker.messages\nOfAnotherVersion\n.", 1)
        socket.send_fds(
            far, [packed(pickle.dumps("before"), 0) + strange + packed(pickle.dumps("after"), 0)], [writer]
        )
        os.close(writer)
        async with asyncio.timeout(20):
            await heard.ended.wait()
        assert heard.messages == [("before", [])]
        assert "cannot decode a message" in caplog.text
        assert far.recv(1) == b""  # The other process gets an end-of-file.
    assert os.read(reader, 1) == b""  # The messenger closed the descriptor of the unknown message.
    os.close(reader)
    await asyncio.sleep(0)
    assert heard.ends == 1


async def test_no_message_is_received_after_close() -> None:
    near, far = socket.socketpair()
    near.setblocking(False)
    heard: list[Any] = []

    def hang_up(message: Any, fds: list[int]) -> None:
        heard.append(message)
        messenger.close()

    messenger = Messenger(near, hang_up, lambda: None)
    with far:
        far.sendall(packed(pickle.dumps("stop"), 0) + packed(pickle.dumps("more"), 0))
        async with asyncio.timeout(20):
            while not heard:
                await asyncio.sleep(0.01)
    assert heard == ["stop"]
