"""Runs the OpenVPN client as a child process, and configures its network device."""

import asyncio
import logging
from contextlib import AsyncExitStack
from typing import Any

from gateway.contracts.config_types import HostPort
from gateway.contracts.link import Link, RemoteNetworkId
from gateway.contracts.states import TunnelState
from gateway.contracts.tunnel import TunnelStateCallback
from gateway.errors import FailureReason, TunnelError
from gateway.vpn.device_names import new_device_name
from gateway.vpn.link import VpnLink
from gateway.vpn.liveness_monitor import LivenessMonitor
from gateway.vpn.openvpn_config_sanitizer import SanitizedOpenVpnFile
from gateway.vpn.openvpn_file_loader import load_client_file
from gateway.vpn.openvpn_process import OpenVpnProcess
from gateway.vpn.options import OpenVpnOptions
from gateway.vpn.vpn_device_isolation import VpnDeviceIsolation, create_isolation
from gateway.vpn.vpn_loopback_forwarder import VpnLoopbackForwarder

log = logging.getLogger(__name__)

_TUNNEL_STATES = {
    "RESOLVE": TunnelState.RESOLVING,
    "WAIT": TunnelState.CONNECTING,
    "TCP_CONNECT": TunnelState.CONNECTING,
    "AUTH": TunnelState.AUTHENTICATING,
    "GET_CONFIG": TunnelState.AUTHENTICATING,
}
"""The tunnel state to report for each OpenVPN state while OpenVPN connects for the first time. Other OpenVPN states
do not change the tunnel state."""


class OpenVpnClient:
    """Runs one OpenVPN client process, and configures its network device."""

    def __init__(
        self,
        options: OpenVpnOptions,
        file: SanitizedOpenVpnFile,
        forward: VpnLoopbackForwarder | None,
        via: RemoteNetworkId,
    ) -> None:
        self._options = options
        self._forward = forward
        self._via = via
        self._device = new_device_name("o")
        self._states: asyncio.Queue[str] = asyncio.Queue()
        self._file = file
        self._vpn = OpenVpnProcess(options, file, self._device, self._redirect, self._states.put_nowait)
        self._link: VpnLink | None = None
        self._ended: asyncio.Future[TunnelError] = asyncio.get_running_loop().create_future()
        self.isolation: VpnDeviceIsolation = create_isolation(options.isolation, self._device)

    @classmethod
    async def start(cls, options: OpenVpnOptions, via: Link, stack: AsyncExitStack) -> "OpenVpnClient":
        """Start an OpenVPN process.

        Args:
            options: The options of the tunnel.
            via: The link through which to reach the VPN server.
            stack: Receives the callbacks that stop the process and release the VPN device.

        Raises:
            TunnelError: The configuration file is not valid, or the process cannot be started.
        """
        # The child process cannot dial through a link. If the tunnel runs inside another tunnel, the child process
        # connects to a loopback forwarder, which dials through the link.
        forward = None if via.network.is_local else await stack.enter_async_context(VpnLoopbackForwarder(via))
        file = load_client_file(options)
        if forward is not None and file.uses_proxy:
            bypass = f"http-proxy and socks-proxy would bypass the tunnel to {via.network}"
            raise TunnelError(
                FailureReason.PROTOCOL,
                f"{options.config}: {bypass}: remove these options, or the key `via`",
                fatal=True,
            )
        client = cls(options, file, forward, via.network)
        stack.callback(client.isolation.close)
        stack.push_async_callback(client.isolation.release_device)
        stack.push_async_callback(client._vpn.stop)
        await client._vpn.start()
        client._ended = asyncio.ensure_future(client._vpn.wait())
        stack.callback(client._ended.cancel)
        return client

    def _redirect(self, server: HostPort, protocol: str) -> HostPort | None:
        """Make the loopback forwarder dial `server`, and return the forwarder's address.

        Return None if there is no loopback forwarder. `OpenVpnProcess` calls this method as its `redirect` callback.

        Raises:
            TunnelError: The connection uses UDP, which the loopback forwarder cannot carry.
        """
        if self._forward is None:
            return None
        if not protocol.startswith("tcp"):
            detail = f"{server} uses UDP, which the tunnel to {self._via} cannot carry: use `proto tcp`"
            raise TunnelError(FailureReason.PROTOCOL, detail, fatal=True)
        return self._forward.set_target(server)

    async def _next_state(self) -> str | None:
        """Wait for the next state that OpenVPN reports, and return it; None if the process has exited."""
        state = asyncio.ensure_future(self._states.get())
        either: set[asyncio.Future[Any]] = {state, self._ended}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            return state.result() if state.done() else None
        finally:
            state.cancel()

    async def connect(self, progress: TunnelStateCallback) -> None:
        """Wait until OpenVPN is connected for the first time.

        Args:
            progress: Called with each state of the tunnel. While OpenVPN is not connected, also called every
                `connect_timeout` seconds with the reason.

        Raises:
            TunnelError: The child process has exited, or did not connect within the time `silence.restart`.
        """
        options = self._options
        self._schedule_failure_report(progress)
        try:
            async with asyncio.timeout(options.silence.restart):
                while (state := await self._next_state()) != "CONNECTED":
                    if state is None:
                        raise self._ended.result()
                    if state in _TUNNEL_STATES:
                        progress(_TUNNEL_STATES[state])
        except TimeoutError as error:
            raise self._vpn.error(f"no connection within {options.silence.restart:g} s (silence.restart)") from error
        finally:
            self._failure_report.cancel()

    def _schedule_failure_report(self, progress: TunnelStateCallback) -> None:
        loop = asyncio.get_running_loop()
        self._failure_report = loop.call_later(self._options.connect_timeout, self._report_failure, progress)

    def _report_failure(self, progress: TunnelStateCallback) -> None:
        """Report why OpenVPN is not connected yet. Do not restart OpenVPN: a restart would cause more delay."""
        error = self._vpn.error(f"no connection within {self._options.connect_timeout:g} s; still trying")
        reason = error.reason if self._vpn.failure else FailureReason.TIMEOUT
        progress(TunnelState.BACKOFF, reason, error.detail)
        # Report the failure again later: OpenVPN can have logged a more specific failure by then.
        self._schedule_failure_report(progress)

    async def configure(self, link: VpnLink) -> None:
        """Configure the device and the link with the settings that the server has pushed.

        Args:
            link: The link that uses the device.

        Raises:
            TunnelError: The server has pushed no address, or the device cannot be configured.
        """
        settings = self._vpn.device_settings
        if settings is None or not settings.addresses:
            raise TunnelError(FailureReason.PROTOCOL, "the server has assigned no address")
        await self.isolation.configure_device(self._device, settings)
        link.set_device_settings(settings)
        link.server = str(self._vpn.server)
        self._link = link

    async def follow_states(self, link: VpnLink, monitor: LivenessMonitor) -> None:
        """Update the device and `monitor` according to the states that OpenVPN reports.

        When the OpenVPN process exits, report the link as lost.
        """
        while (state := await self._next_state()) is not None:
            if state == "CONNECTED":
                await self.configure(link)
                monitor.on_connected()
            elif state == "RECONNECTING":
                monitor.on_reconnecting(f"reconnecting: {self._vpn.state_detail}")
            elif state == "DOWN":
                await self.isolation.release_device()
        link.mark_lost(self._ended.result().detail, self._ended.result().reason)

    async def received(self) -> int:
        """Return the number of bytes that OpenVPN has received."""
        return self._vpn.received

    async def restart_in_place(self) -> None:
        """Reconnect to the server. The device and the connections through it remain."""
        self._vpn.restart_in_place()

    def renew(self) -> None:
        """Reload the configuration file and the files to which it refers, because one of them has changed.

        If the OpenVPN configuration is different, report the link as lost, so that a new process replaces this one.
        Otherwise, for example if only the password has changed, reconnect.
        """
        try:
            same = load_client_file(self._options).text == self._file.text
        except TunnelError as error:
            log.error("%s", error.detail)
            return
        if same:
            self._vpn.restart_in_place()
        elif self._link is not None:
            self._link.mark_lost("the configuration file, or a file that it refers to, has changed")
