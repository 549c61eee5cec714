"""One WireGuard device: the kernel's, or wireguard-go's, set up by `wg`."""

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
from gateway.keyfiles import check_private, refuse_readable
from gateway.relay.resolver import resolve
from gateway.vpn import devices, stale_cleanup
from gateway.vpn.addressing import Addressing, probable_peers
from gateway.vpn.child import Child, clean_environment, program
from gateway.vpn.device_lock import Claim, is_claimed
from gateway.vpn.network_context import Place, device_prefix
from gateway.vpn.options import WireGuardOptions
from gateway.vpn.wireguard_file import DeviceFile, Vital, for_wg, key_of, read, read_dump

log = logging.getLogger(__name__)

_WG_TIMEOUT = 5.0
_SOCKETS = Path("/var/run/wireguard")
"""Where wireguard-go listens (its README)."""
_PREFIX = device_prefix("w")
_APPEARS = 5.0
_POLL = 0.05
_LOOK_UP = 4.0
_DEFAULT_MTU = 1420
"""wg-quick's: 80 bytes less than Ethernet's."""


def device_file(options: WireGuardOptions) -> DeviceFile:
    """The configuration file, read anew, with the keys that stand elsewhere.

    Each file is opened once: what is checked is what is used.

    Raises:
        TunnelError: It is not there, or cannot be used.
    """
    try:
        with options.config.open() as opened:
            status, file = os.fstat(opened.fileno()), read(opened.read())
        if file.private_key or any(peer.preshared_key for peer in file.peers):
            refuse_readable(options.config, status)
        return _with_keys(file, options)
    except TunnelError:
        raise
    except (OSError, UnicodeDecodeError, GatewayError) as error:
        raise TunnelError(Reason.PROTOCOL, f"config: {options.config}: {error}", fatal=True) from error


def _with_keys(file: DeviceFile, options: WireGuardOptions) -> DeviceFile:
    if options.private_key is not None:
        file = replace(file, private_key=key_of(_revealed(options.private_key), "private_key"))
    if options.preshared_key is not None:
        if len(file.peers) != 1:
            raise GatewayError("preshared_key is for a file with one [Peer]")
        shared = key_of(_revealed(options.preshared_key), "preshared_key")
        file = replace(file, peers=(replace(file.peers[0], preshared_key=shared),))
    if not file.private_key:
        raise GatewayError("has no PrivateKey: add it, or give private_key_file")
    return file


def _revealed(secret: Secret) -> str:
    text = secret.reveal() if secret.path is None else check_private(secret.path).decode()
    return text.strip()


class WireGuard:
    """The device and its child, if it has one.

    Args:
        options: What the configuration says.
        device: What to call it.
        place: Where it goes.
    """

    def __init__(self, options: WireGuardOptions, device: str, place: Place) -> None:
        self._options = options
        self._device = device
        self._place = place
        self._file = device_file(options)
        self._child: Child | None = None
        self._adopted = False
        self._last_words = ""
        self._endpoints: dict[str, str] = {}
        self._claim: Claim | None = None
        self.kernel = False
        self.server = ""

    async def start(self) -> Addressing:
        """Make the device, and set it up; no packet has gone out yet.

        Raises:
            TunnelError: It cannot be made.
        """
        if program("wg") is None:
            raise TunnelError(Reason.PROTOCOL, "wg is not installed: install the package wireguard-tools", fatal=True)
        for key in self._file.left_out:
            log.warning("%s: %s is left out: the gateway sets up the device itself", self._options.config, key)
        await self._make()
        if not self.kernel:
            await self._start_child()
        wanted = self._addressing()
        await self._place.adopt(self._device, wanted)
        self._adopted = True
        await self.configure()
        return wanted

    async def _make(self) -> None:
        """Have the kernel make the device, if it can."""
        self._claim = Claim(self._device)
        await asyncio.to_thread(devices.remove_abandoned, "wireguard", _PREFIX, is_claimed)
        made = asyncio.ensure_future(asyncio.to_thread(devices.add_wireguard, self._device))
        try:
            self.kernel = await asyncio.shield(made)
        except asyncio.CancelledError:
            self.kernel = await made  # so that `stop` knows of it; takes a moment
            raise

    async def _start_child(self) -> None:
        try:
            await asyncio.to_thread(_be_writable, _SOCKETS)
        except OSError as error:
            told = f"{error}: wireguard-go has its socket there, so it must be writable (mount a tmpfs)"
            raise TunnelError(Reason.PERMISSION, told, fatal=True) from error
        stale_cleanup.sweep_sockets(_SOCKETS, f"{_PREFIX}*.sock")
        self._child = await Child.start(
            ["wireguard-go", "-f", self._device], "wireguard-go", self._printed, {"LOG_LEVEL": "error"}
        )
        deadline = time.monotonic() + _APPEARS
        ended = asyncio.ensure_future(self._child.ended())
        try:
            while not (_SOCKETS / f"{self._device}.sock").is_socket():
                if ended.done() or time.monotonic() > deadline:
                    permitted = "not permitted" not in self._last_words and "denied" not in self._last_words
                    raise TunnelError(
                        Reason.PROTOCOL if permitted and self._last_words else Reason.PERMISSION,
                        f"wireguard-go cannot make a device ({self._last_words or 'it says nothing'}):"
                        " it needs CAP_NET_ADMIN and /dev/net/tun",
                        fatal=True,
                    )
                await asyncio.sleep(_POLL)
        finally:
            ended.cancel()

    def _printed(self, line: str) -> None:
        if line[:1].isascii():  # it begins with a frame of text
            self._last_words = line
        log.debug("wireguard-go: %s", line)

    def _addressing(self) -> Addressing:
        file, options = self._file, self._options
        servers = file.servers
        if options.dns:
            servers = Addressing.servers_of(options.dns)
        return Addressing(
            addresses=file.addresses,
            peers=probable_peers(file.addresses),
            servers=servers,
            domains=file.domains,
            mtu=options.mtu or file.mtu or _DEFAULT_MTU,
        )

    async def configure(self) -> None:
        """Give the device its keys and peers, whose names are looked up anew; handshakes begin anew too.

        Raises:
            TunnelError: A name is not found, or the device does not take it.
        """
        await self._set(await self._look_up())

    async def _look_up(self) -> dict[str, str]:
        """Where the peers are, by public key; where a name is not found now, as it was found before."""
        found = {}
        for peer in self._file.peers:
            if peer.endpoint is None:
                continue
            try:
                async with asyncio.timeout(_LOOK_UP):
                    found[peer.public_key] = await _address(peer.endpoint)
            except (TunnelError, TimeoutError) as error:
                if peer.public_key not in self._endpoints:
                    if isinstance(error, TunnelError):
                        raise
                    raise TunnelError(Reason.DNS, f"Endpoint {peer.endpoint}: no answer") from error
                found[peer.public_key] = self._endpoints[peer.public_key]
        return found

    async def _set(self, endpoints: dict[str, str]) -> None:
        self._endpoints = endpoints
        self.server = ", ".join(endpoints.values())
        await self._wg("setconf", self._device, "/dev/stdin", text=for_wg(self._file, endpoints))

    async def connect_anew(self) -> None:
        """Forget the peers and their sessions, and begin again; the device and its addresses stay."""
        endpoints = await self._look_up()
        for peer in self._file.peers:
            await self._wg("set", self._device, "peer", peer.public_key, "remove")
        await self._set(endpoints)

    def reread(self) -> bool:
        """Read the file anew; says whether only keys and peers have changed, so that the device can stay.

        Raises:
            TunnelError: It cannot be used.
        """
        before, self._file = self._file, device_file(self._options)
        after = self._file
        return (before.addresses, before.mtu, before.servers, before.domains) == (
            after.addresses, after.mtu, after.servers, after.domains,
        )  # fmt: skip

    async def vital(self) -> Vital:
        """What the device says of itself."""
        return read_dump(await self._wg("show", self._device, "dump"))

    async def handshake(self) -> None:
        """Wait for the first handshake."""
        while not (await self.vital()).handshake:  # noqa: ASYNC110 - the device tells nobody
            await asyncio.sleep(_POLL)

    async def _wg(self, *arguments: str, text: str | None = None) -> str:
        command = [program("wg") or "wg", *arguments]

        def run() -> str:
            done = subprocess.run(  # noqa: S603 - a program of the system, and our own arguments
                command, input=text or "", capture_output=True, text=True, timeout=_WG_TIMEOUT, check=False,
                env=clean_environment(),
            )  # fmt: skip
            if done.returncode:
                told = re.sub(r"`[^']*'", "a value", done.stderr.strip().partition("\n")[0])  # it may be a key
                raise TunnelError(Reason.PROTOCOL, f"wg {arguments[0]}: {told}")
            return done.stdout

        try:
            return await self._place.run(run)
        except subprocess.TimeoutExpired as error:
            raise TunnelError(Reason.TIMEOUT, f"wg {arguments[0]} does not end") from error

    async def ended(self) -> str:
        """Wait until the child is gone; for ever where there is none."""
        if self._child is None:
            await asyncio.Event().wait()
            return ""
        code = await self._child.ended()
        return f"wireguard-go ended with code {code}: {self._last_words}"

    async def stop(self) -> None:
        """Remove the device."""
        if self._child is not None:
            await self._child.stop()
            (_SOCKETS / f"{self._device}.sock").unlink(missing_ok=True)
        elif self.kernel:
            try:
                if self._adopted:
                    await self._place.run(lambda: devices.remove(self._device))
                else:
                    await asyncio.to_thread(devices.remove, self._device)
            except TunnelError as error:
                log.warning("the device %s is not removed: %s", self._device, error.detail)
        if self._claim is not None:
            self._claim.close()


async def _address(endpoint: str) -> str:
    host, _, port = endpoint.rpartition(":")
    try:
        found = await resolve(Endpoint(host.strip("[]"), int(port)))
    except (socket.gaierror, UnicodeError) as error:
        raise TunnelError(Reason.DNS, f"Endpoint {endpoint}: {error}") from error
    except ValueError as error:
        raise TunnelError(Reason.PROTOCOL, f"Endpoint {endpoint}: needs host:port", fatal=True) from error
    address = found[0][4]
    return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"


def _be_writable(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
