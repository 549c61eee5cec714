"""`kind: openvpn`: the OpenVPN client as a child process, its device in a network of its own."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

from gateway.certificates import of_pem
from gateway.contracts import Credential, Endpoint, Link, Progress, TunnelState
from gateway.errors import GatewayError, Reason, TunnelError
from gateway.tunnels import TunnelKind
from gateway.vpn.link import VpnLink
from gateway.vpn.liveness_monitor import Keeper
from gateway.vpn.local_forward import Redirect
from gateway.vpn.network_context import Place, device_name, place_for
from gateway.vpn.openvpn import OpenVpn
from gateway.vpn.openvpn_file import ClientFile
from gateway.vpn.openvpn_loader import client_file, named_files
from gateway.vpn.options import OpenVpnOptions, read_path
from gateway.vpn.task_scope import watching

log = logging.getLogger(__name__)

_CERTIFICATES = {"ca", "cert", "extra-certs"}
_STEPS = {
    "RESOLVE": TunnelState.RESOLVING,
    "WAIT": TunnelState.CONNECTING,
    "TCP_CONNECT": TunnelState.CONNECTING,
    "AUTH": TunnelState.AUTHENTICATING,
    "GET_CONFIG": TunnelState.AUTHENTICATING,
}


class OpenVpnTunnel:
    """See `gateway.contracts.Tunnel`.

    Args:
        options: What the configuration says.
    """

    def __init__(self, options: OpenVpnOptions) -> None:
        self._options = options

    @property
    def far_side(self) -> str:
        """The configuration file."""
        return str(self._options.config)

    @contextlib.asynccontextmanager
    async def open(self, via: Link, progress: Progress) -> AsyncIterator[Link]:
        """Start the child, wait until it is connected, and watch it until the context ends."""
        options = self._options
        progress(TunnelState.CONNECTING)
        async with AsyncExitStack() as stack:
            run = await _Run.start(options, via, stack)
            await run.connected(progress)
            link = VpnLink(run.place, f"{via.leads_to} > {self.far_side}", options.silence.patience, run.renew)
            stack.callback(link.close)
            await run.adopt(link)
            keeper = Keeper(link, progress, run.received, run.restart_in_place)
            async with watching(link, keeper.run(), run.follow(link, keeper)):
                yield link


class _Run:
    """One child, from its start to its end."""

    def __init__(self, options: OpenVpnOptions, file: ClientFile, redirect: Redirect | None, via: str) -> None:
        self._options = options
        self._redirect = redirect
        self._via = via
        self._device = device_name("o")
        self._steps: asyncio.Queue[str] = asyncio.Queue()
        self._file = file
        self._vpn = OpenVpn(options, file, self._device, self._elsewhere, self._steps.put_nowait)
        self._link: VpnLink | None = None
        self._ended: asyncio.Future[TunnelError] = asyncio.get_running_loop().create_future()
        self.place: Place = place_for(options.isolation, self._device)

    @classmethod
    async def start(cls, options: OpenVpnOptions, via: Link, stack: AsyncExitStack) -> "_Run":
        # A child cannot take a socket from another link, so it gets a door that leads there.
        redirect = None if via.leads_to == "here" else await stack.enter_async_context(Redirect(via))
        file = client_file(options)
        if redirect is not None and file.proxied:
            detail = (
                f"{options.config}: http-proxy and socks-proxy would go around {via.leads_to}: remove them, or via"
            )
            raise TunnelError(Reason.PROTOCOL, detail, fatal=True)
        run = cls(options, file, redirect, via.leads_to)
        stack.callback(run.place.close)
        stack.push_async_callback(run.place.leave)
        stack.push_async_callback(run._vpn.stop)
        await run._vpn.start()
        run._ended = asyncio.ensure_future(run._vpn.ended())
        stack.callback(run._ended.cancel)
        return run

    def _elsewhere(self, server: Endpoint, protocol: str) -> Endpoint | None:
        if self._redirect is None:
            return None
        if not protocol.startswith("tcp"):
            detail = f"{server} is reached by UDP, which {self._via} does not carry: use `proto tcp`"
            raise TunnelError(Reason.PROTOCOL, detail, fatal=True)
        return self._redirect.lead_to(server)

    async def _step(self) -> str | None:
        """Its next step; None once it has ended."""
        step = asyncio.ensure_future(self._steps.get())
        either: set[asyncio.Future[Any]] = {step, self._ended}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            return step.result() if step.done() else None
        finally:
            step.cancel()

    async def connected(self, progress: Progress) -> None:
        """Wait for the first connection.

        Raises:
            TunnelError: It has ended, or tried for long enough.
        """
        options = self._options
        self._complain_later(progress)
        try:
            async with asyncio.timeout(options.silence.restart):
                while (step := await self._step()) != "CONNECTED":
                    if step is None:
                        raise self._ended.result()
                    if step in _STEPS:
                        progress(_STEPS[step])
        except TimeoutError as error:
            raise self._vpn.error(f"no connection within {options.silence.restart:g} s (silence.restart)") from error
        finally:
            self._patient.cancel()

    def _complain_later(self, progress: Progress) -> None:
        loop = asyncio.get_running_loop()
        self._patient = loop.call_later(self._options.connect_timeout, self._complain, progress)

    def _complain(self, progress: Progress) -> None:
        """It goes on trying, which is quicker than a new child when the server comes back."""
        error = self._vpn.error(f"no connection within {self._options.connect_timeout:g} s; still trying")
        reason = error.reason if self._vpn.trouble else Reason.TIMEOUT
        progress(TunnelState.BACKOFF, reason, error.detail)
        self._complain_later(progress)  # by then it may have said more

    async def adopt(self, link: VpnLink) -> None:
        """Set the device up as the server says."""
        if self._vpn.pushed is None or not self._vpn.pushed.addresses:
            raise TunnelError(Reason.PROTOCOL, "the server gave the device no address")
        await self.place.adopt(self._device, self._vpn.pushed)
        link.address(self._vpn.pushed)
        link.told["server"] = str(self._vpn.server)
        self._link = link

    async def follow(self, link: VpnLink, keeper: Keeper) -> None:
        """Act on what it says, until it has ended."""
        while (step := await self._step()) is not None:
            if step == "CONNECTED":
                await self.adopt(link)
                keeper.connected()
            elif step == "RECONNECTING":
                keeper.disconnected(f"connecting anew: {self._vpn.why}")
            elif step == "DOWN":
                await self.place.leave()
        link.lose(self._ended.result().detail)

    async def received(self) -> int:
        """Bytes from the server."""
        return self._vpn.received

    async def restart_in_place(self) -> None:
        """Connect anew with the device as it is."""
        self._vpn.restart_in_place()

    def renew(self) -> None:
        """A changed password is asked for by a new connection in place; a changed file needs a new child."""
        try:
            same = client_file(self._options).text == self._file.text
        except TunnelError as error:
            log.error("%s", error.detail)
            return
        if same:
            self._vpn.restart_in_place()
        elif self._link is not None:
            self._link.lose("its configuration file, or one that it names, has changed")


def _verify(options: OpenVpnOptions) -> None:
    file = client_file(options)
    if (options.user is None) != (options.password is None):
        raise GatewayError("user and password_file belong together")
    if file.asks_login and options.user is None:
        raise GatewayError(f"config: {options.config} has auth-user-pass without a file: give user and password_file")


def _credentials(options: OpenVpnOptions) -> list[Credential]:
    try:
        file = client_file(options)
    except TunnelError:
        return []
    return [
        Credential("vpn", f"{options.config}: {each.name}", validity)
        for each in file.kept
        if each.name in _CERTIFICATES and each.block is not None
        for validity in of_pem("\n".join(each.block).encode())
    ]


KIND = TunnelKind(
    "openvpn",
    OpenVpnOptions,
    OpenVpnTunnel,
    schemes=("openvpn",),
    verify=_verify,
    credentials=_credentials,
    read_url=read_path,
    identity=lambda options: options.config,
    files=named_files,
)
