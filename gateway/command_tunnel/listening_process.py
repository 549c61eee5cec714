"""Controls a program that listens on a local port and forwards connections to one target."""

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from math import inf
from pathlib import Path

from gateway.command_tunnel.local_port_state import LocalPortState, read_local_ports
from gateway.command_tunnel.options import CommandTunnelOptions
from gateway.command_tunnel.sock_diag import read_connection
from gateway.command_tunnel.stall_timer import StallTimer
from gateway.contracts.config_types import HostPort
from gateway.contracts.link import Stream
from gateway.contracts.phase_timer import PhaseTimer
from gateway.errors import DialError, FailureReason, TunnelError
from gateway.processes.child_process import ChildProcess, exit_error
from gateway.processes.proc_socket_lookup import session_sockets
from gateway.processes.stdio_stream import EXIT_DELAY
from gateway.relay.sockets import has_failed, reset
from gateway.relay.tcp_dial import dial

log = logging.getLogger(__name__)

_LOOPBACK = ("127.0.0.1", "::1")
_RETRY_PAUSE = 0.1
_CONNECT_TIMEOUT = 5.0
_FIRST_TIMEOUT = 5.0
_MIN_ACCEPT_POLL, _MAX_ACCEPT_POLL = 0.005, 0.2


class LocalPortNotAcceptingError(Exception):
    """The process has not accepted a connection to its local port, so the caller must try another process."""


class ListeningProcess:
    """A process that listens on a local port, and forwards connections to one target.

    Args:
        child: The process. The caller must stop it.
        command: The program and its arguments.
        port: The local port.
        options: The options of the tunnel.
    """

    def __init__(self, child: ChildProcess, command: Sequence[str], port: int, options: CommandTunnelOptions) -> None:
        self.child = child
        self.port = port
        self.host = _LOOPBACK[0]
        """The loopback address of the last successful connection to the local port."""
        self.connections = 0
        """Number of open connections."""
        self.last_received = time.monotonic()
        """Monotonic time of the last data from the process, in seconds."""
        self.last_dial = self.last_received
        """Monotonic time of the last call of `connect`, in seconds."""
        self.suspect = False
        """Whether the process has made no progress for the time `suspect` of the options, while a client waited. New
        clients then use another process."""
        self.retired = False
        """Whether the process is being stopped, because another process has replaced it and it has no clients."""
        self._stall_timer = StallTimer()
        self._last_read = self.last_received
        """Monotonic time, in seconds, at which the process was last seen to read data or accept a connection."""
        self._sockets = LocalPortState()
        """The state of the local port at the last call of `update_stall`."""
        self._command = command
        self._options = options
        self._first: Stream | None = None
        """The connection with which `wait_ready` or `accepts` tested the process. The next client uses this
        connection, because a database can count a connection without data as an aborted login."""

    @property
    def name(self) -> str:
        """The name of the program."""
        return Path(self._command[0]).name

    async def wait_ready(self) -> None:
        """Try to connect to the local port until the process listens. Keep the connection for the first client.

        Raises:
            TunnelError: The process has exited or does not listen within `start_timeout`, or another process listens
                on the port.
        """
        limit = self._options.start_timeout
        try:
            async with asyncio.timeout(limit):
                while True:
                    await self._check_running()
                    try:
                        self._first = await self._dial()
                        self.last_dial = time.monotonic()
                        break
                    except DialError:
                        await self.child.exits_within(_RETRY_PAUSE)
        except TimeoutError as error:
            output = f": {self.child.last_line}" if self.child.last_line else ""
            detail = f"{self.name} does not listen on port {self.port} within {limit:g} s (start_timeout){output}"
            raise TunnelError(FailureReason.TIMEOUT, detail) from error
        await self._check_listeners()

    async def connect(self) -> Stream:
        """Return a new connection to the target. The caller owns it.

        Raises:
            LocalPortNotAcceptingError: The process is suspect. The caller must use another process.
            TunnelError: The process has exited, or another user listens on the port.
            DialError: The process does not listen.
        """
        await self._check_running()
        now = time.monotonic()
        self.close_unused(now)
        sock, self._first = self._first, None
        if sock is not None and has_failed(sock):
            reset(sock)
            sock = None
        self.last_dial = now
        if sock is None:
            sock = await self._dial()
            await self._wait_accepted(sock, leave=True)
        return sock

    async def accepts(self, seconds: float) -> bool:
        """Test whether a suspect process accepts a new connection.

        If the process accepts the connection, the process is no longer suspect, and the next client uses the
        connection.

        Args:
            seconds: Time limit for the test.

        Returns:
            Whether the process accepted the connection.
        """
        try:
            async with asyncio.timeout(seconds):
                sock = await self._dial()
                await self._wait_accepted(sock, leave=False)
        except (TimeoutError, DialError, TunnelError):
            return False
        self.close_unused()
        self._first = sock  # `connect` does not use it if the process has reset it
        self.last_dial = self._last_read = time.monotonic()
        self.suspect = False
        return True

    @property
    def has_unused(self) -> bool:
        """Whether a connection from `wait_ready` or `accepts` is available for the next client."""
        return self._first is not None

    def close_unused(self, now: float = inf) -> None:
        """Close the connection from `wait_ready` or `accepts` if no client has used it within five seconds.

        Args:
            now: Monotonic time in seconds. If omitted, the method closes an unused connection immediately.
        """
        if self._first is not None and now - self.last_dial > _FIRST_TIMEOUT:
            reset(self._first)
            self._first = None

    def update_stall(self, sockets: LocalPortState, now: float) -> float:
        """Return how long clients have waited without progress, in seconds; 0 if no client waits.

        The process makes progress if it reads data, sends data or accepts a connection.

        Args:
            sockets: The current state of the local port. The method compares it with the state at the previous call.
            now: Monotonic time in seconds.
        """
        if sockets.has_progress_since(self._sockets):
            self._last_read = now
        self._sockets = sockets
        last_progress = max(self.last_received, self._last_read)
        return self._stall_timer.update(now, last_progress, waits=sockets.has_waiting_clients)

    async def _dial(self) -> Stream:
        host = _LOOPBACK[0]
        try:
            sock = await dial(HostPort(host, self.port), PhaseTimer(), _CONNECT_TIMEOUT)
        except DialError:
            host = _LOOPBACK[1]
            sock = await dial(HostPort(host, self.port), PhaseTimer(), _CONNECT_TIMEOUT)
        self.host = host
        return sock

    async def _wait_accepted(self, sock: Stream, *, leave: bool) -> None:
        """Wait until the process has accepted a connection.

        The kernel completes connections even for a process that hangs, so a completed connection does not show that
        the process works.

        Args:
            sock: The connection. It is reset if this method raises.
            leave: Whether to raise `LocalPortNotAcceptingError` as soon as the process is suspect. If False, continue
                to wait.
        """
        pause = _MIN_ACCEPT_POLL
        try:
            client = sock.getsockname()[1]
            while client in (await self._read_sockets(client)).pending:
                await self._check_running()
                if leave:
                    self._raise_if_suspect()
                await asyncio.sleep(pause)
                pause = min(2 * pause, _MAX_ACCEPT_POLL)
            # If the process exits, the kernel resets the pending connections.
            if has_failed(sock):
                await self.child.exits_within(EXIT_DELAY)
            await self._check_running()
        except BaseException:
            reset(sock)
            raise

    async def _read_sockets(self, client: int = 0) -> LocalPortState:
        """Return the state of the local port. If the kernel's tables cannot be read, return an empty state.

        Args:
            client: If not 0, include only the listener and the connection from this client port.

        Raises:
            TunnelError: Another user listens on the port. Any user can do so while the process does not listen.
        """
        try:
            if client:
                sockets = await asyncio.to_thread(read_connection, self.host, self.port, client)
            else:
                sockets = (await asyncio.to_thread(read_local_ports, {self.port: self.host}))[self.port]
        except OSError as error:
            log.debug("cannot look up the sockets on a program's local port: %s", error)
            return LocalPortState()
        others = sockets.owners - {os.geteuid()}
        if others:
            detail = f"another user (uid {others.pop()}) listens on the program's local port {self.port}"
            raise TunnelError(FailureReason.PERMISSION, detail)
        return sockets

    async def _check_listeners(self) -> None:
        """Raise `TunnelError` if a process outside the program's session (setsid(2)) listens on the local port.

        Another program of the same user may have bound the port first. Connections would then reach the wrong target.
        """
        before = await self._read_sockets()
        own = await asyncio.to_thread(session_sockets, self.child.pid)
        if own is None or before.listeners <= own:
            return
        # A listener that is in `before` but not in `own` may have closed in the meantime. To exclude this case, read
        # the listeners again.
        after = await self._read_sockets()
        if (before.listeners - own) & after.listeners:
            # Wait a short time. If the program exits, `_check_running` raises a more specific error.
            await self.child.exits_within(EXIT_DELAY)
            await self._check_running()
            detail = f"another program listens on the local port {self.port} of {self.name}"
            raise TunnelError(FailureReason.PERMISSION, detail)

    def _raise_if_suspect(self) -> None:
        if self.suspect:
            raise LocalPortNotAcceptingError

    async def _check_running(self) -> None:
        if self.child.exit_code is not None:
            await self.child.wait()
            raise exit_error(self._command, self.child, self._options.login_exit_codes)
