"""A plain socket whose other end speaks TLS: for users that want a socket, where there is none."""

import asyncio
import contextlib
import select
import socket
import ssl
import time
from collections.abc import Callable

from gateway.relay.sockets import tune

_CHUNK = 128 * 1024
_LOOK = 0.5
_PATIENCE = 15.0
"""Seconds for which an answer may pause once its client has said all."""
_pumps: set[asyncio.Task[None]] = set()


class Splice:
    """Carries bytes between `sock` and a TLS connection, until either is over.

    The end of what the client sends cannot be told: asyncio's TLS has no half-close.

    Args:
        reader: Of the TLS connection.
        writer: Of the TLS connection, which is closed at the end.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._ours, self.sock = socket.socketpair()
        """What all that `reader` gives can be read from, and what `writer` is to send be written to."""
        tune(self._ours)
        tune(self.sock)
        self.on_broken: Callable[[], None] = lambda: None
        """Called when the far side's end is none, before `sock` shows one: a socket pair knows only clean ends."""
        self.on_lost: Callable[[], None] = lambda: None
        """Called when the far side has ended well, and something that was to be sent to it is lost."""
        self._reader = reader
        self._writer = writer
        self._heard = 0.0
        self._broken = False
        pump = asyncio.get_running_loop().create_task(self._pump())
        _pumps.add(pump)
        pump.add_done_callback(_pumps.discard)

    def break_off(self) -> None:
        """The client did not end cleanly: nor must the far side see that it did."""
        self._broken = True

    async def _pump(self) -> None:
        forth = asyncio.create_task(self._forth())
        back = asyncio.create_task(self._back())
        gone = asyncio.create_task(self._gone(forth))
        jobs = (forth, back, gone)
        try:
            # What the far side says is wanted until it has said all, or nobody is there to hear it.
            await asyncio.wait({back, gone}, return_when=asyncio.FIRST_COMPLETED)
            if gone.done() and not self._broken:  # what the client said last is still on its way
                await asyncio.wait({forth}, timeout=_PATIENCE)
        finally:
            nobody_hears = gone.done() and not gone.cancelled() and gone.result()
            for job in jobs:
                job.cancel()
            said, heard, _ = await asyncio.gather(*jobs, return_exceptions=True)
            if not nobody_hears and (heard is not True or isinstance(said, Exception)):
                self._broken = True
                self.on_broken()
            elif _discard(self._ours):
                self.on_lost()
            self._ours.close()
            if self._broken:
                self._writer.transport.abort()
            else:
                self._writer.close()
        for error in (said, heard):
            if isinstance(error, Exception) and not isinstance(error, OSError):
                raise error

    async def _gone(self, forth: "asyncio.Task[None]") -> bool:
        """Wait until the other end of the pair is closed, or (False) has said all and hears nothing any more.

        It cannot be told to the far side that a client has said all, so one that waits for that end would wait for
        ever.
        """
        poller = select.poll()
        poller.register(self._ours, 0)  # asks for nothing, and is told of a hangup (poll(2))
        done = 0.0
        while not poller.poll(0):
            await asyncio.sleep(_LOOK)
            if forth.done():
                done = done or time.monotonic()
                if time.monotonic() - max(done, self._heard) > _PATIENCE:
                    return False
        return True

    async def _forth(self) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(self._ours, _CHUNK):
            self._writer.write(data)
            await self._writer.drain()

    async def _back(self) -> bool:
        """Says at the end whether that was one, rather than a connection that was cut."""
        loop = asyncio.get_running_loop()
        while data := await self._reader.read(_CHUNK):
            self._heard = time.monotonic()
            await loop.sock_sendall(self._ours, data)
        if not _said_goodbye(self._writer):
            return False
        self._ours.shutdown(socket.SHUT_WR)
        return True


def _discard(sock: socket.socket) -> bool:
    """Take no more from `sock`, and drop what is unread: closed with that, its peer fails before it has read all.

    Returns:
        Whether anything was dropped.
    """
    dropped = False
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RD)
        while sock.recv(_CHUNK):
            dropped = True
    return dropped


def _said_goodbye(writer: asyncio.StreamWriter) -> bool:
    """Whether the far side ended with close_notify (RFC 8446, section 6.1): without, somebody may have cut it."""
    try:
        writer.get_extra_info("ssl_object").read(1)
    except ssl.SSLZeroReturnError:
        return True
    except ssl.SSLError:
        return False
    return False
