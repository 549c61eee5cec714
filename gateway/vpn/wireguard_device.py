"""Creates a WireGuard device, either in the kernel or with wireguard-go, and configures it with `wg`."""

import asyncio
import logging
import re
import socket
import subprocess

from gateway.contracts.config_types import HostPort
from gateway.errors import FailureReason, TunnelError
from gateway.processes.child_environment import minimal_environment
from gateway.processes.permission_checked_program import find_program
from gateway.relay.resolver import resolve
from gateway.vpn import network_devices
from gateway.vpn.device_lock import DeviceLock, is_locked
from gateway.vpn.device_names import device_prefix
from gateway.vpn.device_settings import DeviceSettings, likely_peers, parse_addresses
from gateway.vpn.options import WireGuardOptions
from gateway.vpn.vpn_device_isolation import VpnDeviceIsolation
from gateway.vpn.wireguard_device_status import WireGuardDeviceStatus, parse_dump
from gateway.vpn.wireguard_file_loader import load_wireguard_file
from gateway.vpn.wireguard_formats import to_setconf
from gateway.vpn.wireguard_go import WireGuardGoProcess

log = logging.getLogger(__name__)

_WG_TIMEOUT = 5.0
_PREFIX = device_prefix("w")
_POLL_INTERVAL = 0.05
_RESOLVE_TIMEOUT = 4.0
_DEFAULT_MTU = 1420
"""Default MTU, in bytes. It is 80 bytes less than the MTU of Ethernet, as in wg-quick."""


class WireGuardDevice:
    """Creates and controls a WireGuard device in the kernel, or in wireguard-go if the kernel has no WireGuard.

    Args:
        options: The options of the tunnel.
        device: The name for the device.
        isolation: Isolates the device. The caller must close `isolation`.

    Raises:
        TunnelError: The configuration file cannot be loaded. See `load_wireguard_file`.
    """

    def __init__(self, options: WireGuardOptions, device: str, isolation: VpnDeviceIsolation) -> None:
        self._options = options
        self._device = device
        self._isolation = isolation
        self._file = load_wireguard_file(options)
        self._process = WireGuardGoProcess(device)
        self._is_isolated = False
        self._endpoints: dict[str, str] = {}
        """The resolved endpoint of each peer. The dictionary key is the peer's public key."""
        self._lock: DeviceLock | None = None
        self.in_kernel = False
        """Whether the kernel provides the device."""
        self.server = ""
        """The resolved endpoints of all peers, separated by commas, for messages."""

    async def start(self) -> DeviceSettings:
        """Create and configure the device. Do not wait for a handshake.

        Returns:
            The settings of the device.

        Raises:
            TunnelError: The device cannot be created or configured.
        """
        if find_program("wg") is None:
            raise TunnelError(
                FailureReason.PROTOCOL, "wg is not installed: install the package wireguard-tools", fatal=True
            )
        for key in self._file.ignored:
            log.warning(
                "%s: ignoring %s, because the gateway does not run commands from the file", self._options.config, key
            )
        await self._create_in_kernel()
        if not self.in_kernel:
            await self._process.start(_PREFIX)
        settings = self._device_settings()
        await self._isolation.configure_device(self._device, settings)
        self._is_isolated = True
        await self.configure_peers()
        return settings

    async def _create_in_kernel(self) -> None:
        """Create the device in the kernel and set `in_kernel`, if the kernel supports WireGuard.

        First, remove the devices that killed gateways left behind.
        """
        self._lock = DeviceLock(self._device)
        await asyncio.to_thread(network_devices.remove_stale, "wireguard", _PREFIX, is_locked)
        creation = asyncio.ensure_future(asyncio.to_thread(network_devices.add_wireguard, self._device))
        try:
            self.in_kernel = await asyncio.shield(creation)
        except asyncio.CancelledError:
            self.in_kernel = await creation  # wait until the device exists, so that `stop` can remove it
            raise

    def _device_settings(self) -> DeviceSettings:
        file, options = self._file, self._options
        return DeviceSettings(
            addresses=file.addresses,
            peers=likely_peers(file.addresses),
            name_servers=parse_addresses(options.dns) if options.dns else file.name_servers,
            search_domains=file.search_domains,
            mtu=options.mtu or file.mtu or _DEFAULT_MTU,
        )

    async def configure_peers(self) -> None:
        """Resolve the endpoints of the peers, and set the keys and peers of the device. Do not wait for handshakes.

        Raises:
            TunnelError: An endpoint cannot be resolved, or `wg` fails.
        """
        await self._set_peers(await self._resolve_endpoints())

    async def _resolve_endpoints(self) -> dict[str, str]:
        """Resolve the endpoints of all peers. If a name does not resolve, use the last known address.

        Returns:
            The `address:port` of each peer that has an endpoint. The dictionary key is the peer's public key.
        """
        found = {}
        for peer in self._file.peers:
            if peer.endpoint is None:
                continue
            try:
                async with asyncio.timeout(_RESOLVE_TIMEOUT):
                    found[peer.public_key] = await _resolve_endpoint(peer.endpoint)
            except (TunnelError, TimeoutError) as error:
                if peer.public_key not in self._endpoints:
                    if isinstance(error, TunnelError):
                        raise
                    raise TunnelError(
                        FailureReason.DNS, f"Endpoint {peer.endpoint}: name resolution timed out: check DNS"
                    ) from error
                found[peer.public_key] = self._endpoints[peer.public_key]
        return found

    async def _set_peers(self, endpoints: dict[str, str]) -> None:
        self._endpoints = endpoints
        self.server = ", ".join(endpoints.values())
        await self._wg("setconf", self._device, "/dev/stdin", stdin=to_setconf(self._file, endpoints))

    async def reconnect(self) -> None:
        """Remove all peers and add them again, to start new handshakes. The device and its addresses remain.

        Raises:
            TunnelError: An endpoint cannot be resolved, or `wg` fails.
        """
        endpoints = await self._resolve_endpoints()
        for peer in self._file.peers:
            await self._wg("set", self._device, "peer", peer.public_key, "remove")
        await self._set_peers(endpoints)

    def reload_file(self) -> bool:
        """Load the configuration file again. Can block.

        Returns:
            Whether the addresses, the MTU, the name servers and the search domains are unchanged. If so, the caller
            can keep the device, and set its keys and peers again.

        Raises:
            TunnelError: The configuration file cannot be loaded. See `load_wireguard_file`.
        """
        before, self._file = self._file, load_wireguard_file(self._options)
        after = self._file
        return (before.addresses, before.mtu, before.name_servers, before.search_domains) == (
            after.addresses, after.mtu, after.name_servers, after.search_domains,
        )  # fmt: skip

    async def status(self) -> WireGuardDeviceStatus:
        """Return the status of the device from `wg show`.

        Raises:
            TunnelError: `wg` fails.
        """
        return parse_dump(await self._wg("show", self._device, "dump"))

    async def wait_for_handshake(self) -> None:
        """Wait for the first handshake. This method has no time limit, so the caller must set one.

        Raises:
            TunnelError: `wg` fails.
        """
        while not (await self.status()).last_handshake:  # noqa: ASYNC110 - WireGuard does not report handshakes
            await asyncio.sleep(_POLL_INTERVAL)

    async def _wg(self, *arguments: str, stdin: str | None = None) -> str:
        command = [find_program("wg") or "wg", *arguments]

        def run() -> str:
            done = subprocess.run(  # noqa: S603 - the gateway sets the program and the arguments
                command, input=stdin or "", capture_output=True, text=True, timeout=_WG_TIMEOUT, check=False,
                env=minimal_environment(),
            )  # fmt: skip
            if done.returncode:
                # `wg` quotes invalid values. Remove them, because they can be private keys.
                message = re.sub(r"`[^']*'", "a value", done.stderr.strip().partition("\n")[0])
                raise TunnelError(FailureReason.PROTOCOL, f"wg {arguments[0]}: {message}")
            return done.stdout

        try:
            return await self._isolation.run_blocking(run)
        except subprocess.TimeoutExpired as error:
            raise TunnelError(
                FailureReason.TIMEOUT, f"wg {arguments[0]} did not exit within {_WG_TIMEOUT:g} s"
            ) from error

    async def wait(self) -> str:
        """Wait until wireguard-go exits, and return the cause. If `in_kernel` is set, wait until cancelled."""
        return await self._process.wait()

    async def stop(self) -> None:
        """Remove the device, and release the lock on its name."""
        await self._process.stop()
        if self.in_kernel:
            try:
                if self._is_isolated:
                    await self._isolation.run_blocking(lambda: network_devices.remove(self._device))
                else:
                    await asyncio.to_thread(network_devices.remove, self._device)
            except TunnelError as error:
                log.warning("cannot remove the device %s: %s", self._device, error.detail)
        if self._lock is not None:
            self._lock.close()


async def _resolve_endpoint(endpoint: str) -> str:
    """Resolve the name in `host:port` with the resolver of this host, and return `address:port`."""
    host, _, port = endpoint.rpartition(":")
    try:
        found = await resolve(HostPort(host.strip("[]"), int(port)))
    except (socket.gaierror, UnicodeError) as error:
        raise TunnelError(FailureReason.DNS, f"Endpoint {endpoint}: {error}") from error
    except ValueError as error:
        raise TunnelError(
            FailureReason.PROTOCOL, f"Endpoint {endpoint} is not host:port: correct it", fatal=True
        ) from error
    address = found[0][4]
    return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"
