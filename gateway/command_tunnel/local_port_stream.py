"""Implements a stream over a connection to the local port of a program."""

import asyncio
import errno
import os
import socket
import time

from gateway.command_tunnel.listening_process import ListeningProcess
from gateway.contracts.link import Stream
from gateway.relay.lingering_close import lingering_closer
from gateway.relay.sockets import has_failed, reset

_CHUNK = 64 * 1024
_EXIT_DELAY = 0.3
"""Seconds to wait for the process to exit after it has closed a connection. The kernel closes the connections of a
killed process without an error, so only the exit shows that the data is incomplete."""


class LocalPortStream:
    """A connection to a program's local port; implements `gateway.relay.byte_stream.ByteStream`.

    Args:
        sock: The connected, non-blocking socket. The stream owns it.
        process: The process that listens on the port.
    """

    supports_half_close = True

    def __init__(self, sock: Stream, process: ListeningProcess) -> None:
        self._sock = sock
        self._process = process
        process.connections += 1
        self._loop = asyncio.get_running_loop()

    def limit_unsent(self) -> None:
        """Do nothing, because the socket is connected to a program on this host and needs no limit of unsent data."""

    @property
    def was_reset(self) -> bool:
        """Whether the connection was reset or has failed."""
        return has_failed(self._sock)

    async def read(self) -> bytes:
        """Wait for data. Return empty bytes if the program has shut down its sending direction but still runs.

        Raises:
            OSError: The connection failed, or the process has exited.
        """
        data = await self._loop.sock_recv(self._sock, _CHUNK)
        if data:
            self._process.last_received = time.monotonic()
        elif await self._process.child.exits_within(_EXIT_DELAY) or self._process.child.is_exiting:
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        return data

    async def write(self, data: bytes) -> None:
        """Send all of `data`.

        Raises:
            OSError: The connection failed.
        """
        await self._loop.sock_sendall(self._sock, data)

    async def end(self) -> None:
        """Shut down the direction to the program (`SHUT_WR`). The program can still send data."""
        self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the connection. Returns immediately; the kernel still delivers all sent data to the program."""
        self._process.connections -= 1
        lingering_closer().close_later(self._sock, reset_after=False)

    def abort(self) -> None:
        """Reset the connection."""
        self._process.connections -= 1
        reset(self._sock)
