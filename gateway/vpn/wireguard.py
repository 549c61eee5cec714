"""A WireGuard device: of the kernel or of wireguard-go, configured with `wg`."""

import asyncio
import errno
import logging
import os
import re
import socket
import subprocess
import time
from dataclasses import replace
from pathlib import Path

from gateway.contracts import Endpoint, Secret
from gateway.errors import GatewayError, Reason, TunnelError
from gateway.relay.resolver import resolve
from gateway.secret_files import check_owner_only, read_private_key
from gateway.vpn import devices, stale_cleanup
from gateway.vpn.addressing import Addressing, likely_peers, parse_addresses
from gateway.vpn.child import Child, find_program, minimal_environment
from gateway.vpn.device_lock import DeviceLock, is_locked
from gateway.vpn.network_context import NetworkContext, device_prefix
from gateway.vpn.options import WireGuardOptions
from gateway.vpn.wireguard_file import (
    DeviceStatus,
    WireGuardFile,
    check_key,
    parse_dump,
    parse_wireguard_file,
    to_setconf,
)

log = logging.getLogger(__name__)

_WG_TIMEOUT = 5.0
_SOCKET_DIRECTORY = Path("/var/run/wireguard")
"""Where wireguard-go listens (see its README)."""
_PREFIX = device_prefix("w")
_CHILD_TIMEOUT = 5.0
"""Seconds for wireguard-go to create its device."""
_POLL_INTERVAL = 0.05
_RESOLVE_TIMEOUT = 4.0
_DEFAULT_MTU = 1420
"""The default of wg-quick: 80 bytes less than the MTU of Ethernet."""


def load_wireguard_file(options: WireGuardOptions) -> WireGuardFile:
    """Load the configuration file, with the keys from other files. May block.

    Each file is opened once. What is checked is what is used.

    Args:
        options: The options of the tunnel.

    Raises:
        TunnelError: A file cannot be read or parsed, or a key is readable by others; fatal.
    """
    try:
        with options.config.open() as opened:
            status, file = os.fstat(opened.fileno()), parse_wireguard_file(opened.read())
        if file.private_key or any(peer.preshared_key for peer in file.peers):
            check_owner_only(options.config, status)
        return _with_keys(file, options)
    except TunnelError:
        raise
    except (OSError, UnicodeDecodeError, GatewayError) as error:
        raise TunnelError(Reason.PROTOCOL, f"config: {options.config}: {error}", fatal=True) from error


def _with_keys(file: WireGuardFile, options: WireGuardOptions) -> WireGuardFile:
    """Return the file with the keys that the options name."""
    if options.private_key is not None:
        file = replace(file, private_key=check_key(_reveal(options.private_key), "private_key"))
    if options.preshared_key is not None:
        if len(file.peers) != 1:
            raise GatewayError("preshared_key requires a file with exactly one [Peer]")
        preshared_key = check_key(_reveal(options.preshared_key), "preshared_key")
        file = replace(file, peers=(replace(file.peers[0], preshared_key=preshared_key),))
    if not file.private_key:
        raise GatewayError("has no PrivateKey: add it, or set private_key_file")
    return file


def _reveal(secret: Secret) -> str:
    text = secret.reveal() if secret.path is None else read_private_key(secret.path).decode()
    return text.strip()


class WireGuard:
    """A WireGuard device, and the wireguard-go process if there is one.

    Args:
        options: The options of the tunnel.
        device: The name for the device.
        context: The network context for the device. The caller closes it.

    Raises:
        TunnelError: As `load_wireguard_file`.
    """

    def __init__(self, options: WireGuardOptions, device: str, context: NetworkContext) -> None:
        self._options = options
        self._device = device
        self._context = context
        self._file = load_wireguard_file(options)
        self._child: Child | None = None
        self._in_context = False
        self._last_output = ""
        self._endpoints: dict[str, str] = {}
        """The resolved endpoint of each peer, by public key."""
        self._lock: DeviceLock | None = None
        self.in_kernel = False
        """Whether the kernel provides the device."""
        self.server = ""
        """The resolved endpoints of the peers, for messages."""

    async def start(self) -> Addressing:
        """Create and configure the device. The handshake follows.

        Returns:
            The settings of the device.

        Raises:
            TunnelError: The device cannot be created or configured.
        """
        if find_program("wg") is None:
            raise TunnelError(Reason.PROTOCOL, "wg is not installed: install the package wireguard-tools", fatal=True)
        for key in self._file.ignored:
            log.warning("%s: %s is ignored: the gateway configures the device itself", self._options.config, key)
        await self._create_in_kernel()
        if not self.in_kernel:
            await self._start_child()
        addressing = self._addressing()
        await self._context.configure_device(self._device, addressing)
        self._in_context = True
        await self.configure_peers()
        return addressing

    async def _create_in_kernel(self) -> None:
        """Create the device in the kernel if it supports WireGuard."""
        self._lock = DeviceLock(self._device)
        await asyncio.to_thread(devices.remove_stale, "wireguard", _PREFIX, is_locked)
        creation = asyncio.ensure_future(asyncio.to_thread(devices.add_wireguard, self._device))
        try:
            self.in_kernel = await asyncio.shield(creation)
        except asyncio.CancelledError:
            self.in_kernel = await creation  # `stop` must know about the device; this takes only a moment
            raise

    async def _start_child(self) -> None:
        """Start wireguard-go and wait until it has created the device."""
        try:
            _check_writable(_SOCKET_DIRECTORY)
        except OSError as error:
            detail = f"{error}: wireguard-go creates its socket there: make it writable (mount a tmpfs)"
            raise TunnelError(Reason.PERMISSION, detail, fatal=True) from error
        stale_cleanup.remove_stale_sockets(_SOCKET_DIRECTORY, f"{_PREFIX}*.sock")
        self._child = await Child.start(
            ["wireguard-go", "-f", self._device], "wireguard-go", self._on_output, {"LOG_LEVEL": "error"}
        )
        deadline = time.monotonic() + _CHILD_TIMEOUT
        ended = asyncio.ensure_future(self._child.wait())
        try:
            while not (_SOCKET_DIRECTORY / f"{self._device}.sock").is_socket():
                if ended.done() or time.monotonic() > deadline:
                    permitted = "not permitted" not in self._last_output and "denied" not in self._last_output
                    raise TunnelError(
                        Reason.PROTOCOL if permitted and self._last_output else Reason.PERMISSION,
                        f"wireguard-go cannot create a device ({self._last_output or 'without output'}):"
                        " CAP_NET_ADMIN and /dev/net/tun are required",
                        fatal=True,
                    )
                await asyncio.sleep(_POLL_INTERVAL)
        finally:
            ended.cancel()

    def _on_output(self, line: str) -> None:
        if line[:1].isascii():  # not a line of the box that wireguard-go draws around a notice
            self._last_output = line
        log.debug("wireguard-go: %s", line)

    def _addressing(self) -> Addressing:
        file, options = self._file, self._options
        return Addressing(
            addresses=file.addresses,
            peers=likely_peers(file.addresses),
            name_servers=parse_addresses(options.dns) if options.dns else file.name_servers,
            search_domains=file.search_domains,
            mtu=options.mtu or file.mtu or _DEFAULT_MTU,
        )

    async def configure_peers(self) -> None:
        """Resolve the endpoints of the peers, and set the keys and peers of the device. New handshakes follow.

        Raises:
            TunnelError: An endpoint cannot be resolved, or `wg` fails.
        """
        await self._set_peers(await self._resolve_endpoints())

    async def _resolve_endpoints(self) -> dict[str, str]:
        """Return the address of each peer by public key; if resolution fails, its last known address."""
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
                    raise TunnelError(Reason.DNS, f"Endpoint {peer.endpoint}: name resolution timed out") from error
                found[peer.public_key] = self._endpoints[peer.public_key]
        return found

    async def _set_peers(self, endpoints: dict[str, str]) -> None:
        self._endpoints = endpoints
        self.server = ", ".join(endpoints.values())
        await self._wg("setconf", self._device, "/dev/stdin", stdin=to_setconf(self._file, endpoints))

    async def reconnect(self) -> None:
        """Remove the peers with their sessions, and add them again; the device and its addresses stay.

        Raises:
            TunnelError: An endpoint cannot be resolved, or `wg` fails.
        """
        endpoints = await self._resolve_endpoints()
        for peer in self._file.peers:
            await self._wg("set", self._device, "peer", peer.public_key, "remove")
        await self._set_peers(endpoints)

    def reload_file(self) -> bool:
        """Load the configuration file again. May block.

        Returns:
            Whether only keys and peers have changed, so that the device can stay.

        Raises:
            TunnelError: As `load_wireguard_file`.
        """
        before, self._file = self._file, load_wireguard_file(self._options)
        after = self._file
        return (before.addresses, before.mtu, before.name_servers, before.search_domains) == (
            after.addresses, after.mtu, after.name_servers, after.search_domains,
        )  # fmt: skip

    async def status(self) -> DeviceStatus:
        """Return the status that `wg show` reports.

        Raises:
            TunnelError: `wg` fails.
        """
        return parse_dump(await self._wg("show", self._device, "dump"))

    async def wait_for_handshake(self) -> None:
        """Wait for the first handshake. The caller sets the deadline.

        Raises:
            TunnelError: `wg` fails.
        """
        while not (await self.status()).last_handshake:  # noqa: ASYNC110 - the device sends no notifications
            await asyncio.sleep(_POLL_INTERVAL)

    async def _wg(self, *arguments: str, stdin: str | None = None) -> str:
        command = [find_program("wg") or "wg", *arguments]

        def run() -> str:
            done = subprocess.run(  # noqa: S603 - a system program with the gateway's own arguments
                command, input=stdin or "", capture_output=True, text=True, timeout=_WG_TIMEOUT, check=False,
                env=minimal_environment(),
            )  # fmt: skip
            if done.returncode:
                # The quoted value may be a key.
                message = re.sub(r"`[^']*'", "a value", done.stderr.strip().partition("\n")[0])
                raise TunnelError(Reason.PROTOCOL, f"wg {arguments[0]}: {message}")
            return done.stdout

        try:
            return await self._context.run_blocking(run)
        except subprocess.TimeoutExpired as error:
            raise TunnelError(Reason.TIMEOUT, f"wg {arguments[0]} did not end within {_WG_TIMEOUT:g} s") from error

    async def wait(self) -> str:
        """Wait until wireguard-go ends; return the cause. With a kernel device, wait until cancelled."""
        if self._child is None:
            await asyncio.Event().wait()
            return ""
        code = await self._child.wait()
        return f"wireguard-go ended with exit code {code}: {self._last_output}"

    async def stop(self) -> None:
        """Remove the device, and release the lock on its name."""
        if self._child is not None:
            await self._child.stop()
            (_SOCKET_DIRECTORY / f"{self._device}.sock").unlink(missing_ok=True)
        elif self.in_kernel:
            try:
                if self._in_context:
                    await self._context.run_blocking(lambda: devices.remove(self._device))
                else:
                    await asyncio.to_thread(devices.remove, self._device)
            except TunnelError as error:
                log.warning("cannot remove the device %s: %s", self._device, error.detail)
        if self._lock is not None:
            self._lock.close()


async def _resolve_endpoint(endpoint: str) -> str:
    """Resolve the host of `host:port` with the host's resolver; return `address:port`."""
    host, _, port = endpoint.rpartition(":")
    try:
        found = await resolve(Endpoint(host.strip("[]"), int(port)))
    except (socket.gaierror, UnicodeError) as error:
        raise TunnelError(Reason.DNS, f"Endpoint {endpoint}: {error}") from error
    except ValueError as error:
        raise TunnelError(Reason.PROTOCOL, f"Endpoint {endpoint}: must be host:port", fatal=True) from error
    address = found[0][4]
    return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"


def _check_writable(directory: Path) -> None:
    """Create a directory if it is missing; raise `OSError` if it is not writable."""
    directory.mkdir(exist_ok=True)
    if not os.access(directory, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(directory))
