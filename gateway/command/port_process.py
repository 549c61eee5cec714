"""Controls a program that listens on a local port and forwards connections to one target."""

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from math import inf
from pathlib import Path

from gateway.command.connection_sockets import read_connection
from gateway.command.local_ports import LocalPort, read_local_ports
from gateway.command.options import CommandOptions
from gateway.command.silence import SilenceTimer
from gateway.contracts.link import Stream
from gateway.contracts.phases import Phases
from gateway.contracts.values import Endpoint
from gateway.errors import DialError, Reason, TunnelError
from gateway.processes.child_process import ChildProcess, exit_error
from gateway.processes.session_sockets import session_sockets
from gateway.processes.stdio_stream import EXIT_DELAY
from gateway.relay.sockets import reset
from gateway.relay.tcp_dial import dial

log = logging.getLogger(__name__)

_LOOPBACK = ("127.0.0.1", "::1")
_RETRY_PAUSE = 0.1
_CONNECT_TIMEOUT = 5.0
_FIRST_TIMEOUT = 5.0
_MIN_ACCEPT_POLL, _MAX_ACCEPT_POLL = 0.005, 0.2


class NotAcceptedError(Exception):
    """The program has not accepted a connection to its local port."""


class PortProcess:
    """A running program, and the state of its local port.

    Args:
        child: The process. Its owner stops it.
        command: The program and its arguments.
        port: The local port.
        options: The options of the tunnel.
    """

    def __init__(self, child: ChildProcess, command: Sequence[str], port: int, options: CommandOptions) -> None:
        self.child = child
        self.port = port
        self.host = _LOOPBACK[0]
        """The address of the last connection."""
        self.connections = 0
        """Number of open connections."""
        self.last_received = time.monotonic()
        """Monotonic time of the last data from the process, in seconds."""
        self.last_dial = self.last_received
        """Monotonic time of the last connection, in seconds."""
        self.suspect = False
        """Whether new clients use another process, because data waits for this process, but it does not answer."""
        self.retired = False
        """Whether the process stops, because another one has replaced it and it has no more clients."""
        self._silence = SilenceTimer()
        self._last_read = self.last_received
        """Monotonic time at which the process was last observed to have read data or accepted a connection."""
        self._sockets = LocalPort()
        """The sockets at the last call of `update_silence`."""
        self._command = command
        self._options = options
        self._first: Stream | None = None
        """The connection that showed that the process listens or accepts. It is the next connection to the target:
        without data, it would count as an aborted login there."""

    @property
    def name(self) -> str:
        """The name of the program."""
        return Path(self._command[0]).name

    async def wait_ready(self) -> None:
        """Connect to the local port until the process accepts a connection.

        Raises:
            TunnelError: The process has exited, does not listen within `start_timeout`, or another process listens.
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
            raise TunnelError(Reason.TIMEOUT, detail) from error
        await self._check_listeners()

    async def connect(self) -> Stream:
        """Return a new connection to the target. The caller owns it.

        Raises:
            NotAcceptedError: The process is suspect, so that another process must be used.
            TunnelError: The process has exited, or another user listens.
            DialError: The process does not listen.
        """
        await self._check_running()
        now = time.monotonic()
        self.close_unused(now)
        sock, self._first = self._first, None
        self.last_dial = now
        if sock is None:
            sock = await self._dial()
            await self._wait_accepted(sock, leave=True)
        return sock

    async def accepts(self, seconds: float) -> bool:
        """Return whether the process accepts a new connection, although it is suspect.

        The connection is then the next one to the target.

        Args:
            seconds: Time limit.
        """
        try:
            async with asyncio.timeout(seconds):
                sock = await self._dial()
                await self._wait_accepted(sock, leave=False)
        except (TimeoutError, DialError, TunnelError):
            return False
        self.close_unused()
        self._first = sock
        self.last_dial = self._last_read = time.monotonic()
        self.suspect = False
        return True

    @property
    def has_unused(self) -> bool:
        """Whether an open connection waits for the next client."""
        return self._first is not None

    def close_unused(self, now: float = inf) -> None:
        """Close the connection of `wait_ready` or `accepts` if no client has used it within five seconds.

        Args:
            now: Monotonic time in seconds.
        """
        if self._first is not None and now - self.last_dial > _FIRST_TIMEOUT:
            reset(self._first)
            self._first = None

    def update_silence(self, sockets: LocalPort, now: float) -> float:
        """Return for how many seconds the process has neither read data nor accepted a connection nor answered.

        Args:
            sockets: The sockets of the local port.
            now: Monotonic time in seconds.
        """
        if sockets.has_progress_since(self._sockets):
            self._last_read = now
        self._sockets = sockets
        return self._silence.update(now, max(self.last_received, self._last_read), waits=sockets.has_waiting_clients)

    async def _dial(self) -> Stream:
        try:
            sock = await dial(Endpoint(_LOOPBACK[0], self.port), Phases(), _CONNECT_TIMEOUT)
        except DialError:
            sock = await dial(Endpoint(_LOOPBACK[1], self.port), Phases(), _CONNECT_TIMEOUT)
        self.host = sock.getpeername()[0]
        return sock

    async def _wait_accepted(self, sock: Stream, *, leave: bool) -> None:
        """Wait until the process has accepted a connection, because the kernel connects even if the process hangs.

        Args:
            sock: The connection; it is reset after an error.
            leave: Whether to raise `NotAcceptedError` when the process is suspect.
        """
        pause = _MIN_ACCEPT_POLL
        try:
            client = sock.getsockname()[1]
            while client in (await self._read_sockets(client)).pending:
                await self._check_running()
                if leave:
                    self._check_answering()
                await asyncio.sleep(pause)
                pause = min(2 * pause, _MAX_ACCEPT_POLL)
        except BaseException:
            reset(sock)
            raise

    async def _read_sockets(self, client: int = 0) -> LocalPort:
        """Return the sockets of the local port.

        Args:
            client: If not 0, return only the listener and the connection from this port.

        Raises:
            TunnelError: Another user listens. Any user can take the port while the process does not listen.
        """
        try:
            if client:
                sockets = await asyncio.to_thread(read_connection, self.host, self.port, client)
            else:
                sockets = (await asyncio.to_thread(read_local_ports, {self.port: self.host}))[self.port]
        except OSError as error:
            log.debug("cannot find out whether a program accepts connections: %s", error)
            return LocalPort()
        others = sockets.owners - {os.geteuid()}
        if others:
            detail = f"port {self.port} of this host belongs to another user (uid {others.pop()})"
            raise TunnelError(Reason.PERMISSION, detail)
        return sockets

    async def _check_listeners(self) -> None:
        """Raise `TunnelError` if a process outside the session of the program listens on the port.

        Another program of the same user can take the port before this program listens, and leads to another target.
        """
        before = await self._read_sockets()
        own = await asyncio.to_thread(session_sockets, self.child.pid)
        if own is None or before.listeners <= own:
            return
        after = await self._read_sockets()  # the program can have closed its socket after it accepted a connection
        if (before.listeners - own) & after.listeners:
            await self.child.exits_within(EXIT_DELAY)  # its error explains more
            await self._check_running()
            raise TunnelError(Reason.PERMISSION, f"port {self.port} of this host belongs to another program")

    def _check_answering(self) -> None:
        if self.suspect:
            raise NotAcceptedError

    async def _check_running(self) -> None:
        if self.child.exit_code is not None:
            await self.child.wait()
            raise exit_error(self._command, self.child, self._options.login_exit_codes)
