"""One SSH connection in use: its channels, and the wait for its end."""

import asyncio
import socket
import time

import asyncssh

from gateway.contracts import Ending, Endpoint
from gateway.errors import DialError, LinkLostError, Reason
from gateway.measure import Histogram
from gateway.ssh.channel import MAX_PACKET, WINDOW, ChannelRelay
from gateway.ssh.options import SshOptions

_KEEPALIVE = b"keepalive@openssh.com"
_PING_TIMEOUT = 5.0
_Opened = tuple["asyncssh.SSHTCPChannel[bytes]", "asyncssh.SSHTCPSession[bytes]"]


class Session:
    """Opens channels on one SSH connection.

    Args:
        conn: An authenticated connection; closed with the session.
        options: The tunnel's options.
    """

    def __init__(self, conn: asyncssh.SSHClientConnection, options: SshOptions) -> None:
        self._conn = conn
        self._options = options
        self._relays: set[ChannelRelay] = set()
        self._opening: set[asyncio.Task[_Opened]] = set()
        self.closing = False

    @property
    def load(self) -> int:
        """Channels that are open or being opened."""
        return len(self._relays) + len(self._opening)

    @property
    def alive(self) -> bool:
        """Whether channels can still be opened."""
        return not (self.closing or self._conn.is_closed())

    async def join(self, client: socket.socket, to: Endpoint, latency: Histogram) -> ChannelRelay:
        """Open a channel to `to` and join `client` to it; see `gateway.contracts.Link.join`."""
        relay = await self._open(to, latency)
        self._relays.add(relay)
        relay.ended.add_done_callback(lambda _: self._relays.discard(relay))
        relay.attach(client)
        return relay

    async def _open(self, to: Endpoint, latency: Histogram) -> ChannelRelay:
        relay = ChannelRelay(latency)
        # An open that is cancelled leaks its channel (asyncssh #823): it runs in a task of the session's own,
        # and one that nobody waits for any more is aborted when it completes.
        opening: asyncio.Task[_Opened] = asyncio.ensure_future(self._channel(relay, to))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)
        try:
            done, _ = await asyncio.wait({opening}, timeout=self._options.dial_timeout)
        except asyncio.CancelledError:
            opening.add_done_callback(_abort_late)
            raise
        if not done:
            opening.add_done_callback(_abort_late)
            raise DialError(
                Reason.TIMEOUT, f"no channel to {to} within {self._options.dial_timeout:g} s (dial_timeout)"
            )
        try:
            opening.result()
        except asyncssh.ChannelOpenError as error:
            raise self._explain(error, to) from error
        except (asyncssh.Error, OSError) as error:
            raise LinkLostError(str(error)) from error
        return relay

    async def _channel(self, relay: ChannelRelay, to: Endpoint) -> _Opened:
        return await self._conn.create_connection(
            lambda: relay, to.host, to.port, "127.0.0.1", 0, window=WINDOW, max_pktsize=MAX_PACKET
        )

    def _explain(self, error: asyncssh.ChannelOpenError, to: Endpoint) -> DialError | LinkLostError:
        if not self.alive:
            return LinkLostError()
        text = error.reason
        if error.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
            return DialError(
                Reason.CHANNEL_PROHIBITED,
                f"the SSH server forbids {to} (permitopen, AllowTcpForwarding): {text}",
            )
        return DialError(_connect_reason(text), f"{to}: {text}")

    async def ping(self) -> float | None:
        """The round trip of a keepalive request in seconds, or None when it stays unanswered for a while."""
        started = time.monotonic()
        # Not cancelled when late: asyncssh matches answers to requests by their order.
        asked = self._conn.create_task(self._ask())
        done, _ = await asyncio.wait({asked}, timeout=_PING_TIMEOUT)
        return time.monotonic() - started if done and self.alive else None

    async def _ask(self) -> None:
        await self._conn._make_global_request(_KEEPALIVE)  # noqa: SLF001 - no public door to it

    async def lost(self) -> None:
        """Wait until the connection is closed, by whom ever."""
        await self._conn.wait_closed()

    async def close(self) -> None:
        """Reset every client and close the connection, waiting a moment for a goodbye."""
        self.closing = True
        for relay in list(self._relays):
            relay.abort(Ending.LINK_LOST)
        self._conn.close()
        try:
            async with asyncio.timeout(1):
                await self._conn.wait_closed()
        except TimeoutError:
            self._conn.abort()

    def cipher(self) -> str:
        """The encryption that was agreed for sending."""
        return str(self._conn.get_extra_info("send_cipher"))

    def server_version(self) -> str:
        """What the server calls itself."""
        return str(self._conn.get_extra_info("server_version"))


def _abort_late(opening: asyncio.Task[_Opened]) -> None:
    if opening.cancelled() or opening.exception() is not None:
        return
    channel, _ = opening.result()
    channel.abort()


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
