"""`kind: wireguard`: the kernel's device or wireguard-go as a child, in a network of its own."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from gateway.contracts import Link, Progress, TunnelState
from gateway.errors import Reason, TunnelError
from gateway.tunnels import TunnelKind
from gateway.vpn.link import VpnLink
from gateway.vpn.liveness_monitor import Keeper
from gateway.vpn.network_context import device_name, place_for
from gateway.vpn.options import WireGuardOptions, read_path
from gateway.vpn.task_scope import watching
from gateway.vpn.wireguard import WireGuard, device_file

log = logging.getLogger(__name__)

_ANEW = 5.0
"""Seconds between two beginnings while no peer has answered: names may lead elsewhere by then."""


class WireGuardTunnel:
    """See `gateway.contracts.Tunnel`.

    Args:
        options: What the configuration says.
    """

    def __init__(self, options: WireGuardOptions) -> None:
        self._options = options

    @property
    def far_side(self) -> str:
        """The configuration file."""
        return str(self._options.config)

    @contextlib.asynccontextmanager
    async def open(self, via: Link, progress: Progress) -> AsyncIterator[Link]:
        """Make the device, wait for a peer's handshake, and watch it until the context ends."""
        options = self._options
        if via.leads_to != "here":
            detail = f"WireGuard is UDP, which {via.leads_to} does not carry: remove via"
            raise TunnelError(Reason.PROTOCOL, detail, fatal=True)
        progress(TunnelState.CONNECTING)
        async with AsyncExitStack() as stack:
            device = device_name("w")
            place = place_for(options.isolation, device)
            stack.callback(place.close)
            stack.push_async_callback(place.leave)
            wireguard = WireGuard(options, device, place)
            stack.push_async_callback(wireguard.stop)
            addressing = await wireguard.start()
            await self._connected(wireguard, progress)
            run = _Run(wireguard)
            stack.callback(run.close)
            link = VpnLink(place, f"here > {self.far_side}", options.silence.patience, run.renew)
            stack.callback(link.close)
            run.link = link
            link.address(addressing)
            link.told["device"] = "kernel" if wireguard.kernel else "wireguard-go"
            keeper = Keeper(link, progress, run.received, run.connect_anew)
            async with watching(link, keeper.run(), run.follow()):
                yield link

    async def _connected(self, wireguard: WireGuard, progress: Progress) -> None:
        """Wait for the first handshake.

        Raises:
            TunnelError: There was none for long enough.
        """
        silence, began = self._options.silence, time.monotonic()
        told = False
        while True:
            try:
                async with asyncio.timeout(_ANEW):
                    return await wireguard.handshake()
            except TimeoutError:
                waited = time.monotonic() - began
            detail = f"no handshake with {wireguard.server}: it is not reached, or a key is wrong"
            if waited >= silence.restart:
                raise TunnelError(Reason.TIMEOUT, detail)
            if waited >= self._options.connect_timeout and not told:
                told = True
                progress(TunnelState.BACKOFF, Reason.TIMEOUT, f"{detail}; still trying")
            await wireguard.connect_anew()


class _Run:
    """What is done with an open device."""

    def __init__(self, wireguard: WireGuard) -> None:
        self._wireguard = wireguard
        self._renewing: asyncio.Task[None] | None = None
        self.link: VpnLink | None = None

    async def received(self) -> int:
        """Bytes from the peers; the age of the last handshake goes to the status."""
        vital = await self._wireguard.vital()
        if self.link is not None:
            self.link.told["server"] = ", ".join(vital.endpoints)
            if vital.handshake:
                self.link.told["handshake_age_seconds"] = max(0.0, round(time.time() - vital.handshake, 1))
        return vital.received

    async def connect_anew(self) -> None:
        """Begin again with every peer, at the address that its name has now."""
        try:
            await self._wireguard.connect_anew()
        except TunnelError as error:
            log.warning("%s", error.detail)  # the next time, perhaps; without a child it ends by itself

    def renew(self) -> None:
        """The file or a key changed: keys and peers are set in place; for anything else the device is made anew."""
        try:
            same = self._wireguard.reread()
        except TunnelError as error:
            log.error("%s", error.detail)
            return
        if same:
            self._renewing = asyncio.create_task(self.connect_anew())
        elif self.link is not None:
            self.link.lose("its configuration file has changed")

    def close(self) -> None:
        """Stop what is under way."""
        if self._renewing is not None:
            self._renewing.cancel()

    async def follow(self) -> None:
        """Until the child is gone."""
        why = await self._wireguard.ended()
        if self.link is not None:
            self.link.lose(why)


def _verify(options: WireGuardOptions) -> None:
    device_file(options)


KIND = TunnelKind(
    "wireguard",
    WireGuardOptions,
    WireGuardTunnel,
    schemes=("wireguard",),
    verify=_verify,
    read_url=read_path,
    identity=lambda options: options.config,
)
