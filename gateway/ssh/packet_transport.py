"""Implements the asyncio transport of an SSH connection, with the packet reader and writer of the data plane."""

import asyncio
import logging
import socket
from typing import Any

import asyncssh
from asyncssh.connection import SSHClientConnectionOptions

from gateway.relay.poller import READ, WRITE, poller
from gateway.ssh.client_connection import ClientConnection
from gateway.ssh.packet_reader import PacketReader
from gateway.ssh.packet_writer import PacketWriter

log = logging.getLogger(__name__)

REKEY_BYTES = 16 << 30
"""Bytes in each direction between two key exchanges. This value is far below the limit of one AES-GCM key (NIST SP
800-38D, section 8.3), and large enough that key exchanges do not affect throughput."""
_FAILED = "the data plane failed; its SSH connection is closed"
"""Log message for an unexpected exception. After it, the state of the reader and of the relays can be
inconsistent."""


class PacketTransport(asyncio.Transport):
    """Owns the socket of one SSH connection. asyncssh uses it as the transport of the connection.

    Args:
        sock: A connected, non-blocking socket. The transport owns it, and closes it.
        conn: The asyncssh connection.
    """

    def __init__(self, sock: socket.socket, conn: ClientConnection) -> None:
        super().__init__()
        self.reader = PacketReader(sock, conn, self._close)
        self.writer = PacketWriter(sock, conn, self._update_interest, self._close)
        self._sock = sock
        self._conn = conn
        self._fd = sock.fileno()
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._ready = poller()
        self._mask = READ
        self._ready.add(self._fd, self._on_event, READ)

    # asyncssh calls these methods.

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return `socket`, `sockname` or `peername`; see `asyncio.BaseTransport.get_extra_info`."""
        if name == "socket":
            return self._sock
        try:
            if name == "sockname":
                return self._sock.getsockname() or default
            if name == "peername":
                return self._sock.getpeername() or default
        except OSError:
            return default
        return default

    def is_closing(self) -> bool:
        """Return whether the socket is closed."""
        return self._closed

    def write(self, data: Any) -> None:
        """See `PacketWriter.write`."""
        self.writer.write(data)

    def abort(self) -> None:
        """Try once to write the batch, then close the socket."""
        if self._closed:
            return
        self.writer.flush()
        self._close(None)

    close = abort

    def last_heard(self, within: float) -> float:
        """Return when the peer last showed that it is alive.

        During a key exchange, received data counts as a sign of life only for `within` seconds: nothing can be sent
        until the peer completes the exchange. On a slow path, the peer first sends all the data that it has queued.

        Args:
            within: Maximum duration of a key exchange, in seconds.

        Returns:
            The monotonic time, in seconds.
        """
        if self._conn.may_send_data:
            return self.reader.last_received
        return min(self.reader.last_received, self._conn.kex_started + within)

    # ClientConnection calls this method.

    def schedule_resume(self) -> None:
        """Dispatch the buffered packets in the next loop iteration, after asyncssh has processed its packet."""
        if self.reader.buffered:
            self._loop.call_soon(self._resume)

    # `hand_over` calls these methods.

    def can_release(self) -> bool:
        """Return whether everything is sent and processed, and no key exchange is in progress."""
        self.writer.finish_turn()
        return not self._closed and self.writer.may_send and self._conn.between_packets

    def release(self) -> tuple[socket.socket, bytes]:
        """Stop using the socket.

        Returns:
            The socket, which the caller owns, and the bytes that were received and not processed.
        """
        self._closed = True
        self._ready.remove(self._fd)
        self.reader.close()
        self.writer.close()
        return self._sock, self.reader.take_buffered()

    def _resume(self) -> None:
        try:
            self.reader.resume()
            self._update_interest()
        except Exception as error:
            log.exception(_FAILED)
            self._close(error)

    def _update_interest(self) -> None:
        # If READ stayed in the mask, epoll would report the socket continuously while the receive buffer is full.
        paused = self.reader.full or self.writer.congested
        mask = (0 if paused else READ) | (WRITE if self.writer.blocked else 0)
        if mask != self._mask and not self._closed:
            self._mask = mask
            self._ready.modify(self._fd, mask)

    def _on_event(self, event: int) -> None:
        try:
            if event & WRITE and self.writer.blocked:
                self.writer.drain()
                self._update_interest()
            if event & ~WRITE and not self._closed:
                self.reader.receive()
                # In the common case, data can be sent and there is no backlog, so the event mask does not change.
                if self._mask != READ or not self.writer.may_send or self.reader.full:
                    self._update_interest()
        except Exception as error:
            log.exception(_FAILED)
            self._close(error)

    def _close(self, error: Exception | None) -> None:
        if self._closed:
            return
        self._closed = True
        self._ready.remove(self._fd)
        self._sock.close()
        self.reader.close()
        self.writer.close()
        self._conn.connection_lost(error)


async def log_in(sock: socket.socket, *, native: bool, **arguments: Any) -> ClientConnection:
    """Connect and log in over `sock`, as `asyncssh.connect` does, with a `ClientConnection` and its transport.

    Args:
        sock: A connected, non-blocking socket. It is closed when the connection closes, or when this function raises.
        native: Whether the native data plane carries the channels if the negotiated cipher is AES-GCM.
        arguments: Arguments of `asyncssh.connect`.

    Raises:
        asyncssh.Error, OSError, ValueError: See `asyncssh.connect`.
    """
    options = await SSHClientConnectionOptions.construct(None, rekey_bytes=REKEY_BYTES, **arguments)
    options.waiter = asyncio.get_running_loop().create_future()
    conn = ClientConnection(options, native=native)
    transport = conn.packet_transport = PacketTransport(sock, conn)
    try:
        conn.connection_made(transport)
        conn.set_extra_info(host=arguments["host"], port=arguments["port"])
        await options.waiter
    except BaseException:
        options.waiter.cancel()
        close_now(conn)
        raise
    return conn


def transport_of(conn: asyncssh.SSHClientConnection) -> PacketTransport | None:
    """Return the transport of a connection from `log_in`.

    Returns:
        None if the engine carries the connection, or if the connection is from `asyncssh.connect`.
    """
    transport = conn.packet_transport if isinstance(conn, ClientConnection) else None
    return transport if isinstance(transport, PacketTransport) else None


def close_now(conn: ClientConnection) -> None:
    """Close a connection's socket and cancel its tasks, without waiting."""
    conn.packet_transport.abort()
    for task in list(conn._tasks):  # noqa: SLF001 - asyncssh has no public API for them
        task.cancel()
