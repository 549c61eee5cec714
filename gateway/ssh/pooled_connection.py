"""Opens channels on one SSH connection of a pool, and measures how long the peer has been silent."""

import asyncio
import logging
import socket
import time
from typing import Protocol

import asyncssh

from gateway.connection_tap import Tap
from gateway.contracts.link import Relay
from gateway.contracts.states import CloseReason
from gateway.contracts.values import Endpoint
from gateway.errors import DialError, LinkLostError, Reason, RedialRequiredError
from gateway.measurement import Histogram
from gateway.ssh.asyncssh_opener import AsyncsshChannelOpener
from gateway.ssh.client_connection import ClientConnection, EngineTransportInterface
from gateway.ssh.host_keys import HostKeyVerifier
from gateway.ssh.options import SshOptions
from gateway.ssh.socket_transport import SocketTransport, transport_of
from gateway.text_sanitizer import error_text, one_line

log = logging.getLogger(__name__)

_KEEPALIVE = b"keepalive@openssh.com"
_RECENTLY_HEARD = 0.3
"""If data arrived within this number of seconds, the connection is alive, and `check_alive` sends no keepalive."""


class SshChannel(Relay, Protocol):
    """Defines the interface of open SSH channels, which relay bytes between a client and a target after `attach`."""

    @property
    def cut_short(self) -> bool:
        """Whether the relay ended before the client received all data and the end-of-file of the backend.

        Valid only after the client's stream has ended.
        """

    @property
    def buffered(self) -> int:
        """Number of bytes from the backend that wait until the client's socket accepts them."""

    def attach(self, client: socket.socket) -> None:
        """Start to relay bytes between `client` and the target. The relay then owns `client`."""


class ChannelOpener(Protocol):
    """Defines the interface for opening channels on one SSH connection. Each data plane implements this protocol."""

    @property
    def opening_count(self) -> int:
        """Number of CHANNEL_OPEN requests without a reply, including those whose callers no longer wait."""

    async def open(
        self,
        to: Endpoint,
        latency: Histogram,
        timeout: float,  # noqa: ASYNC109 - every dial takes its timeout as an argument
        tap: Tap | None = None,
    ) -> SshChannel:
        """Open a channel to `to`. If the channel opens after this method has raised, close the channel.

        Args:
            to: The target.
            latency: Records the response latencies.
            timeout: Time limit for the open, in seconds.
            tap: Observes the bytes until `Tap.finished` is true; None to observe nothing.

        Returns:
            A relay without a client. The caller must call the relay's `attach` or `abort`.

        Raises:
            TimeoutError: The channel did not open within `timeout`.
            asyncssh.ChannelOpenError: The server refuses the channel.
            asyncssh.Error, OSError: The SSH connection has failed.
            ValueError: The server's reply is not valid.
        """

    def fail_opens(self, error: Exception) -> None:
        """Make every pending `open` raise `error`."""


class PooledConnection:
    """An SSH connection of a pool. Opens channels, and measures how long the peer has been silent.

    Args:
        conn: An authenticated connection. This object owns it, and closes it.
        options: The tunnel's options.
    """

    def __init__(self, conn: asyncssh.SSHClientConnection, options: SshOptions) -> None:
        self._conn = conn
        self._options = options
        self._verifier: HostKeyVerifier = conn.get_extra_info("verifier")
        self._relays: dict[asyncio.Future[CloseReason], SshChannel] = {}
        self._on_relay_ended = self._remove_relay  # to save memory, all relays share one bound method
        self.round_trip: float | None = None
        """Round-trip time of the last keepalive, in seconds; None before the first reply."""
        self.closing = False
        self.outdated = False
        """Whether the tunnel's credentials have changed since this connection logged in."""
        self.stalled = False
        """See `ConnectionHealth.stalled`."""
        self.silence_at_recovery = 0.0
        """See `ConnectionHealth.silence_at_recovery`."""
        self.has_answered_open = False
        """Whether the server has replied to at least one CHANNEL_OPEN request."""
        transport = transport_of(conn)
        engine = conn.engine if isinstance(conn, ClientConnection) else None
        self._transport: SocketTransport | EngineTransportInterface | None = engine or transport
        self.engine = engine
        """The transport of the connection if an engine in C carries it; otherwise None."""
        self._last_heard = self._keepalive_sent = time.monotonic()
        self._keepalive_task: asyncio.Task[None] | None = None
        self._close_reason: str | None = None
        self._closing_task: asyncio.Task[None] | None = None
        self._opener: ChannelOpener
        if engine is not None:
            self._opener = engine.make_opener()
        else:
            self._opener = AsyncsshChannelOpener(conn, transport.queue if transport is not None else None)

    @property
    def load(self) -> int:
        """Number of channels that are open or opening."""
        return len(self._relays) + self._opener.opening_count

    @property
    def rekeys_often(self) -> bool:
        """Whether the peer should send short packets, because key exchanges are frequent; see `ClientConnection`."""
        return isinstance(self._conn, ClientConnection) and self._conn.rekeys_often

    @property
    def alive(self) -> bool:
        """Whether the connection is open and is not being closed, so that channels can be opened."""
        if self.closing or self._conn.is_closed():
            return False
        # After the transport has closed, `is_closed` returns False until the next iteration of the event loop.
        return not (isinstance(self._conn, ClientConnection) and self._conn.transport_closed)

    async def join(
        self, client: socket.socket, to: Endpoint, latency: Histogram, within: float, tap: Tap | None = None
    ) -> SshChannel:
        """Open a channel to `to`, and connect `client` to it; see `gateway.contracts.link.Link.join`.

        Call this only while `alive` is true.
        """
        timeout = min(self._options.dial_timeout, within)
        try:
            relay = await self._opener.open(to, latency, timeout, tap)
        except TimeoutError as error:
            raise DialError(Reason.TIMEOUT, f"no channel to {to} was open within {timeout:.3g} s") from error
        except ValueError as error:
            raise DialError(
                Reason.PROTOCOL,
                f"{to}: the reply of the SSH server is not valid ({error_text(error)}): see data_plane in"
                " docs/outages.md",
            ) from error
        except asyncssh.ChannelOpenError as error:
            self.has_answered_open = self.alive
            raise self._open_error(error, to) from error
        except (asyncssh.Error, OSError) as error:
            raise LinkLostError(str(error), dial_in_progress=True) from error
        self.has_answered_open = True
        if self.closing:  # asyncssh may already have dropped data that arrived on the channel
            relay.abort(CloseReason.ABORTED)
            raise LinkLostError(dial_in_progress=True)
        self._add_relay(relay)
        relay.attach(client)
        return relay

    def adopt(self, relay: SshChannel) -> None:
        """Add a channel that the engine has opened for a client, so that `load` counts it, and `close` closes it."""
        self.has_answered_open = True
        self._add_relay(relay)
        if self.closing:
            relay.abort(CloseReason.LINK_LOST)

    def _add_relay(self, relay: SshChannel) -> None:
        self._relays[relay.ended] = relay
        relay.ended.add_done_callback(self._on_relay_ended)

    def _remove_relay(self, ended: asyncio.Future[CloseReason]) -> None:
        del self._relays[ended]

    def _open_error(self, error: asyncssh.ChannelOpenError, to: Endpoint) -> DialError | LinkLostError:
        if not self.alive:
            return LinkLostError(dial_in_progress=True)
        text = error.reason
        if error.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
            return DialError(
                Reason.CHANNEL_PROHIBITED,
                f"the SSH server does not permit connections to {to} ({text!r}): permit them with permitopen in"
                " authorized_keys, and with PermitOpen and AllowTcpForwarding in sshd_config",
            )
        return DialError(
            _connect_reason(text),
            f"{to}: the SSH server cannot connect ({text!r}): check that this address and port are correct",
        )

    def silence(self, now: float) -> float:
        """Return the number of seconds since the last data from the peer arrived.

        Args:
            now: The current monotonic time, in seconds.
        """
        if self._transport is not None:
            self._last_heard = max(self._last_heard, self._transport.last_heard(self._options.keepalive.lost))
        return now - self._last_heard

    def discount_suspension(self, seconds: float) -> None:
        """Reduce the silence by `seconds`, during which this process was suspended and could not receive data."""
        self._last_heard += seconds

    def keepalive_due(self, before: float) -> bool:
        """Return whether no keepalive is pending, and the last one was sent before the monotonic time `before`."""
        return self._keepalive_sent < before and (self._keepalive_task is None or self._keepalive_task.done())

    def send_keepalive(self) -> None:
        """Send a keepalive. When the reply arrives, it resets `silence` and updates `round_trip`."""
        self._keepalive_sent = time.monotonic()
        # Do not cancel this task, because asyncssh matches replies to requests by their order.
        self._keepalive_task = self._conn.create_task(self._measure_keepalive())

    async def _measure_keepalive(self) -> None:
        await self._conn._make_global_request(_KEEPALIVE)  # noqa: SLF001 - asyncssh has no public API for it
        if self.alive:
            self._last_heard = time.monotonic()
            self.round_trip = self._last_heard - self._keepalive_sent
            if self.engine is not None:
                self.engine.set_round_trip(self.round_trip)

    def keepalive_wait(self, now: float) -> float:
        """Return the number of seconds for which a keepalive has been without a reply; 0 if none is pending.

        If data from the peer has arrived since then, the time begins at the arrival of the last data, because this
        data also shows that the peer is alive.

        Args:
            now: The current monotonic time, in seconds.
        """
        if self._keepalive_task is None or self._keepalive_task.done():
            return 0.0
        return min(now - self._keepalive_sent, self.silence(now))

    def check_alive(self) -> None:
        """Send a keepalive, unless one is pending or data from the peer arrived recently."""
        now = time.monotonic()
        if self.alive and self.silence(now) > _RECENTLY_HEARD and self.keepalive_due(now):
            self.send_keepalive()

    def fail_over_opens(self) -> None:
        """Make pending channel opens raise `RedialRequiredError`, so that their callers use another connection."""
        if self._opener.opening_count:
            self._opener.fail_opens(RedialRequiredError())
        if self.engine is not None:
            self.engine.recall_clients()

    async def lost(self) -> str:
        """Wait until the connection is closed, by the gateway or the server, and return the reason."""
        await self._conn.wait_closed()
        if self._closing_task is not None:
            await asyncio.wait({self._closing_task})
        error = self._verifier.close_error
        return self._close_reason or (error_text(error) if error else "the SSH connection was closed")

    def abort(self, reason: str) -> None:
        """Reset the connections of all clients, and close the SSH connection without a disconnect message.

        Args:
            reason: The cause, for the log and as the result of `lost`.
        """
        log.warning("closing an SSH connection to %s: %s", self._options.endpoint, reason)
        self._close_reason = reason
        self.closing = True
        for relay in list(self._relays.values()):
            relay.abort(CloseReason.LINK_LOST)
        self._conn.abort()

    def start_closing(self) -> None:
        """Start a task that runs `close`. `lost` waits for this task. Do nothing if `close` is already running."""
        if not self.closing:
            self.closing = True
            self._closing_task = asyncio.ensure_future(self.close())

    async def close(self) -> None:
        """Reset the connections of all clients, and close the SSH connection. After one second, abort it."""
        self.closing = True
        for relay in list(self._relays.values()):
            relay.abort(CloseReason.LINK_LOST)
        self._conn.close()
        try:
            async with asyncio.timeout(1):
                await self._conn.wait_closed()
        except TimeoutError:
            self._conn.abort()

    def data_plane(self) -> str:
        """Return the name of the data plane that carries the channels: `native` or `asyncssh`."""
        return "asyncssh" if self.engine is None else "native"

    def cipher(self) -> str:
        """Return the negotiated cipher of sent packets."""
        return str(self._conn.get_extra_info("send_cipher"))

    def server_version(self) -> str:
        """Return the server's version string (RFC 4253, section 4.2)."""
        return one_line(str(self._conn.get_extra_info("server_version")))


_CONNECT_REASONS = {
    "refused": Reason.REFUSED,
    "timed out": Reason.TIMEOUT,
    "timeout": Reason.TIMEOUT,
    "name or service not known": Reason.DNS,
    "name resolution": Reason.DNS,
    "no address": Reason.DNS,
    "unknown host": Reason.DNS,
    "could not resolve": Reason.DNS,
    "reset": Reason.RESET,
}


def _connect_reason(text: str) -> Reason:
    """Derive a reason from the message of a CHANNEL_OPEN_FAILURE; OpenSSH uses strerror(3) and gai_strerror(3)."""
    lowered = text.lower()
    for phrase, reason in _CONNECT_REASONS.items():
        if phrase in lowered:
            return reason
    return Reason.CHANNEL_FAILED
