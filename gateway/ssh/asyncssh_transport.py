"""Implements `AsyncsshTransport`, an asyncio transport for asyncssh, and logs in to SSH servers over it."""

import asyncio
import logging
import socket
import time
from typing import Any

import asyncssh
from asyncssh.connection import SSHClientConnectionOptions

from gateway.relay.fd_poller import READ, WRITE, poller
from gateway.ssh.send_queue import SendQueue
from gateway.ssh.ssh_connection import SshConnection

log = logging.getLogger(__name__)

REKEY_BYTES = 16 << 30
"""Number of bytes in one direction after which a key exchange starts. This value is far below the limit of one
AES-GCM key (NIST SP 800-38D, section 8.3), and large enough that key exchanges do not affect throughput."""
_RECEIVE_SIZE = 128 * 1024
"""Maximum number of bytes per read. For each packet, asyncssh copies all bytes that follow the packet in its buffer,
so larger reads would cost more CPU time."""
_MAX_GREETING = 255


class AsyncsshTransport(asyncio.Transport):
    """A transport for asyncssh that owns the socket of one SSH connection.

    Args:
        sock: A connected, non-blocking socket. The transport owns it, and closes it.
        conn: The asyncssh connection.
    """

    def __init__(self, sock: socket.socket, conn: SshConnection) -> None:
        super().__init__()
        self.queue = SendQueue(sock, conn, self._update_interest, self._close)
        """Sends the packets, and decides when each relay of the connection may send."""
        self.greeting = b""
        """The first bytes that the server sent. If the server refuses the connection, they can contain the reason."""
        self._last_received = time.monotonic()
        self._sock = sock
        self._conn = conn
        self._fd = sock.fileno()
        self._closed = False
        self._ready = poller()
        self._mask = READ
        self._ready.add(self._fd, self._on_event, READ)

    # asyncssh calls the methods below.

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
        """Send a packet; see `SendQueue.write`."""
        self.queue.write(data)

    def abort(self) -> None:
        """See `SshConnectionTransport.abort`."""
        if self._closed:
            return
        self.queue.flush()
        self._close(None)

    close = abort

    # `SshConnection` calls the methods below.

    def on_sending_changed(self) -> None:
        """See `SshConnectionTransport.on_sending_changed`."""
        self.queue.update_may_send()
        if self.queue.may_send:
            self.queue.give_turns_later()

    def on_packet_processed(self) -> None:
        """Do nothing: the number of processed packets does not matter to this transport."""

    # The pool calls the method below.

    def last_heard(self, within: float) -> float:
        """Return the monotonic time, in seconds, at which the peer last showed that it is alive.

        Received data shows that the peer is alive. After a key exchange has lasted for `within` seconds, further data
        does not count, because a peer that never completes the exchange is useless.

        Args:
            within: Maximum duration of a key exchange, in seconds.
        """
        if self._conn.may_send_data:
            return self._last_received
        return min(self._last_received, self._conn.kex_started + within)

    # `native_hand_over.hand_over` calls the next two methods.

    def can_release(self) -> bool:
        """Flush the queue, and return whether the caller may call `release`.

        The caller may do so if all packets are sent and processed, and no key exchange is in progress.
        """
        self.queue.flush()
        return not self._closed and self.queue.may_send and self._conn.between_packets

    def release(self) -> socket.socket:
        """Stop using the socket, and return it. The caller then owns the socket."""
        self._closed = True
        self._ready.remove(self._fd)
        self.queue.close()
        return self._sock

    def _update_interest(self) -> None:
        mask = (0 if self.queue.congested else READ) | (WRITE if self.queue.blocked else 0)
        if mask != self._mask and not self._closed:
            self._mask = mask
            self._ready.modify(self._fd, mask)

    def _on_event(self, event: int) -> None:
        try:
            if event & WRITE and self.queue.blocked:
                self.queue.drain()
                self._update_interest()
            if event & ~WRITE and not self._closed:
                self._receive()
                # While `may_send` is true, the queue has no backlog, and the correct mask is READ.
                if self._mask != READ or not self.queue.may_send:
                    self._update_interest()
        except Exception as error:
            log.exception("an SSH transport failed: closing the SSH connection")
            self._close(error)

    def _receive(self) -> None:
        """Read from the socket once, and pass the data to asyncssh. If a key exchange is due, start one."""
        try:
            data = self._sock.recv(_RECEIVE_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            self._close(error)
            return
        if not data:
            self._close(None)
            return
        self._last_received = time.monotonic()
        self.greeting = self.greeting or data[:_MAX_GREETING]
        if not self._conn.transport_closed:
            self._conn.data_received(data)
        self._conn.count_received(len(data))

    def _close(self, error: Exception | None) -> None:
        if self._closed:
            return
        self._closed = True
        self._ready.remove(self._fd)
        self._sock.close()
        self.queue.close()
        self._conn.connection_lost(error)


async def log_in(sock: socket.socket, **arguments: Any) -> SshConnection:
    """Log in over `sock`, as `asyncssh.connect` does. Return an `SshConnection` that uses an `AsyncsshTransport`.

    Args:
        sock: A connected, non-blocking socket. The connection owns and closes it. If this function raises, the caller
            must close the socket.
        arguments: Arguments of `asyncssh.connect`.

    Raises:
        asyncssh.Error, OSError, ValueError: See `asyncssh.connect`.
    """
    options = await SSHClientConnectionOptions.construct(None, rekey_bytes=REKEY_BYTES, **arguments)
    options.waiter = asyncio.get_running_loop().create_future()
    conn = SshConnection(options)
    transport = conn.own_transport = AsyncsshTransport(sock, conn)
    try:
        conn.connection_made(transport)
        conn.set_extra_info(host=arguments["host"], port=arguments["port"])
        await options.waiter
    except BaseException:
        options.waiter.cancel()
        close_now(conn)
        raise
    return conn


def transport_of(conn: asyncssh.SSHClientConnection) -> AsyncsshTransport | None:
    """Return the `AsyncsshTransport` of an SSH connection.

    Returns:
        The transport. None if the native engine handles the SSH connection, or if `asyncssh.connect` opened the SSH
        connection.
    """
    transport = conn.own_transport if isinstance(conn, SshConnection) else None
    return transport if isinstance(transport, AsyncsshTransport) else None


def close_now(conn: SshConnection) -> None:
    """Close a connection's socket and cancel its tasks, without waiting."""
    conn.own_transport.abort()
    for task in list(conn._tasks):  # noqa: SLF001 - asyncssh has no public equivalent
        task.cancel()
