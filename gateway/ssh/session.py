"""One SSH connection in use: its channels, and the wait for its end."""

import asyncio
import logging
import socket
import time
from typing import TYPE_CHECKING, Protocol

import asyncssh

from gateway.contracts import CloseReason, Endpoint, Relay
from gateway.errors import DialError, LinkLostError, Reason, RedialError
from gateway.measure import Histogram, Tap
from gateway.ssh.channel import StockChannels
from gateway.ssh.doors import PlaneConnection
from gateway.ssh.hostkeys import Verifier
from gateway.ssh.options import SshOptions
from gateway.ssh.plane import PlaneChannels
from gateway.text import one_line

if TYPE_CHECKING:
    from gateway.ssh.wire import Wire

log = logging.getLogger(__name__)

_KEEPALIVE = b"keepalive@openssh.com"
_SURE = 0.3


class ChannelRelay(Relay, Protocol):
    """A relay whose channel is open and that waits for its client."""

    @property
    def cut_short(self) -> bool:
        """Whether the relay has ended before the client was sent the backend's end."""

    def attach(self, client: socket.socket) -> None:
        """Take over `client` and start."""


class Channels(Protocol):
    """A way to open channels on one SSH connection."""

    @property
    def opening(self) -> int:
        """Channels that are being opened, given up or not."""

    async def open(
        self,
        to: Endpoint,
        latency: Histogram,
        timeout: float,  # noqa: ASYNC109 - as everywhere here
        tap: Tap | None = None,
    ) -> ChannelRelay:
        """A channel to `to`; one that opens after the caller has given up is closed, and never leaks.

        Raises:
            TimeoutError: Not within `timeout` seconds.
            asyncssh.Error, OSError: It cannot be opened.
        """

    def give_up(self, error: Exception) -> None:
        """Let every `open` that is under way raise `error`."""


class Session:
    """Opens channels on one SSH connection.

    Args:
        conn: An authenticated connection; closed with the session.
        options: The tunnel's options.
    """

    def __init__(self, conn: asyncssh.SSHClientConnection, options: SshOptions) -> None:
        self._conn = conn
        self._options = options
        self._verifier: Verifier = conn.get_extra_info("verifier")
        self._relays: dict[asyncio.Future[CloseReason], ChannelRelay] = {}
        self._forgets = self._forget  # one bound method for all of them
        self.round_trip: float | None = None
        self.closing = False
        self.outdated = False
        """Its credentials were replaced since it logged in."""
        self.stalled = False
        """It fell silent together with all others."""
        self.stalled_until = 0.0
        """Its seconds of silence when another was heard again after that."""
        self.answers_opens = False
        """Whether the server has ever answered a request for a channel."""
        self._wire: Wire | None = getattr(conn, "wire", None)
        self._heard = self._asked_at = time.monotonic()
        self._asking: asyncio.Task[None] | None = None
        self._why: str | None = None
        self._ending: asyncio.Task[None] | None = None
        self._channels: Channels
        if isinstance(conn, PlaneConnection) and conn.seals is not None and conn.opens is not None:
            self._channels = PlaneChannels(conn, lambda: self.round_trip)
        else:
            self._channels = StockChannels(conn, self._wire.outbox if self._wire is not None else None)

    @property
    def load(self) -> int:
        """Channels that are open or being opened."""
        return len(self._relays) + self._channels.opening

    @property
    def alive(self) -> bool:
        """Whether channels can still be opened."""
        if self.closing or self._conn.is_closed():
            return False
        # asyncssh takes a turn of the loop to notice.
        return not (isinstance(self._conn, PlaneConnection) and self._conn.dead)

    async def join(
        self, client: socket.socket, to: Endpoint, latency: Histogram, within: float, tap: Tap | None = None
    ) -> ChannelRelay:
        """Open a channel to `to` and join `client` to it; see `gateway.contracts.Link.join`."""
        timeout = min(self._options.dial_timeout, within)
        dialled = self.alive
        try:
            relay = await self._channels.open(to, latency, timeout, tap)
        except TimeoutError as error:
            raise DialError(Reason.TIMEOUT, f"no channel to {to} within {timeout:.3g} s") from error
        except ValueError as error:
            raise DialError(Reason.PROTOCOL, f"{to}: invalid reply from the SSH server: {error}") from error
        except asyncssh.ChannelOpenError as error:
            self.answers_opens = self.alive
            raise self._explain(error, to, dial_in_progress=dialled) from error
        except (asyncssh.Error, OSError) as error:
            raise LinkLostError(str(error), dial_in_progress=dialled) from error
        self.answers_opens = True
        if self.closing:  # asyncssh has dropped what its channel had received
            relay.abort(CloseReason.ABORTED)
            raise LinkLostError(dial_in_progress=dialled)
        self._relays[relay.ended] = relay
        relay.ended.add_done_callback(self._forgets)
        relay.attach(client)
        return relay

    def _forget(self, ended: asyncio.Future[CloseReason]) -> None:
        del self._relays[ended]

    def _explain(
        self, error: asyncssh.ChannelOpenError, to: Endpoint, *, dial_in_progress: bool
    ) -> DialError | LinkLostError:
        if not self.alive:
            return LinkLostError(dial_in_progress=dial_in_progress)
        text = error.reason
        if error.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
            return DialError(
                Reason.CHANNEL_PROHIBITED,
                f"the SSH server forbids {to} (permitopen, AllowTcpForwarding): {text}",
            )
        return DialError(_connect_reason(text), f"{to}: {text}")

    def silence(self, now: float) -> float:
        """Seconds since the far side was last heard, at the monotonic time `now`."""
        if self._wire is not None:
            self._heard = max(self._heard, self._wire.last_heard(self._options.keepalive.lost))
        return now - self._heard

    def forgive(self, seconds: float) -> None:
        """It was we who slept for so long."""
        self._heard += seconds

    def asked_before(self, then: float) -> bool:
        """Whether the last request for a sign of life is answered, and was before the monotonic time `then`."""
        return self._asked_at < then and (self._asking is None or self._asking.done())

    def ask(self) -> None:
        """Ask for a sign of life; the answer tells the round trip."""
        self._asked_at = time.monotonic()
        # Never cancelled: asyncssh matches answers to requests by their order.
        self._asking = self._conn.create_task(self._ask())

    async def _ask(self) -> None:
        await self._conn._make_global_request(_KEEPALIVE)  # noqa: SLF001 - no public door to it
        if self.alive:
            self._heard = time.monotonic()
            self.round_trip = self._heard - self._asked_at

    def unanswered(self, now: float) -> float:
        """Seconds for which a request has been waiting for its answer, and nothing else was heard."""
        if self._asking is None or self._asking.done():
            return 0.0
        return min(now - self._asked_at, self.silence(now))

    def doubt(self) -> None:
        """A channel takes long to open: ask for a sign of life, unless there was one since."""
        now = time.monotonic()
        if self.alive and self.silence(now) > _SURE and self.asked_before(now):
            self.ask()

    def move_on(self) -> None:
        """Let everybody who waits for a channel here go to another connection."""
        if self._channels.opening:
            self._channels.give_up(RedialError())

    async def lost(self) -> str:
        """Wait until the connection is closed, by whom ever; says why."""
        await self._conn.wait_closed()
        if self._ending is not None:
            await asyncio.wait({self._ending})
        error = self._verifier.lost
        return self._why or (str(error) if error else "the SSH connection was closed")

    def abort(self, why: str) -> None:
        """Reset every client and drop the connection, without a word to a peer that does not listen."""
        log.warning("an SSH connection to %s is given up: %s", self._options.endpoint, why)
        self._why = why
        self.closing = True
        for relay in list(self._relays.values()):
            relay.abort(CloseReason.LINK_LOST)
        self._conn.abort()

    def close_soon(self) -> None:
        """Close it from somewhere that cannot wait; `lost` waits until it is done."""
        if not self.closing:
            self.closing = True
            self._ending = asyncio.ensure_future(self.close())

    async def close(self) -> None:
        """Reset every client and close the connection, waiting a moment for a goodbye."""
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
        """What carries the channels: `native`, the gateway's own data plane, or `asyncssh`."""
        return "native" if isinstance(self._channels, PlaneChannels) else "asyncssh"

    def cipher(self) -> str:
        """The encryption that was agreed for sending."""
        return str(self._conn.get_extra_info("send_cipher"))

    def server_version(self) -> str:
        """What the server calls itself."""
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
    """What a server's free text about a failed connect means; OpenSSH passes strerror and gai_strerror on."""
    lowered = text.lower()
    for phrase, reason in _CONNECT_REASONS.items():
        if phrase in lowered:
            return reason
    return Reason.CHANNEL_FAILED
