"""Creates connections through several kinds of relays, for the tests of the rules in `relay_contract.py`.

The target of each connection is a TCP server of the test. A relay connects to the target directly, through a SOCKS5
proxy, or through an HTTP proxy with TLS. `ssh_far_sides.py` creates connections through SSH.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from math import inf
from pathlib import Path

from gateway.connection_tap import Tap
from gateway.contracts.config_types import HostPort
from gateway.contracts.link import Link, Stream
from gateway.contracts.phase_timer import PhaseTimer
from gateway.contracts.relay import Relay
from gateway.contracts.states import CloseReason
from gateway.metric_types import Histogram
from gateway.proxy.link import ProxyLink
from gateway.proxy.options import ProxyOptions
from gateway.relay.direct_link import DirectLink
from gateway.relay.event_loop import RelayEventLoop
from gateway.relay.lingering_close import lingering_closer
from gateway.relay.native_engine_selection import relay_sockets
from gateway.relay.socket_relay import SocketRelay
from tests.support.certificates import Authority
from tests.support.ends import BACK, FORTH, End
from tests.support.far_listener import Listener, shrink
from tests.support.plans import Setup, Step
from tests.support.relay_adapter import Joined
from tests.support.requirements import need_data_plane
from tests.support.tcp_end import TcpEnd
from tests.support.tls_end import TlsEnd


class _SmallBuffers(DirectLink):
    """A direct link whose sockets have small buffers if `setup.small` is true."""

    def __init__(self, setup: Setup, relay: Callable[[Stream, Stream, Histogram, Tap | None], Relay]) -> None:
        super().__init__()
        self._setup = setup
        self._relay = relay

    async def socket(self, to: HostPort, phases: PhaseTimer | None = None) -> Stream:
        made = await super().socket(to, phases)
        shrink(made, small=self._setup.small)
        return made

    async def join(
        self, client: Stream, to: HostPort, latency: Histogram, within: float = inf, tap: Tap | None = None
    ) -> Relay:
        del within
        return self._relay(client, await self.socket(to), latency, tap)


class Straight:
    """Creates connections that reach the target directly. Implements `relay_adapter.RelayAdapter`.

    Args:
        folder: A directory for the files of subclasses. This class does not create the directory.
        arguments: Arguments of subclasses. This class ignores them.
    """

    name = "straight"
    far_verbs: tuple[str, ...] = TcpEnd.VERBS
    far_last_verbs: tuple[str, ...] = TcpEnd.LAST_VERBS
    link_verbs: tuple[str, ...] = ()
    kill_verbs: tuple[str, ...] = ()
    lost = CloseReason.LINK_LOST
    shows_loss = True
    reports_breaks = True
    keeps_response = True
    ends_early = True
    pace = 0.0
    stalled = False

    def __init__(self, folder: Path, *arguments: str) -> None:
        del folder, arguments
        self._near, self._far = Listener(near=True), Listener(near=False)
        self._watched = 0
        self._lingering: set[int] = set()

    async def open(self) -> None:
        """Do nothing. Subclasses can open a link that all connections share."""

    async def close(self) -> None:
        self._near.close()
        self._far.close()

    def refresh(self) -> None:
        """Do nothing, because the event loop moves the bytes of this relay."""

    async def join(self, setup: Setup, changed: Callable[[], None], tap: Tap | None) -> Joined:
        self._watched, self._lingering = _watched(), set(map(id, lingering_closer()._sockets.values()))
        outer = await self._near.connect(setup)
        inner = await self._near.accept(setup)
        client = TcpEnd("client", changed, FORTH, BACK, outer)
        link, to = self._link(setup)
        meeting = asyncio.ensure_future(self._far_side(setup, changed))
        joining = asyncio.ensure_future(link.join(inner, to, Histogram(), tap=tap))
        try:
            far, relay = await asyncio.gather(meeting, joining)
        except BaseException:
            for task in (meeting, joining):
                task.cancel()
            for made in await asyncio.gather(meeting, joining, return_exceptions=True):
                if isinstance(made, End):
                    made.dispose()
            client.dispose()
            inner.close()
            raise
        return Joined(client, far, relay)

    def order(self, _: Step) -> bool:
        return False

    async def restore(self, *, reconnect: bool) -> None:
        """Do nothing, because a direct link keeps no state after a connection has closed."""

    def leftovers(self, _: Relay) -> list[str]:
        left = [f"{_watched() - self._watched} descriptors are watched"] if _watched() > self._watched else []
        lingering = set(map(id, lingering_closer()._sockets.values())) - self._lingering
        return left + (["a socket that lingers"] if lingering else [])

    def _link(self, setup: Setup) -> tuple[Link, HostPort]:
        return _SmallBuffers(setup, SocketRelay), self._far.address(setup)

    async def _far_side(self, setup: Setup, changed: Callable[[], None]) -> End:
        return await self._tcp_end(await self._far.accept(setup), setup, changed)

    @staticmethod
    async def _tcp_end(sock: socket.socket, setup: Setup, changed: Callable[[], None]) -> End:
        far = TcpEnd("far side", changed, BACK, FORTH, sock)
        far.begin(paused=setup.paused, early=setup.early)
        return far


def _watched() -> int:
    """Return the number of relays' file descriptors that the event loop polls."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, RelayEventLoop)
    return len(loop.relays._handlers)


def _load_of_engines() -> int:
    from gateway.relay.native_engine_runner import native_engines  # noqa: PLC0415 - the native engine is optional

    return sum(runner.load for runner in native_engines().runners)


class InEngine(Straight):
    """Creates connections that reach the target directly. The native engine relays their bytes."""

    name = "straight, in the engine"

    def __init__(self, folder: Path, *arguments: str) -> None:
        super().__init__(folder, *arguments)
        need_data_plane()
        self._load = 0

    async def open(self) -> None:
        from gateway.relay.native_engine_runner import native_engines  # noqa: PLC0415 - the native engine is optional

        native_engines().runner()

    async def join(self, setup: Setup, changed: Callable[[], None], tap: Tap | None) -> Joined:
        self._load = _load_of_engines()
        joined = await super().join(setup, changed, tap)
        assert type(joined.relay).__name__ == "NativeSocketRelay"
        return joined

    def refresh(self) -> None:
        from gateway.relay.native_engine_runner import native_engines  # noqa: PLC0415 - the native engine is optional

        native_engines().handle_records()

    def leftovers(self, relay: Relay) -> list[str]:
        return super().leftovers(relay) + (["a pair"] if _load_of_engines() > self._load else [])

    def _link(self, setup: Setup) -> tuple[Link, HostPort]:
        return _SmallBuffers(setup, relay_sockets), self._far.address(setup)


class Socks(InEngine):
    """Creates connections through a SOCKS5 proxy (RFC 1928).

    The test's server first completes the proxy's handshake, and then acts as the target.
    """

    name = "socks5"

    def _link(self, setup: Setup) -> tuple[Link, HostPort]:
        url = f"socks5://{self._far.address(setup)}"
        return ProxyLink(ProxyOptions(url=url), _SmallBuffers(setup, relay_sockets)), HostPort("127.0.0.1", 1)

    async def _far_side(self, setup: Setup, changed: Callable[[], None]) -> End:
        loop = asyncio.get_running_loop()
        sock = await self._far.accept(setup)

        async def read(size: int) -> bytes:
            data = b""
            while len(data) < size:
                data += await loop.sock_recv(sock, size - len(data))
            return data

        await read((await read(2))[1])
        await loop.sock_sendall(sock, b"\x05\x00")
        assert (await read(10))[:4] == b"\x05\x01\x00\x01"
        await loop.sock_sendall(sock, b"\x05\x00\x00\x01" + bytes(6))
        return await self._tcp_end(sock, setup, changed)


class Tls(Straight):
    """Creates connections through an HTTP proxy with TLS.

    The test's server first completes the handshakes of TLS and of the proxy, and then acts as the target.
    """

    name = "tls"
    far_last_verbs = TlsEnd.LAST_VERBS

    def __init__(self, folder: Path, *arguments: str) -> None:
        super().__init__(folder, *arguments)
        authority = Authority(folder)
        self._ca = authority.ca
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(*authority.issue("127.0.0.1", server=True, host="127.0.0.1"))

    def _link(self, setup: Setup) -> tuple[Link, HostPort]:
        url = f"https://{self._far.address(setup)}"
        return ProxyLink(ProxyOptions(url=url, ca_file=self._ca), DirectLink()), HostPort("db", 1)

    async def _far_side(self, setup: Setup, changed: Callable[[], None]) -> End:
        loop = asyncio.get_running_loop()
        sock = await self._far.accept(setup)
        arrived, leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self._context.wrap_bio(arrived, leaving, server_side=True)

        async def finished(act: Callable[[], bytes | None]) -> bytes:
            while True:
                try:
                    return act() or b""
                except ssl.SSLWantReadError:
                    await loop.sock_sendall(sock, leaving.read())
                    arrived.write(await loop.sock_recv(sock, 65536))

        await finished(tls.do_handshake)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await finished(lambda: tls.read(1))
        tls.write(b"HTTP/1.1 200 yes\r\n\r\n")
        await loop.sock_sendall(sock, leaving.read())
        far = TlsEnd(changed, sock, tls, arrived, leaving)
        far.begin(paused=setup.paused, early=setup.early)
        return far


class Tls12(Tls):
    """Creates connections through an HTTP proxy with TLS 1.2.

    In TLS 1.2, the receiver of close_notify must stop sending (RFC 5246, section 7.2.1). The relay therefore sends
    close_notify only after the far side has closed, or has sent nothing for some time.
    """

    name = "tls 1.2"
    ends_early = False

    def __init__(self, folder: Path, *arguments: str) -> None:
        super().__init__(folder, *arguments)
        self._context.maximum_version = ssl.TLSVersion.TLSv1_2
