"""A TLS connection whose two directions end one by one (RFC 8446, section 6.1).

asyncio's TLS ends both at once, and drops what it has read when the connection fails.
"""

import asyncio
import contextlib
import select
import socket
import ssl

from gateway.relay.linger import lingering_closer
from gateway.relay.send_buffer import SendBuffer
from gateway.relay.sockets import cap_retransmit_interval, limit_unsent, reset
from gateway.relay.stalled_peers import stalled_peers

_CHUNK = 128 * 1024
_BACKLOG = 64 * 1024
"""Bytes that wait in the kernel before they are first sent: fewer than where SSH has the socket: more wait above."""


class TlsSocket:
    """The client's side of a TLS connection; one task may read while another writes.

    Args:
        sock: Connected and non-blocking. This object owns it.
        context: The client's settings.
        name: The server name to verify.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, name: str) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._arrived, self._leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._arrived, self._leaving, server_hostname=name)
        self._unsent = SendBuffer()
        self._sent: asyncio.Future[None] | None = None
        """Done once the socket has taken all of `_unsent`, or has failed; None: it has taken all."""
        self._waits = False
        """Whether the loop watches for the socket to take more."""
        self._plain = bytearray()
        self._failed: ssl.SSLError | None = None
        self._read_done = False

    def limit_unsent(self) -> None:
        """Let little wait in the socket, and let a stalled one try again soon: for what is carried by SSH."""
        cap_retransmit_interval(self._sock)
        limit_unsent(self._sock, _BACKLOG)

    @property
    def half_closes(self) -> bool:
        """Whether the peer may go on sending after our end; before TLS 1.3 it must stop (RFC 5246, section 7.2.1)."""
        return self._tls.version() == "TLSv1.3"

    @property
    def was_reset(self) -> bool:
        """Whether the connection failed, so that the peer may not have taken everything."""
        poller = select.poll()
        poller.register(self._sock, 0)  # reports a failure only (poll(2))
        return any(event & select.POLLERR for _, event in poller.poll(0))

    async def handshake(self) -> None:
        """Agree on keys, and verify the server.

        Raises:
            ssl.SSLError: They do not agree, or the server's certificate is not accepted.
            OSError: The connection failed.
        """
        try:
            await self._shake_hands()
        except BaseException:
            self._offer()  # the alert says why, if it arrives
            self._stop_sending()
            raise
        self._open()

    async def read(self, most: int = _CHUNK) -> bytes:
        """Wait for plaintext; empty once the peer has ended its direction with close_notify.

        Args:
            most: Bytes to return at most.

        Raises:
            OSError: The connection failed, or ended without close_notify: somebody may have cut it.
        """
        while not self._plain:
            if self._failed is not None:
                raise self._failed
            if self._read_done:
                return b""
            await self._receive()
            self._open()
        data = bytes(self._plain[:most])
        del self._plain[:most]
        return data

    async def write(self, data: bytes) -> None:
        """Send all of it.

        Raises:
            OSError: The connection failed.
        """
        self._tls.write(data)
        await self._flush()

    async def end(self) -> None:
        """Send close_notify; the peer's direction stays open.

        Raises:
            OSError: The connection failed.
        """
        # OpenSSL then looks for the peer's close_notify, too. `_open` has left no whole record that it could drop.
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        await self._flush()

    def close(self) -> None:
        """Close the socket so that what was sent arrives."""
        self._stop_sending()
        lingering_closer().close_later(self._sock, reset_after=False)

    def abort(self) -> None:
        """Close the socket with a reset."""
        self._stop_sending()
        reset(self._sock)

    async def _shake_hands(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._flush()
                await self._receive()
        await self._flush()

    async def _receive(self) -> None:
        data = await self._loop.sock_recv(self._sock, _CHUNK)
        if not data:
            raise ConnectionResetError("the TLS connection ended without close_notify")
        self._arrived.write(data)

    def _open(self) -> None:
        """Decrypt all that has arrived; send the alert, or the answer to a KeyUpdate, to which that led."""
        self._decrypt()
        self._offer()

    def _decrypt(self) -> None:
        try:
            while data := self._tls.read(_CHUNK):
                self._plain += data
        except ssl.SSLWantReadError:
            return
        except ssl.SSLZeroReturnError:
            self._read_done = True
        except ssl.SSLError as error:
            self._failed = error
        else:
            self._read_done = True

    async def _flush(self) -> None:
        self._offer()
        if self._sent is not None:
            await asyncio.shield(self._sent)

    def _offer(self) -> None:
        """Send what the socket takes now, and the rest as soon as it takes more."""
        data = self._leaving.read()
        if not data:
            return
        if self._sent is not None:
            self._unsent.append(data)
            return
        try:
            count = self._sock.send(data)
        except BlockingIOError:
            count = 0
        except OSError as error:
            self._sent = self._loop.create_future()
            self._fail(error)
            return
        if count < len(data):
            self._unsent.append(memoryview(data)[count:])
            self._sent = self._loop.create_future()
            self._waits = True
            stalled_peers().mark_stalled(self._sock.fileno())
            self._loop.add_writer(self._sock, self._send_rest)

    def _send_rest(self) -> None:
        sent = self._sent
        if sent is None:
            return
        try:
            self._unsent.send_to(self._sock)
        except OSError as error:
            self._fail(error)
            return
        if not self._unsent:
            self._stop_sending()
            sent.set_result(None)

    def _fail(self, error: OSError) -> None:
        """Let this write and every later one fail."""
        sent = self._sent
        self._stop_sending()
        self._sent = sent
        if sent is not None:
            sent.set_exception(error)
            sent.exception()  # also where nothing waits for it

    def _stop_sending(self) -> None:
        self._sent = None
        if self._waits:
            self._waits = False
            self._loop.remove_writer(self._sock)
            stalled_peers().mark_progress(self._sock.fileno())
