"""Implements a TLS client connection that supports half-close (RFC 8446, section 6.1).

asyncio's TLS transport does not support half-close: it ends both directions together. In addition, it discards
received data when the connection fails.
"""

import asyncio
import contextlib
import socket
import ssl

from gateway.relay.dead_peer_detector import dead_peer_detector
from gateway.relay.lingering_close import lingering_closer
from gateway.relay.send_buffer import SendBuffer
from gateway.relay.sockets import cap_retransmit_interval, has_failed, limit_unsent, reset

_CHUNK = 128 * 1024
_BACKLOG = 64 * 1024
"""Maximum number of unsent bytes in the kernel. The limit is low, because `StreamBridge` buffers data too."""


class TlsSocket:
    """The client side of a TLS connection. One task can read while another task writes.

    Args:
        sock: A connected, non-blocking socket. The TLS connection owns it.
        context: The TLS settings of the client.
        name: The server name to verify.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, name: str) -> None:
        self._sock = sock
        dead_peer_detector().watch(sock)
        self._loop = asyncio.get_running_loop()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        self._unsent = SendBuffer()
        self._sent: asyncio.Future[None] | None = None
        """A future that is done when the socket has accepted all of `_unsent`, or has failed.

        None if no data is unsent.
        """
        self._has_writer = False
        """Whether a writer callback for the socket is registered with the event loop."""
        self._plaintext = bytearray()
        self._read_error: ssl.SSLError | None = None
        self._at_end = False

    def limit_unsent(self) -> None:
        """Limit the unsent data and the time between retransmissions, so that SSH through the proxy is responsive."""
        cap_retransmit_interval(self._sock)
        limit_unsent(self._sock, _BACKLOG)

    @property
    def supports_half_close(self) -> bool:
        """Whether the server can still send data after it has received close_notify.

        In TLS 1.2, the server must close the connection instead (RFC 5246, section 7.2.1).
        """
        return self._tls.version() == "TLSv1.3"

    @property
    def was_reset(self) -> bool:
        """Whether the connection failed. If so, sent data might be lost."""
        return has_failed(self._sock)

    async def handshake(self) -> None:
        """Perform the handshake and verify the server.

        Raises:
            ssl.SSLError: The handshake failed, or the server's certificate is not valid.
            OSError: The connection failed.
        """
        try:
            await self._do_handshake()
        except BaseException:
            self._send_outgoing()  # send the TLS alert, which reports the cause to the server
            self._stop_sending()
            raise
        self._process_incoming()

    async def read(self, max_bytes: int = _CHUNK) -> bytes:
        """Wait for decrypted data.

        Args:
            max_bytes: Maximum number of bytes to return.

        Returns:
            The decrypted data; empty if the server has sent close_notify.

        Raises:
            OSError: The connection failed, or ended without close_notify, for example because of a truncation attack.
        """
        while not self._plaintext:
            if self._read_error is not None:
                raise self._read_error
            if self._at_end:
                return b""
            await self._receive()
            self._process_incoming()
        data = bytes(self._plaintext[:max_bytes])
        del self._plaintext[:max_bytes]
        return data

    async def write(self, data: bytes) -> None:
        """Send all of `data`.

        Raises:
            OSError: The connection failed.
        """
        self._tls.write(data)
        await self._flush()

    async def end(self) -> None:
        """Send close_notify. Keep the receiving direction open.

        Raises:
            OSError: The connection failed.
        """
        # `unwrap` also looks for the server's close_notify in the received records. This loses no data, because
        # `_process_incoming` has already decrypted every complete record.
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        await self._flush()

    def close(self) -> None:
        """Close the socket. The kernel still delivers all sent data."""
        self._stop_sending()
        dead_peer_detector().unwatch(self._sock)
        lingering_closer().close_later(self._sock, reset_after=False)

    def abort(self) -> None:
        """Reset the connection."""
        self._stop_sending()
        dead_peer_detector().unwatch(self._sock)
        reset(self._sock)

    async def _do_handshake(self) -> None:
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
        self._incoming.write(data)

    def _process_incoming(self) -> None:
        """Decrypt all received data. If OpenSSL responds with a message, such as an alert or a KeyUpdate, send it."""
        self._decrypt()
        self._send_outgoing()

    def _decrypt(self) -> None:
        try:
            while data := self._tls.read(_CHUNK):
                self._plaintext += data
        except ssl.SSLWantReadError:
            return
        except ssl.SSLZeroReturnError:
            self._at_end = True
        except ssl.SSLError as error:
            self._read_error = error
        else:
            self._at_end = True

    async def _flush(self) -> None:
        self._send_outgoing()
        if self._sent is not None:
            await asyncio.shield(self._sent)

    def _send_outgoing(self) -> None:
        """Send the outgoing data that the socket accepts now. Send the rest when the socket accepts more."""
        data = self._outgoing.read()
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
            self._has_writer = True
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
        sent = self._sent
        self._stop_sending()
        self._sent = sent
        if sent is not None:
            sent.set_exception(error)
            sent.exception()  # mark the exception as retrieved, so that asyncio does not log it

    def _stop_sending(self) -> None:
        self._sent = None
        if self._has_writer:
            self._has_writer = False
            self._loop.remove_writer(self._sock)
