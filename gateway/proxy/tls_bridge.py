"""A plain socket whose other end speaks TLS: for users that need a socket."""

import asyncio
import contextlib
import enum
import select
import socket
import time
from collections.abc import Callable
from math import inf

from gateway.proxy.tls import TlsSocket
from gateway.relay.linger import LINGER
from gateway.relay.pair import pair

_CHUNK = 128 * 1024
_SHORT_CHUNK = 16 * 1024
_SHORT_BACKLOG = 16 * 1024
"""Bytes that wait in a short pair. With those in a write, and in the TCP socket, they delay what is urgent."""
_LOOK = 0.5
_PATIENCE = 15.0
"""Seconds for which the far side may be silent after the user's end, before TLS 1.3: then it is sent that end."""
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
        short: Whether little may wait between the user and the far side: for a user whose urgent bytes share the
            connection with its bulk, as SSH's do.
    """

    def __init__(self, tls: TlsSocket, *, short: bool) -> None:
        if short:
            tls.keep_backlog_short()
        self._chunk = _SHORT_CHUNK if short else _CHUNK
        self.sock, self._ours = pair(_SHORT_BACKLOG if short else None)
        """The user's end, which the user owns, and ours."""
        self.sock.broken = lambda: self._broken
        self._broken = False
        self.on_lost: Callable[[], None] = lambda: None
        """Called when the far side does not take everything that it is sent: the response may go on."""
        self.ended_well: Callable[[], bool] = lambda: True
        """Whether the end of what the user sends is clean: a socket pair shows a reset as an end, too."""
        self._sent = 0
        self._tls = tls
        self._reading_since: float | None = None
        """Since when the far side is awaited, as a monotonic time; None: the user is."""
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
            while not (forth.done() or self._tls.was_reset):  # nothing is read that would show a reset
                await asyncio.wait({forth}, timeout=_LOOK)
        elif not forth.done() and back.result() is _Response.UNREAD:
            await self._until_sent(forth)
        if not self._tls.half_closes:
            await self._until_response(back, _PATIENCE)
            if _result(forth) is True:
                with contextlib.suppress(OSError, TimeoutError):
                    async with asyncio.timeout(_PATIENCE):
                        await self._tls.end()
        await self._until_response(back, inf)

    async def _until_sent(self, forth: "asyncio.Task[bool]") -> None:
        """Wait for what the user sent before it closed its socket, while the far side takes some of it."""
        before = -1
        while not forth.done() and self._sent != before:
            before = self._sent
            await asyncio.wait({forth}, timeout=LINGER)

    async def _until_response(self, back: "asyncio.Task[_Response]", patience: float) -> None:
        """Wait for the rest of the response, while the user is there to read it.

        Args:
            back: Carries it.
            patience: Seconds for which the far side may be silent.
        """
        poller = select.poll()
        poller.register(self._ours, 0)  # reports a hangup only (poll(2))
        began = time.monotonic()
        while not (back.done() or poller.poll(0)):
            since = self._reading_since
            if since is not None and time.monotonic() - max(began, since) > patience:
                return
            await asyncio.wait({back}, timeout=_LOOK)

    async def _forth(self) -> bool:
        """Carry what the user sends; return whether the far side took all of it."""
        try:
            while data := await self._from_user():
                await self._tls.write(data)
                self._sent += len(data)
            if not self.ended_well():
                return False
            if self._tls.half_closes:
                await self._tls.end()
        except OSError:
            # What the user sends from now on fails: it must not wait for a far side that takes nothing.
            _drop_unread(self._ours)
            self.on_lost()
            return False
        return True

    async def _from_user(self) -> bytes:
        try:
            return await asyncio.get_running_loop().sock_recv(self._ours, self._chunk)
        except OSError:  # only after all that it sent: the user has closed with something unread
            return b""

    async def _back(self) -> _Response:
        """Carry what the far side sends."""
        loop = asyncio.get_running_loop()
        while True:
            self._reading_since = time.monotonic()
            try:
                data = await self._tls.read()
            except OSError:
                return _Response.BROKEN
            self._reading_since = None
            try:
                if not data:
                    self._ours.shutdown(socket.SHUT_WR)
                    return _Response.WHOLE
                await loop.sock_sendall(self._ours, data)
            except OSError:
                return _Response.UNREAD

    def _close(self, *, sent: bool, response: object) -> None:
        if response is _Response.BROKEN or response is None:
            self._broken = True
        dropped = _drop_unread(self._ours)
        if response is _Response.WHOLE and (dropped or not sent):
            self.on_lost()
        self._ours.close()
        if sent and response is not _Response.BROKEN:
            self._tls.close()
        else:
            self._tls.abort()


def _result(job: "asyncio.Task[bool] | asyncio.Task[_Response]") -> object:
    """What `job` returned or raised; None: it was cancelled, or goes on."""
    return None if not job.done() or job.cancelled() else job.exception() or job.result()


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
