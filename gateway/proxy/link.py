"""Implements the link of an open proxy tunnel: each connection to a target uses a new connection to the proxy."""

import asyncio
from dataclasses import dataclass
from math import inf

from gateway.connection_tap import Tap
from gateway.contracts.config_types import HostPort
from gateway.contracts.link import Link, LinkStatus, Stream
from gateway.contracts.phase_timer import PhaseTimer
from gateway.contracts.relay import Relay
from gateway.errors import DialError, FailureReason, LinkLostError, TargetPathError, TunnelError
from gateway.metric_types import Histogram
from gateway.proxy import http_connect, socks5
from gateway.proxy.connection_opener import proxy_connection
from gateway.proxy.credentials import read_credentials
from gateway.proxy.options import ProxyOptions
from gateway.proxy.proxy_connections import TlsProxyConnection
from gateway.proxy.reply_error import ProxyReplyError
from gateway.relay.dial_retry import retry_dial
from gateway.relay.native_engine_selection import relay_sockets
from gateway.relay.stream_bridge import StreamBridge
from gateway.text_sanitizer import error_text


@dataclass(frozen=True, kw_only=True)
class ProxyTunnelStatus(LinkStatus):
    """The status of a proxy tunnel.

    Args:
        encrypted: Whether connections to the proxy use TLS.
    """

    encrypted: bool


class ProxyLink:
    """A link that opens connections through a proxy; implements `gateway.contracts.link.Link`.

    Args:
        options: The options of the tunnel.
        via: The link through which to connect to the proxy.
    """

    def __init__(self, options: ProxyOptions, via: Link) -> None:
        self._options = options
        self._via = via
        self._lost: asyncio.Future[TunnelError] = asyncio.get_running_loop().create_future()
        self.network = via.network.behind(options.url)

    async def socket(self, to: HostPort, phases: PhaseTimer | None = None) -> Stream:
        """Connect a non-blocking socket to `to`, and record the duration as the phase `channel`.

        See `gateway.contracts.link.Link`.
        """
        timed = phases or PhaseTimer()
        with timed("channel"):
            sock, _ = await retry_dial(
                lambda within: self._dial(to, within, short=True), timed.on_abandoned, self._options.dial_timeout
            )
        return sock

    async def join(
        self, client: Stream, to: HostPort, latency: Histogram, within: float = inf, tap: Tap | None = None
    ) -> Relay:
        """Dial `to`, and forward bytes between `client` and the new connection. See `gateway.contracts.link.Link`."""
        sock, bridge = await self._dial(to, min(self._options.dial_timeout, within), short=False)
        return relay_sockets(client, sock, latency, tap) if bridge is None else bridge.join(client, latency, tap)

    async def _dial(
        self,
        to: HostPort,
        timeout: float,  # noqa: ASYNC109
        *,
        short: bool,
    ) -> tuple[Stream, StreamBridge | None]:
        """Connect to a target, and return the socket.

        If the proxy uses TLS, also return the `StreamBridge` between the socket and the TLS connection.

        Args:
            to: The target.
            timeout: Time limit in seconds.
            short: Whether the `StreamBridge` keeps its buffers small. Without TLS, `short` has no effect.
        """
        try:
            async with asyncio.timeout(timeout), proxy_connection(self._options, self._via) as stream:
                login = read_credentials(self._options)
                if self._options.is_socks:
                    await socks5.log_in(stream, login)
                    await socks5.connect(stream, to)
                else:
                    await http_connect.connect(stream, to, login)
                if not isinstance(stream, TlsProxyConnection):
                    return stream.sock, None
                bridge = StreamBridge(stream.tls, short=short)
                return bridge.sock, bridge
        except TimeoutError as error:
            raise DialError(
                FailureReason.TIMEOUT,
                f"{to}: the proxy did not connect within {timeout:.3g} s: check the address and the proxy",
            ) from error
        except ProxyReplyError as error:
            prohibited = error.reason is FailureReason.CHANNEL_PROHIBITED
            remedy = "permit it in the proxy's rules" if prohibited else "check the address and port"
            raise DialError(error.reason, f"{to}: the proxy refuses the connection ({error}): {remedy}") from error
        except UnicodeError as error:
            raise DialError(FailureReason.DNS, f"{to.host!r} is not a valid host name: correct it") from error
        except OSError as error:
            raise DialError(
                FailureReason.RESET, f"{to}: the connection to the proxy failed: {error_text(error)}"
            ) from error
        except TunnelError as error:
            self._mark_lost(error)
            raise LinkLostError(error.detail) from error

    async def probe(self) -> None:
        """Check that the credentials can be read, and that the proxy accepts connections and, for SOCKS5, the login.

        Do not check the login to an HTTP proxy, because the gateway sends the credentials only in a request for
        a target.

        Raises:
            TunnelError: The proxy cannot be used.
            LinkLostError: The outer link, through which the gateway connects to the proxy, failed.
        """
        endpoint, login = self._options.endpoint, read_credentials(self._options)
        try:
            async with (
                asyncio.timeout(self._options.connect_timeout),
                proxy_connection(self._options, self._via) as stream,
            ):
                if self._options.is_socks:
                    await socks5.log_in(stream, login)
                stream.close()
        except TimeoutError as error:
            raise TunnelError(
                FailureReason.TIMEOUT,
                f"{endpoint}: the proxy does not respond: check the address, the port and firewalls",
            ) from error
        except ProxyReplyError as error:
            fatal = error.reason is FailureReason.AUTH
            raise TunnelError(
                error.reason, f"the proxy rejects the login ({error}): check user and password_file", fatal=fatal
            ) from error
        except OSError as error:
            raise TunnelError(
                FailureReason.RESET, f"{endpoint}: {error_text(error)}: check that a proxy listens on this port"
            ) from error

    async def monitor(self) -> None:
        """Probe the proxy periodically until a probe fails; then report the link as lost."""
        while not self._lost.done():
            await asyncio.sleep(self._options.interval)
            try:
                await self.probe()
            except TargetPathError as error:
                self._mark_lost(error)

    def _mark_lost(self, error: TargetPathError) -> None:
        if not self._lost.done():
            self._lost.set_result(TunnelError(error.reason, error.detail))

    async def lost(self) -> TunnelError:
        """Wait until the link is lost, and return the cause as an error that is not fatal.

        Do not close open connections, because they might still work after a probe has failed. See
        `gateway.contracts.link.Link`.
        """
        return await asyncio.shield(self._lost)

    def status(self) -> ProxyTunnelStatus:
        """Return the status of the link, without a round-trip time."""
        return ProxyTunnelStatus(encrypted=self._options.tls)
