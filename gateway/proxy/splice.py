"""A plain socket whose other end speaks TLS: for users that need a socket."""

import asyncio
import contextlib
import enum
import select
import socket
import time
from collections.abc import Callable

from gateway.proxy.tls import TlsSocket
from gateway.relay.sockets import tune

_CHUNK = 128 * 1024
_LOOK = 0.5
_PATIENCE = 15.0
"""Seconds for which a response may pause after its client's end, where TLS cannot pass that end on."""
_pumps: set[asyncio.Task[None]] = set()


class _Response(enum.Enum):
    """How the direction from the far side ended."""

    WHOLE = enum.auto()
    BROKEN = enum.auto()
    UNREAD = enum.auto()
    """The user has closed its socket."""


class Splice:
    """Carries bytes between `sock` and a TLS connection, until both directions are over.

    Args:
        tls: The connection. This object owns it.
    """

    def __init__(self, tls: TlsSocket) -> None:
        self._ours, self.sock = socket.socketpair()
        """The user's end: it owns it."""
        tune(self._ours)
        tune(self.sock)
        self.on_broken: Callable[[], None] = lambda: None
        """Called when the TLS connection broke, before `sock` shows an end: a socket pair only has clean ones."""
        self.on_lost: Callable[[], None] = lambda: None
        """Called when the response is whole, but the far side did not take everything that it was sent."""
        self.ended_well: Callable[[], bool] = lambda: True
        """Whether the end of what the user sends is clean: a socket pair shows a reset as an end, too."""
        self._tls = tls
        self._heard = 0.0
        self._pump = asyncio.get_running_loop().create_task(self._run())
        _pumps.add(self._pump)
        self._pump.add_done_callback(_pumps.discard)

    def break_off(self) -> None:
        """Reset the TLS connection: the user's stream did not end cleanly."""
        # Not at once: a task that is cancelled before its first step never reaches its `finally`.
        asyncio.get_running_loop().call_soon(self._pump.cancel)

    async def _run(self) -> None:
        forth = asyncio.create_task(self._forth())
        back = asyncio.create_task(self._back())
        over = False
        try:
            await self._until_over(forth, back)
            over = True
        finally:
            forth.cancel()
            back.cancel()
            try:
                # It waits for both also when it is cancelled itself.
                await asyncio.gather(forth, back, return_exceptions=True)
            finally:
                sent, response = (_result(job) for job in (forth, back))
                self._close(sent=over and sent is True, response=response)
        for failure in (sent, response):
            if isinstance(failure, Exception):
                raise failure

    async def _until_over(self, forth: "asyncio.Task[bool]", back: "asyncio.Task[_Response]") -> None:
        await asyncio.wait({forth, back}, return_when=asyncio.FIRST_COMPLETED)
        if not forth.done() and back.result() is _Response.WHOLE:
            await asyncio.wait({forth})
        elif not forth.done() and back.result() is _Response.UNREAD:  # what the user sent last is still on its way
            await asyncio.wait({forth}, timeout=_PATIENCE)
        elif not back.done():
            await self._until_response(back)

    async def _until_response(self, back: "asyncio.Task[_Response]") -> None:
        """Wait for the rest of the response, while the user is there to read it."""
        poller = select.poll()
        poller.register(self._ours, 0)  # reports a hangup only (poll(2))
        ended = time.monotonic()
        while not (back.done() or poller.poll(0)):
            if not self._tls.half_closes and time.monotonic() - max(ended, self._heard) > _PATIENCE:
                return
            await asyncio.wait({back}, timeout=_LOOK)

    async def _forth(self) -> bool:
        """Carry what the user sends; return whether the far side took all of it."""
        loop = asyncio.get_running_loop()
        try:
            while data := await loop.sock_recv(self._ours, _CHUNK):
                await self._tls.write(data)
            if not self.ended_well():
                return False
            if self._tls.half_closes:
                await self._tls.end()
        except OSError:
            return False
        return True

    async def _back(self) -> _Response:
        """Carry what the far side sends."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                data = await self._tls.read()
            except OSError:
                return _Response.BROKEN
            self._heard = time.monotonic()
            try:
                if not data:
                    self._ours.shutdown(socket.SHUT_WR)
                    return _Response.WHOLE
                await loop.sock_sendall(self._ours, data)
            except OSError:
                return _Response.UNREAD

    def _close(self, *, sent: bool, response: object) -> None:
        if response is _Response.BROKEN:
            self.on_broken()
        dropped = _drop_unread(self._ours)
        if response is _Response.WHOLE and (dropped or not sent):
            self.on_lost()
        self._ours.close()
        if sent and response is not _Response.BROKEN:
            self._tls.close()
        else:
            self._tls.abort()


def _result(job: "asyncio.Task[bool] | asyncio.Task[_Response]") -> object:
    """What `job`, which is done, returned or raised; None: it was cancelled."""
    return None if job.cancelled() else job.exception() or job.result()


def _drop_unread(sock: socket.socket) -> bool:
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
