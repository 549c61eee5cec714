"""A TLS connection whose two directions end one by one (RFC 8446, section 6.1).

asyncio's TLS ends both at once, and drops what it has read when the connection fails.
"""

import asyncio
import contextlib
import socket
import ssl

from gateway.relay.linger import lingerer
from gateway.relay.sockets import reset

_CHUNK = 128 * 1024


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
        self._plain = bytearray()
        self._failed: ssl.SSLError | None = None
        self._read_done = False

    @property
    def half_closes(self) -> bool:
        """Whether the peer may go on sending after our end; before TLS 1.3 it must stop (RFC 5246, section 7.2.1)."""
        return self._tls.version() == "TLSv1.3"

    async def handshake(self) -> None:
        """Agree on keys, and verify the server.

        Raises:
            ssl.SSLError: They do not agree, or the server's certificate is not accepted.
            OSError: The connection failed.
        """
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._flush()
                await self._receive()
            except ssl.SSLError:
                with contextlib.suppress(OSError):  # the alert says why, if it arrives
                    self._sock.send(self._leaving.read())
                raise
        await self._flush()
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
        lingerer().take(self._sock, lost=False)

    def abort(self) -> None:
        """Close the socket with a reset."""
        reset(self._sock)

    async def _receive(self) -> None:
        data = await self._loop.sock_recv(self._sock, _CHUNK)
        if not data:
            raise ConnectionResetError("the TLS connection ended without close_notify")
        self._arrived.write(data)

    def _open(self) -> None:
        """Decrypt all that has arrived."""
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
        if self._leaving.pending:
            await self._loop.sock_sendall(self._sock, self._leaving.read())
