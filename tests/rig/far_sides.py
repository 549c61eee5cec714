"""Creates each kind of relay for the contract's tests; the only module that accesses internals of relays.

The far side is a TCP server of the test (behind a real sshd, a SOCKS5 proxy, or nothing), the server's end of a TLS
connection, or the server's end of an SSH channel that sends exactly what a plan asks for.
"""

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import asyncssh
from asyncssh.packet import UInt32
from channel_end import ChannelEnd
from ends import BACK, FORTH, End, TcpEnd
from plans import Setup, Step
from relay_contract import Joined
from tls_end import TlsEnd
from vpn import Authority

from gateway.contracts import CloseReason, Duration, Endpoint, Link, Relay
from gateway.demo.sshd import Bastion
from gateway.measure import Histogram, Tap
from gateway.proxy.link import ProxyLink
from gateway.proxy.options import ProxyOptions
from gateway.relay.direct import DirectLink
from gateway.relay.linger import lingering_closer
from gateway.relay.poller import RelayLoop
from gateway.relay.sockets import reset_on_process_exit, tune
from gateway.ssh import flow_control
from gateway.ssh.asyncssh_channel import AsyncsshChannel
from gateway.ssh.native_channel import NativeChannel
from gateway.ssh.options import Connections, Keepalive, SshOptions
from gateway.ssh.pool import SshLink
from gateway.tunnels.ssh import SshTunnel

_SMALL = 16384
_SEGMENT = 1400
"""Bytes in a segment where buffers are small: with loopback's 64 KiB, a small window opens only after 200 ms."""
_PATIENT = Keepalive(Duration(55.0), Duration(60.0), Duration(60.0), Duration(60.0))
_CIPHERS: dict[str, str] = {"native": "aes128-gcm@openssh.com", "asyncssh": "chacha20-poly1305@openssh.com"}
_RELAYS: dict[str, type[Relay]] = {"native": NativeChannel, "asyncssh": AsyncsshChannel}


class Listener:
    """Two TCP listeners: one whose sockets have small buffers, and one with the kernel's defaults.

    Args:
        near: Whether it is where clients come in, and so set up as the gateway's own.
    """

    def __init__(self, *, near: bool) -> None:
        self._sockets = {small: socket.socket() for small in (True, False)}
        for small, sock in self._sockets.items():
            _shrink(sock, small=small)
            sock.bind(("127.0.0.1", 0))
            sock.listen(16)
            tune(sock)
            if near:
                reset_on_process_exit(sock)

    def address(self, setup: Setup) -> Endpoint:
        return Endpoint(*self._sockets[setup.small].getsockname())

    async def connect(self, setup: Setup) -> socket.socket:
        sock = socket.socket()
        _shrink(sock, small=setup.small)
        tune(sock)
        await asyncio.get_running_loop().sock_connect(sock, self.address(setup))
        return sock

    async def accept(self, setup: Setup) -> socket.socket:
        """Accept the next connection, non-blocking."""
        sock, _ = await asyncio.get_running_loop().sock_accept(self._sockets[setup.small])
        sock.setblocking(False)
        return sock

    def close(self) -> None:
        for sock in self._sockets.values():
            sock.close()


def _shrink(sock: socket.socket, *, small: bool) -> None:
    """Give `sock`, and what it accepts, small buffers."""
    if small:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SMALL)


class Straight:
    """No tunnel; also the common part of all adaptors. See `relay_contract.Adaptor`.

    Args:
        folder: Where files may go; it is not there yet.
        arguments: For other adaptors.
    """

    name = "straight"
    far_verbs: tuple[str, ...] = TcpEnd.VERBS
    far_last_verbs: tuple[str, ...] = TcpEnd.LAST_VERBS
    link_verbs: tuple[str, ...] = ()
    kill_verbs: tuple[str, ...] = ()
    lost = CloseReason.LINK_LOST
    shows_loss = True
    tells_breaks = True
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
        """Open what all connections share."""

    async def close(self) -> None:
        self._near.close()
        self._far.close()

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
        backend = getattr(relay, "_backend", None)  # of a relay that has dialled it
        if isinstance(backend, socket.socket) and backend.family == socket.AF_INET and backend.fileno() >= 0:
            _shrink(backend, small=setup.small)
        return Joined(client, far, relay)

    def order(self, _: Step) -> bool:
        return False

    async def restore(self, *, reconnect: bool) -> None:
        """Keep nothing between two connections."""

    def leftovers(self, _: Relay) -> list[str]:
        left = [f"{_watched() - self._watched} descriptors are watched"] if _watched() > self._watched else []
        lingering = set(map(id, lingering_closer()._sockets.values())) - self._lingering
        return left + (["a socket that lingers"] if lingering else [])

    def _link(self, setup: Setup) -> tuple[Link, Endpoint]:
        return DirectLink(), self._far.address(setup)

    async def _far_side(self, setup: Setup, changed: Callable[[], None]) -> End:
        return await self._tcp_end(await self._far.accept(setup), setup, changed)

    @staticmethod
    async def _tcp_end(sock: socket.socket, setup: Setup, changed: Callable[[], None]) -> End:
        far = TcpEnd("far side", changed, BACK, FORTH, sock)
        far.begin(paused=setup.paused, early=setup.early)
        return far


def _watched() -> int:
    """Return the number of descriptors that the loop watches for relays."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, RelayLoop)
    return len(loop.relays._handlers)


class Socks(Straight):
    """A SOCKS5 proxy (RFC 1928), which the far side plays first."""

    name = "socks5"

    def _link(self, setup: Setup) -> tuple[Link, Endpoint]:
        url = f"socks5://{self._far.address(setup)}"
        return ProxyLink(ProxyOptions(url=url), DirectLink()), Endpoint("127.0.0.1", 1)

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
    """An HTTP proxy with TLS, which the far side plays first."""

    name = "tls"
    far_last_verbs = TlsEnd.LAST_VERBS

    def __init__(self, folder: Path, *arguments: str) -> None:
        super().__init__(folder, *arguments)
        authority = Authority(folder)
        self._ca = authority.ca
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(*authority.issue("127.0.0.1", server=True, host="127.0.0.1"))

    def _link(self, setup: Setup) -> tuple[Link, Endpoint]:
        url = f"https://{self._far.address(setup)}"
        return ProxyLink(ProxyOptions(url=url, ca_file=self._ca), DirectLink()), Endpoint("db", 1)

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
    """The same before TLS 1.3, where who gets close_notify must stop sending (RFC 5246, section 7.2.1).

    So the far side may not learn early that a client has ended: only after its own end, or a silence of its own.
    """

    name = "tls 1.2"
    ends_early = False

    def __init__(self, folder: Path, *arguments: str) -> None:
        super().__init__(folder, *arguments)
        self._context.maximum_version = ssl.TLSVersion.TLSv1_2


class OpenSsh(Straight):
    """A backend behind OpenSSH's sshd, which starts a key exchange after each MiB.

    Args:
        folder: Where keys go.
        channels: Which data plane: `native` or `asyncssh`; the cipher decides that.
    """

    link_verbs: tuple[str, ...] = ("rekey",)
    kill_verbs: tuple[str, ...] = ("kill",)
    shows_loss = False
    tells_breaks = False
    pace = 0.002

    def __init__(self, folder: Path, channels: str) -> None:
        super().__init__(folder)
        self.name = f"{type(self).__name__.lower()}, {channels} channels"
        self._cipher, self._relay = _CIPHERS[channels], _RELAYS[channels]
        self._bastion = self._make_bastion(folder)
        self._stack = contextlib.AsyncExitStack()
        self._ssh_link: SshLink
        self._budgets = (flow_control.INITIAL_BUDGET.available, flow_control.GROWTH_BUDGET.available)

    def _make_bastion(self, folder: Path) -> Bastion:
        return Bastion(folder, extra="RekeyLimit 1M")

    async def open(self) -> None:
        await asyncio.to_thread(self._bastion.start)
        await self._connect()

    async def close(self) -> None:
        await self._stack.aclose()
        await asyncio.to_thread(self._bastion.stop)
        await super().close()

    async def join(self, setup: Setup, changed: Callable[[], None], tap: Tap | None) -> Joined:
        joined = await super().join(setup, changed, tap)
        assert isinstance(joined.relay, self._relay)
        return joined

    def order(self, step: Step) -> bool:
        if step.verb == "kill":
            return self._bastion.kill_sessions() > 0
        return step.verb == "rekey" and self._alive and _rekey(self._conn)

    async def restore(self, *, reconnect: bool) -> None:
        if not reconnect and self._alive:
            # What was sent last may have been too much for the peer: it says so before it answers this.
            await self._conn._make_global_request(b"keepalive@openssh.com")
        lost = not self._alive
        if reconnect or lost:
            await self._stack.aclose()
            await self._connect()
        assert reconnect or not lost, f"{self.name}: the SSH connection was lost, with every other client on it"

    def leftovers(self, relay: Relay) -> list[str]:
        left = super().leftovers(relay)
        if self._alive:
            transport = self._conn.packet_transport
            left += (
                ["a channel"] if self._conn._channels or transport.reader.channels or transport.reader.opening else []
            )
            left += ["a relay that waits for its turn"] if transport.writer.contended else []
            left += ["a relay in the session"] if self._ssh_link._connections[0]._relays else []
        left += ["held bytes"] if cast("NativeChannel | AsyncsshChannel", relay).buffered else []
        budgets = (flow_control.INITIAL_BUDGET.available, flow_control.GROWTH_BUDGET.available)
        return left + ([f"budgets of {budgets}, not {self._budgets}"] if budgets != self._budgets else [])

    async def _connect(self) -> None:
        bastion = self._bastion
        options = SshOptions(
            host="127.0.0.1",
            port=bastion.port,
            user=bastion.user,
            identity_files=(bastion.client_key,),
            known_hosts=(bastion.known_hosts,),
            connections=Connections(1, 1),
            ciphers=(self._cipher,),
            keepalive=_PATIENT,
        )
        self._ssh_link = cast("SshLink", await self._stack.enter_async_context(_opened(options)))

    def _link(self, setup: Setup) -> tuple[Link, Endpoint]:
        return self._ssh_link, self._far.address(setup)

    @property
    def _alive(self) -> bool:
        return bool(self._ssh_link._connections) and self._ssh_link._connections[0].alive

    @property
    def _conn(self) -> Any:
        """The connection of asyncssh."""
        return self._ssh_link._connections[0]._conn


@contextlib.asynccontextmanager
async def _opened(options: SshOptions) -> AsyncIterator[Link]:
    async with SshTunnel(options).open(DirectLink(), lambda *_: None) as tunnel:
        yield tunnel.link


def _rekey(conn: Any) -> bool:
    """Start a key exchange on either side's connection, unless one is running."""
    if not conn._kex_complete or conn._transport is None:
        return False
    conn._send_kexinit()
    conn._kexinit_sent = True
    return True


class Scripted(OpenSsh):
    """An SSH server in this process, whose channels follow a plan.

    What it sends in one go arrives in one piece, since both sides share a loop.
    """

    far_verbs = ChannelEnd.VERBS
    far_last_verbs = ChannelEnd.LAST_VERBS
    link_verbs = ("rekey", "rekey_by_peer", "stall", "unstall")
    kill_verbs = ("kill", "disconnect", "corrupt")
    tells_breaks = True
    pace = 0.0
    _server: asyncssh.SSHAcceptor
    _there: Any
    """The server's connection."""
    _made: "asyncio.Future[ChannelEnd]"
    _next: tuple[Setup, Callable[[], None]]

    def _make_bastion(self, folder: Path) -> Bastion:
        return Bastion(folder, embedded=True)  # for its keys

    async def open(self) -> None:
        adaptor, folder = self, self._bastion.folder

        class Server(asyncssh.SSHServer):
            def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
                adaptor._there = conn

            def connection_requested(self, *_: object) -> Any:
                setup, changed = adaptor._next
                end = ChannelEnd(changed, adaptor._there, setup)
                adaptor._made.set_result(end)
                return end, None

        listening = socket.create_server(("127.0.0.1", self._bastion.port))
        # Small, so that a stalled server soon stalls what is sent to it.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
        self._server = await asyncssh.listen(
            sock=listening,
            server_factory=Server,
            server_host_keys=[str(folder / "host_key")],
            authorized_client_keys=str(folder / "authorized_keys"),
            encryption_algs=[self._cipher],
            kex_algs=["curve25519-sha256"],
        )
        await self._connect()

    async def close(self) -> None:
        await super().close()
        self._server.close()
        await self._server.wait_closed()

    def order(self, step: Step) -> bool:
        transport = self._there._transport
        if transport is None:
            return False
        if step.verb in self.kill_verbs:
            self.order(Step("link", "unstall"))  # or the server would not notice
        match step.verb:
            case "rekey_by_peer":
                return _rekey(self._there)
            case "stall" | "unstall":
                if self.stalled is (step.verb == "stall"):
                    return False
                self.stalled = step.verb == "stall"
                (transport.pause_reading if self.stalled else transport.resume_reading)()
            case "kill":
                self._there.abort()
            case "disconnect":
                self._there.disconnect(asyncssh.DISC_BY_APPLICATION, "enough")
            case "corrupt":
                transport.write(UInt32(32) + os.urandom(64))
            case _:
                return super().order(step)
        return True

    async def _connect(self) -> None:
        await super()._connect()
        self.stalled = False
        self._conn.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32768)

    def _link(self, setup: Setup) -> tuple[Link, Endpoint]:
        return self._ssh_link, Endpoint("db", 1)

    async def _far_side(self, setup: Setup, changed: Callable[[], None]) -> End:
        self._next = setup, changed
        self._made = asyncio.get_running_loop().create_future()
        return await self._made
