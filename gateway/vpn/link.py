"""Implements the link of a VPN: its sockets send and receive only through the VPN device."""

import asyncio
import contextlib
import errno
import ipaddress
import time
from dataclasses import dataclass
from math import inf

from gateway.connection_tap import Tap
from gateway.contracts.config_types import HostPort
from gateway.contracts.link import LinkStatus, RemoteNetworkId, Stream
from gateway.contracts.phase_timer import PhaseTimer
from gateway.contracts.relay import Relay
from gateway.contracts.states import CloseReason
from gateway.errors import DialError, FailureReason, TunnelError
from gateway.metric_types import Histogram
from gateway.relay.native_engine_selection import relay_sockets
from gateway.relay.tcp_dial import DIAL_TIMEOUT, dial
from gateway.vpn.device_settings import DeviceSettings
from gateway.vpn.icmp import EchoMonitor
from gateway.vpn.overdue_reply_timer import OverdueReplyThresholds, OverdueReplyTimer
from gateway.vpn.vpn_device_isolation import VpnDeviceIsolation
from gateway.vpn.vpn_resolver import VpnResolver

_ERRORS_FROM_PEER = (errno.ECONNREFUSED, errno.ECONNRESET)
"""Socket errors that prove that a packet from the far side has arrived. Other errors can come from the local kernel,
for example because a route is missing."""


@dataclass(frozen=True, kw_only=True)
class VpnStatus(LinkStatus):
    """The status of a VPN. The inherited field `rtt` is the round-trip time of the latest ICMP echo reply.

    Args:
        server: The address of the OpenVPN server, or the endpoints of the WireGuard peers; None if not known yet.
        addresses: Addresses of the device.
        name_servers: Name servers that the gateway queries through the device.
        connections: Number of connections to the VPN server; always 1.
        clients: Number of client connections that use the VPN.
    """

    server: str | None
    addresses: tuple[str, ...]
    name_servers: tuple[str, ...]
    connections: int = 1
    clients: int


class VpnLink:
    """A link whose sockets send and receive only through a VPN device. Implements `gateway.contracts.link.Link`.

    Args:
        isolation: Creates the sockets. The caller must close `isolation`.
        network: The identity of the network behind the VPN.
        thresholds: For how many seconds an expected reply must be missing before each `OverdueReplyLevel` begins.
    """

    def __init__(
        self, isolation: VpnDeviceIsolation, network: RemoteNetworkId, thresholds: OverdueReplyThresholds
    ) -> None:
        self.network = network
        self.silence = OverdueReplyTimer(thresholds, time.monotonic())
        self.server: str | None = None
        """The value for `VpnStatus.server`; None if the value is not known yet."""
        self._isolation = isolation
        self._resolver = VpnResolver(isolation)
        self._echo = EchoMonitor(isolation, self._on_echo_reply)
        self._rtt: float | None = None
        self._relays: set[Relay] = set()
        self._lost: asyncio.Future[TunnelError] = asyncio.get_running_loop().create_future()
        self._settings: DeviceSettings | None = None

    def set_device_settings(self, settings: DeviceSettings) -> None:
        """Use the name servers in `settings`, and ping the addresses in `gateways`, `peers` and `name_servers`.

        If the addresses of the device have changed, reset all client connections, because they no longer work.

        Args:
            settings: The current settings of the device.
        """
        if self._settings is not None and self._settings.addresses != settings.addresses:
            self.reset_all()
        self._settings = settings
        self._resolver.configure(settings)
        for peer in (*settings.gateways, *settings.peers, *settings.name_servers):
            self._echo.add_host(peer)

    async def socket(self, to: HostPort, phases: PhaseTimer | None = None) -> Stream:
        """Connect a non-blocking socket to `to`, and record the durations of the phases `dns` and `tcp`.

        See `gateway.contracts.link.Link`.
        """
        return await self._dial(to, phases or PhaseTimer(), DIAL_TIMEOUT)

    async def join(
        self, client: Stream, to: HostPort, latency: Histogram, within: float = inf, tap: Tap | None = None
    ) -> Relay:
        """Dial `to`, and forward bytes between the target and `client`. See `gateway.contracts.link.Link`."""
        relay = relay_sockets(client, await self._dial(to, PhaseTimer(), min(DIAL_TIMEOUT, within)), latency, tap)
        self._relays.add(relay)
        relay.ended.add_done_callback(lambda _: self._relays.discard(relay))
        return relay

    async def _dial(self, to: HostPort, timed: PhaseTimer, timeout: float) -> Stream:  # noqa: ASYNC109
        self.silence.record_dial(time.monotonic())
        try:
            sock = await dial(to, timed, timeout, self._resolver.resolve, self._isolation.create_socket)
        except DialError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in _ERRORS_FROM_PEER:
                self.silence.record_reply(time.monotonic())
            raise
        self.silence.record_reply(time.monotonic())
        # Do not ping the target if its address has a scope ID (ValueError), or if the connection was reset (OSError).
        with contextlib.suppress(ValueError, OSError):
            self._echo.add_host(ipaddress.ip_address(sock.getpeername()[0]))
        return sock

    def send_echo_requests(self) -> None:
        """Send an ICMP echo request through the VPN to each host that the link pings."""
        if self._echo.send_requests():
            self.silence.record_echo_request(time.monotonic())

    def ignore_unresponsive_hosts(self) -> None:
        """Expect no more echo replies from unresponsive hosts. See `EchoMonitor.ignore_unresponsive_hosts`."""
        self._echo.ignore_unresponsive_hosts()

    def _on_echo_reply(self, seconds: float) -> None:
        self._rtt = seconds
        self.silence.record_reply(time.monotonic())

    def mark_lost(self, why: str, reason: FailureReason = FailureReason.RESET) -> None:
        """Report the link as lost: `lost` then returns an error.

        Args:
            why: The cause, for the field `detail` of the error.
            reason: The category of the cause, for the field `reason` of the error.
        """
        if not self._lost.done():
            self._lost.set_result(TunnelError(reason, why))

    def reset_all(self) -> None:
        """Reset all client connections."""
        for relay in list(self._relays):
            relay.abort(CloseReason.LINK_LOST)

    async def lost(self) -> TunnelError:
        """Wait until the link is lost, and return the error. The error is not fatal, because a retry can succeed."""
        return await asyncio.shield(self._lost)

    def status(self) -> VpnStatus:
        """Return the current status of the VPN."""
        settings = self._settings
        return VpnStatus(
            rtt=self._rtt,
            server=self.server,
            addresses=tuple(str(each.ip) for each in settings.usable_addresses) if settings else (),
            name_servers=tuple(map(str, settings.name_servers)) if settings else (),
            clients=len(self._relays),
        )

    def close(self) -> None:
        """Reset all client connections, stop pinging hosts, and report the link as lost."""
        self._echo.close()
        self.reset_all()
        self.mark_lost("the tunnel was closed")
