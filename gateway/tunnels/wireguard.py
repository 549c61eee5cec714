"""Defines `kind: wireguard`: creates a WireGuard device, in the kernel or with wireguard-go, and monitors it."""

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

from gateway.contracts.link import Link
from gateway.contracts.states import TunnelState
from gateway.contracts.tunnel import TunnelOpenResult, TunnelStateCallback
from gateway.errors import FailureReason, TunnelError
from gateway.facts import FactDefinition
from gateway.text_sanitizer import one_line
from gateway.tunnels import TunnelKind
from gateway.vpn.device_names import new_device_name
from gateway.vpn.link import VpnLink, VpnStatus
from gateway.vpn.liveness_monitor import LivenessMonitor
from gateway.vpn.options import WireGuardOptions, read_path
from gateway.vpn.vpn_device_isolation import create_isolation
from gateway.vpn.vpn_link_background_tasks import background_tasks
from gateway.vpn.wireguard_device import WireGuardDevice
from gateway.vpn.wireguard_file_loader import load_wireguard_file

log = logging.getLogger(__name__)

HANDSHAKE_AGE = FactDefinition(
    "handshake_age_seconds",
    "Time since the latest handshake with one of the WireGuard peers.",
    metric="gateway_tunnel_handshake_age_seconds",
    describe=lambda seconds: f"handshake {seconds:.0f} s ago",
)

_HANDSHAKE_TIMEOUT = 5.0
"""Seconds to wait for the first handshake. After this time, the tunnel resolves the peers' host names again, because
their addresses can change."""


@dataclass(frozen=True, kw_only=True)
class WireGuardStatus(VpnStatus):
    """The status of a WireGuard tunnel.

    Args:
        device: The implementation of the device: `kernel` or `wireguard-go`.
        handshake_age_seconds: Seconds since the latest handshake with one of the peers; None if it is not known yet.
    """

    device: str
    handshake_age_seconds: float | None


class WireGuardTunnel:
    """A WireGuard tunnel; implements `gateway.contracts.tunnel.Tunnel`.

    Args:
        options: The options of the tunnel.
    """

    def __init__(self, options: WireGuardOptions) -> None:
        self._options = options

    @property
    def far_side(self) -> str:
        """The path of the configuration file, which identifies the tunnel in messages."""
        return str(self._options.config)

    @contextlib.asynccontextmanager
    async def open(self, via: Link, progress: TunnelStateCallback) -> AsyncIterator[TunnelOpenResult]:
        """Create the device, wait for a handshake, and monitor the VPN; see `gateway.contracts.tunnel.Tunnel`."""
        options = self._options
        if not via.network.is_local:
            detail = f"WireGuard uses UDP, which the tunnel to {via.network} cannot carry: remove via"
            raise TunnelError(FailureReason.PROTOCOL, detail, fatal=True)
        progress(TunnelState.CONNECTING)
        async with AsyncExitStack() as stack:
            device = new_device_name("w")
            isolation = create_isolation(options.isolation, device)
            stack.callback(isolation.close)
            stack.push_async_callback(isolation.release_device)
            wireguard = WireGuardDevice(options, device, isolation)
            stack.push_async_callback(wireguard.stop)
            settings = await wireguard.start()
            await self._wait_for_handshake(wireguard, progress)
            active = _ConnectedWireGuardDevice(wireguard)
            stack.callback(active.close)
            link = VpnLink(isolation, via.network.behind(self.far_side), options.silence.thresholds)
            stack.callback(link.close)
            active.link = link
            link.set_device_settings(settings)
            monitor = LivenessMonitor(link, progress, active.received, active.reconnect)
            async with background_tasks(link, monitor.run(), active.wait_for_child()):
                yield TunnelOpenResult(link, lambda: active.status(link), active.renew)

    async def _wait_for_handshake(self, wireguard: WireGuardDevice, progress: TunnelStateCallback) -> None:
        """Wait for the first handshake. Every few seconds, resolve the host names of the peers again, and retry.

        Args:
            wireguard: The device.
            progress: Called once, if there is no handshake within `connect_timeout`.

        Raises:
            TunnelError: There was no handshake within `silence.restart`, or `wg` failed.
        """
        silence, started = self._options.silence, time.monotonic()
        reported = False
        while True:
            try:
                async with asyncio.timeout(_HANDSHAKE_TIMEOUT):
                    return await wireguard.wait_for_handshake()
            except TimeoutError:
                waited = time.monotonic() - started
            detail = f"no handshake with {wireguard.server}: check that the peer is reachable and that the keys match"
            if waited >= silence.restart:
                raise TunnelError(FailureReason.TIMEOUT, detail)
            if waited >= self._options.connect_timeout and not reported:
                reported = True
                progress(TunnelState.BACKOFF, FailureReason.TIMEOUT, f"{detail}; still trying")
            await wireguard.reconnect()


class _ConnectedWireGuardDevice:
    """Maintains the device of an open WireGuard tunnel: reconnects, applies changed files, and reports the status."""

    def __init__(self, wireguard: WireGuardDevice) -> None:
        self._wireguard = wireguard
        self._renewal: asyncio.Task[None] | None = None
        self._handshake_age: float | None = None
        self._received = 0
        self.link: VpnLink | None = None

    def status(self, link: VpnLink) -> WireGuardStatus:
        """Return the status of the link, with the additional fields of WireGuard."""
        device = "kernel" if self._wireguard.in_kernel else "wireguard-go"
        return WireGuardStatus(**vars(link.status()), device=device, handshake_age_seconds=self._handshake_age)

    async def received(self) -> int:
        """Return the number of received bytes. Also update the handshake age and the peers' endpoints."""
        try:
            status = await self._wireguard.status()
        except (TunnelError, OSError) as error:
            # `wg` can fail if the host is busy, so do not report the link as lost here. If no data arrives,
            # `LivenessMonitor` reports the link as lost.
            log.warning("the status of the WireGuard device cannot be read: %s", one_line(str(error)))
            return self._received
        self._received = status.received
        if self.link is not None:
            self.link.server = ", ".join(status.endpoints)
        if status.last_handshake:
            self._handshake_age = max(0.0, round(time.time() - status.last_handshake, 1))
        return status.received

    async def reconnect(self) -> None:
        """Resolve the host names of the peers again, and start new handshakes. Log errors instead of raising them."""
        try:
            await self._wireguard.reconnect()
        except TunnelError as error:
            # If still no data arrives, `LivenessMonitor` repeats the reconnect, and finally reports the link as lost.
            log.warning("%s", error.detail)

    def renew(self) -> None:
        """Reload the configuration file and key files. If only keys and peers have changed, update the device.

        If other settings have changed, report the link as lost, so that the gateway opens the tunnel again.
        """
        try:
            same = self._wireguard.reload_file()
        except TunnelError as error:
            log.error("%s", error.detail)
            return
        if same:
            self._renewal = asyncio.create_task(self.reconnect())
        elif self.link is not None:
            self.link.mark_lost("the configuration file has changed")

    def close(self) -> None:
        """Cancel the reconnect that `renew` has started."""
        if self._renewal is not None:
            self._renewal.cancel()

    async def wait_for_child(self) -> None:
        """Wait until wireguard-go exits, and report the link as lost. With a kernel device, wait until cancelled."""
        why = await self._wireguard.wait()
        if self.link is not None:
            self.link.mark_lost(why)


def _verify(options: WireGuardOptions) -> None:
    load_wireguard_file(options)


def _import_file(name: str, text: str) -> dict[str, str] | None:
    """Return the configuration keys for a WireGuard configuration file. Implements `TunnelKind.import_file`."""
    return {"config": name} if re.search(r"(?m)^\[Interface\]", text) else None


KIND = TunnelKind(
    "wireguard",
    WireGuardOptions,
    WireGuardTunnel,
    schemes=("wireguard",),
    servers=lambda _: (),  # WireGuard does not use TCP; `udp_servers` returns its servers
    udp_servers=lambda options: load_wireguard_file(options).endpoints,
    encrypts=True,
    needs_capabilities=True,
    facts=(HANDSHAKE_AGE,),
    verify=_verify,
    read_url=read_path,
    identity=lambda options: options.config,
    import_file=_import_file,
    keys_in_container={"isolation": "device"},  # the container's network namespace already isolates the VPN
)
