"""Opens channels on one SSH connection of a pool, and measures how long the server has been silent."""

import asyncio
import logging
import socket
import time
from typing import Literal

import asyncssh

from gateway.connection_tap import Tap
from gateway.contracts.config_types import HostPort
from gateway.contracts.states import CloseReason
from gateway.errors import DialError, FailureReason, LinkLostError, RedialRequiredError
from gateway.metric_types import Histogram
from gateway.ssh.asyncssh_channel_opener import AsyncsshChannelOpener
from gateway.ssh.asyncssh_transport import AsyncsshTransport, transport_of
from gateway.ssh.channel_interfaces import ChannelOpener, SshChannel
from gateway.ssh.channel_open_errors import channel_open_error
from gateway.ssh.host_keys import HostKeyVerifier
from gateway.ssh.options import SshOptions
from gateway.ssh.ssh_connection import SshConnection
from gateway.ssh.transport_interfaces import NativeTransportInterface
from gateway.text_sanitizer import error_text, one_line

log = logging.getLogger(__name__)

_KEEPALIVE = b"keepalive@openssh.com"
_RECENTLY_HEARD = 0.3
"""If data arrived within this number of seconds, the connection is alive, and `check_alive` sends no keepalive."""


class PooledConnection:
    """An SSH connection of a pool. Opens channels, and measures how long the server has been silent.

    Args:
        conn: An authenticated connection. The `PooledConnection` owns and closes this connection.
        options: The tunnel's options.
    """

    def __init__(self, conn: asyncssh.SSHClientConnection, options: SshOptions) -> None:
        self._conn = conn
        self._options = options
        self._verifier: HostKeyVerifier = conn.get_extra_info("verifier")
        self._relays: dict[asyncio.Future[CloseReason], SshChannel] = {}
        # To save memory, all relays share this bound method as their callback.
        self._on_relay_ended = self._remove_relay
        self.round_trip: float | None = None
        """Round-trip time of the last keepalive, in seconds; None before the first reply."""
        self.closing = False
        self.outdated = False
        """Whether the pool closes the connection when it has no channels left. New channels use an outdated
        connection only if no other connection is usable. A connection becomes outdated if the tunnel's credentials
        have changed since the login, or if the pool has more connections than it needs."""
        self.stalled = False
        """Whether the pool has marked this connection as stalled (see `PoolDecision`). False again as soon as it is
        no longer suspect."""
        self.silence_at_recovery = 0.0
        """How long this stalled connection had been silent when another connection became usable, in seconds. 0 if no
        other connection has become usable, or if this connection is not stalled."""
        self.has_answered_open = False
        """Whether the server has replied to at least one CHANNEL_OPEN request."""
        transport = transport_of(conn)
        native = conn.native_transport if isinstance(conn, SshConnection) else None
        self._transport: AsyncsshTransport | NativeTransportInterface | None = native or transport
        self.native_transport = native
        """The transport of the connection if the native engine handles the connection; otherwise None."""
        self._last_heard = self._keepalive_sent = time.monotonic()
        self._keepalive_task: asyncio.Task[None] | None = None
        self._close_reason: str | None = None
        self._closing_task: asyncio.Task[None] | None = None
        self._opener: ChannelOpener
        if native is not None:
            self._opener = native.make_opener()
        else:
            self._opener = AsyncsshChannelOpener(conn, transport.queue if transport is not None else None)

    @property
    def load(self) -> int:
        """Number of open and opening channels, including those that the native engine has not reported yet."""
        known = len(self._relays) + self._opener.opening_count
        return max(known, self.native_transport.channel_count) if self.native_transport is not None else known

    @property
    def runner(self) -> object:
        """The runner of the native engine that handles the connection; None if asyncssh handles it."""
        return self.native_transport.runner if self.native_transport is not None else None

    @property
    def rekeys_often(self) -> bool:
        """See `SshConnection.rekeys_often`."""
        return isinstance(self._conn, SshConnection) and self._conn.rekeys_often

    @property
    def alive(self) -> bool:
        """Whether the connection is open and is not being closed, so that channels can be opened."""
        if self.closing or self._conn.is_closed():
            return False
        # After the transport has closed, `is_closed` returns False until the next iteration of the event loop.
        return not (isinstance(self._conn, SshConnection) and self._conn.transport_closed)

    async def join(
        self, client: socket.socket, to: HostPort, latency: Histogram, within: float, tap: Tap | None = None
    ) -> SshChannel:
        """Open a channel to `to`, and attach `client` to the channel. See `gateway.contracts.link.Link.join`.

        Call this method only while `alive` is true.
        """
        timeout = min(self._options.dial_timeout, within)
        try:
            relay = await self._opener.open(to, latency, timeout, tap)
        except TimeoutError as error:
            raise DialError(FailureReason.TIMEOUT, f"no channel to {to} opened within {timeout:.3g} s") from error
        except ValueError as error:
            raise DialError(
                FailureReason.PROTOCOL,
                f"{to}: the reply from the SSH server is not valid ({error_text(error)}): see the section about"
                " faults in the data plane in docs/outages.md",
            ) from error
        except asyncssh.ChannelOpenError as error:
            self.has_answered_open = self.alive
            raise channel_open_error(error, to) if self.alive else LinkLostError(dial_in_progress=True) from error
        except (asyncssh.Error, OSError) as error:
            raise LinkLostError(str(error), dial_in_progress=True) from error
        self.has_answered_open = True
        if self.closing:
            # Do not use the channel, because asyncssh might already have dropped data that arrived on the channel.
            relay.abort(CloseReason.ABORTED)
            raise LinkLostError(dial_in_progress=True)
        self._add_relay(relay)
        relay.attach(client)
        return relay

    def adopt(self, relay: SshChannel) -> None:
        """Add a channel that the native engine has opened, so that `load` counts it and `close` closes it."""
        self.has_answered_open = True
        self._add_relay(relay)
        if self.closing:
            relay.abort(CloseReason.LINK_LOST)

    def _add_relay(self, relay: SshChannel) -> None:
        self._relays[relay.ended] = relay
        relay.ended.add_done_callback(self._on_relay_ended)

    def _remove_relay(self, ended: asyncio.Future[CloseReason]) -> None:
        del self._relays[ended]

    def silence(self, now: float) -> float:
        """Return the number of seconds since the last data from the server arrived.

        Args:
            now: The current monotonic time, in seconds.
        """
        if self._transport is not None:
            self._last_heard = max(self._last_heard, self._transport.last_heard(self._options.keepalive.lost))
        return now - self._last_heard

    def discount_suspension(self, seconds: float) -> None:
        """Reduce the silence by the `seconds` for which this process was suspended and could not receive data."""
        # A reply that arrived during the suspension might have been processed before this call. Without the limit,
        # `_last_heard` would then be in the future.
        self._last_heard = min(self._last_heard + seconds, time.monotonic())

    def keepalive_due(self, before: float) -> bool:
        """Return whether a new keepalive is due.

        A keepalive is due if none is pending, and the last one was sent before the monotonic time `before`.
        """
        return self._keepalive_sent < before and (self._keepalive_task is None or self._keepalive_task.done())

    def send_keepalive(self) -> None:
        """Send a keepalive. The reply resets `silence` and updates `round_trip`."""
        self._keepalive_sent = time.monotonic()
        # Do not cancel this task, because asyncssh matches replies to requests by their order.
        self._keepalive_task = self._conn.create_task(self._measure_keepalive())

    async def _measure_keepalive(self) -> None:
        await self._conn._make_global_request(_KEEPALIVE)  # noqa: SLF001 - asyncssh has no public equivalent
        if self.alive:
            self._last_heard = time.monotonic()
            self.round_trip = self._last_heard - self._keepalive_sent
            if self.native_transport is not None:
                self.native_transport.set_round_trip(self.round_trip)

    def keepalive_wait(self, now: float) -> float:
        """Return how long a keepalive has been pending, in seconds; 0 if none is pending.

        The time restarts when data from the server arrives, because data also shows that the server is alive.

        Args:
            now: The current monotonic time, in seconds.
        """
        if self._keepalive_task is None or self._keepalive_task.done():
            return 0.0
        return min(now - self._keepalive_sent, self.silence(now))

    def check_alive(self) -> None:
        """Send a keepalive. Do nothing if a keepalive is pending, or if data from the server arrived recently."""
        now = time.monotonic()
        if self.alive and self.silence(now) > _RECENTLY_HEARD and self.keepalive_due(now):
            self.send_keepalive()

    def fail_over_opens(self) -> None:
        """Make pending calls of `join` raise `RedialRequiredError`, so that their callers use another connection."""
        if self._opener.opening_count:
            self._opener.fail_opens(RedialRequiredError())
        if self.native_transport is not None:
            self.native_transport.recall_clients()

    async def lost(self) -> str:
        """Wait until the gateway or the server has closed the connection. Return the reason."""
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
        """Call `close` in a task. `lost` waits for this task. Do nothing if the connection is already closing."""
        if not self.closing:
            self.closing = True
            self._closing_task = asyncio.ensure_future(self.close())

    async def close(self) -> None:
        """Reset the connections of all clients, and close the SSH connection.

        If the server does not close the connection within one second, abort the connection.
        """
        self.closing = True
        for relay in list(self._relays.values()):
            relay.abort(CloseReason.LINK_LOST)
        self._conn.close()
        try:
            async with asyncio.timeout(1):
                await self._conn.wait_closed()
        except TimeoutError:
            self._conn.abort()

    def data_plane(self) -> Literal["native", "asyncssh"]:
        """Return the name of the data plane that moves the bytes of the channels: `native` or `asyncssh`."""
        return "asyncssh" if self.native_transport is None else "native"

    def cipher(self) -> str:
        """Return the negotiated cipher of sent packets."""
        return str(self._conn.get_extra_info("send_cipher"))

    def server_version(self) -> str:
        """Return the server's version string (RFC 4253, section 4.2)."""
        return one_line(str(self._conn.get_extra_info("server_version")))
