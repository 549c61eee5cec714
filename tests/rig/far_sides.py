"""What makes each kind of relay for the contract's tests, and the only place where they are looked into.

The far side is a TCP server of the test (behind a real sshd, a SOCKS5 proxy, or nothing), the server's end of a TLS
connection, or a scripted SSH server, whose channel does exactly what a plan says.
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
from asyncssh.packet import Boolean, SSHPacket, String, UInt32
from ends import BACK, FORTH, End, Seen, TcpEnd, TlsEnd
from relay_contract import Joined, Setup, Step
from vpn import Authority

from gateway.contracts import Duration, Ending, Endpoint, Link, Relay
from gateway.demo.sshd import Bastion
from gateway.measure import Histogram
from gateway.proxy.link import ProxyLink
from gateway.proxy.options import ProxyOptions
from gateway.relay.direct import DirectLink
from gateway.relay.readiness import RelayLoop
from gateway.relay.sockets import reset_when_killed, tune
from gateway.ssh import windows
from gateway.ssh.channel import StockRelay
from gateway.ssh.doors import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_REQUEST,
    MSG_CHANNEL_WINDOW_ADJUST,
    MSG_IGNORE,
)
from gateway.ssh.options import Cipher, Connections, Keepalive, SshOptions
from gateway.ssh.plane import PlaneRelay
from gateway.ssh.pool import SshLink
from gateway.tunnels.ssh import SshTunnel

GCM: Cipher = "aes128-gcm@openssh.com"
CHACHA: Cipher = "chacha20-poly1305@openssh.com"
_SMALL = 4096
_SEGMENT = 1400
"""Bytes in a segment where buffers are small: with loopback's 64 KiB, a small window opens only after 200 ms."""
_PATIENT = Keepalive(Duration(55.0), Duration(60.0), Duration(60.0), Duration(60.0))
_MSG_CHANNEL_SUCCESS, _MSG_CHANNEL_FAILURE = 99, 100
_MSG_GLOBAL_REQUEST, _MSG_DEBUG = 80, 4
_MOST_PACKETS = 400
_LEAST_MAX_PACKET = 32768
"""RFC 4253, section 6.1."""


class Door:
    """A listener of the test, with small buffers or the kernel's own.

    Args:
        small: Which; what it accepts inherits them, and so does who connects by `connect`.
        near: Whether it is where clients come in.
    """

    def __init__(self, *, small: bool, near: bool) -> None:
        self._small = small
        self._sock = socket.socket()
        self._shrink(self._sock)
        self._sock.bind(("127.0.0.1", 0))
        self._sock.listen(16)
        tune(self._sock)
        if near:
            reset_when_killed(self._sock)  # as the gateway's own listeners
        self.address = Endpoint(*self._sock.getsockname())

    def _shrink(self, sock: socket.socket) -> None:
        if self._small:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SMALL)

    async def connect(self) -> socket.socket:
        sock = socket.socket()
        self._shrink(sock)
        tune(sock)
        await asyncio.get_running_loop().sock_connect(sock, self.address)
        return sock

    async def accept(self) -> socket.socket:
        """The next connection, non-blocking."""
        sock, _ = await asyncio.get_running_loop().sock_accept(self._sock)
        sock.setblocking(False)
        return sock

    def close(self) -> None:
        self._sock.close()


class Doors:
    """One of each size."""

    def __init__(self, *, near: bool) -> None:
        self._by_size = {small: Door(small=small, near=near) for small in (True, False)}

    def of(self, setup: Setup) -> Door:
        return self._by_size[setup.small]

    def close(self) -> None:
        for door in self._by_size.values():
            door.close()


class _Base:
    """What the adaptors share. See `relay_contract.Adaptor`."""

    name = ""
    far_verbs: tuple[str, ...] = TcpEnd.VERBS
    far_last_verbs: tuple[str, ...] = TcpEnd.LAST_VERBS
    link_verbs: tuple[str, ...] = ()
    kill_verbs: tuple[str, ...] = ()
    lost = Ending.LINK_LOST
    tells_breaks = True
    tells_client_end = True
    pace = 0.0
    stalled = False
    link: Link

    def __init__(self) -> None:
        self._near, self._far = Doors(near=True), Doors(near=False)

    async def join(self, setup: Setup, changed: Callable[[], None]) -> Joined:
        near = self._near.of(setup)
        outer = await near.connect()
        inner = await near.accept()
        client = TcpEnd("client", changed, FORTH, BACK, outer)
        joining = asyncio.ensure_future(self.link.join(inner, self._target(setup), Histogram()))
        try:
            far, relay = await asyncio.gather(self._far_side(setup, changed), joining)
        except BaseException:
            client.dispose()
            inner.close()
            raise
        return Joined(client, far, relay)

    def _target(self, setup: Setup) -> Endpoint:
        return self._far.of(setup).address

    async def _far_side(self, setup: Setup, changed: Callable[[], None]) -> End:
        far = TcpEnd("far side", changed, BACK, FORTH, await self._far.of(setup).accept())
        _begin(far, setup)
        return far

    def order(self, step: Step) -> bool:
        return False

    async def restore(self, *, afresh: bool) -> None:
        """Nothing is kept between two connections."""

    def leftovers(self, relay: Relay) -> list[str]:
        return []

    async def close(self) -> None:
        self._near.close()
        self._far.close()


def _begin(far: End, setup: Setup) -> None:
    """The far side's first steps, in the moment in which it is connected."""
    if setup.closed:
        far.pause()  # type: ignore[attr-defined]
    for step in setup.early:
        getattr(far, step.verb)(step.size)


class Straight(_Base):
    """No tunnel."""

    name = "straight"

    async def open(self) -> None:
        self.link = DirectLink()


class Socks(_Base):
    """Through a SOCKS5 proxy, which the far side plays itself at first."""

    name = "socks5"

    async def open(self) -> None:
        self.link = DirectLink()

    async def join(self, setup: Setup, changed: Callable[[], None]) -> Joined:
        proxy = self._far.of(setup).address
        self.link = ProxyLink(ProxyOptions(url=f"socks5://{proxy}"), DirectLink())
        return await super().join(setup, changed)

    async def _far_side(self, setup: Setup, changed: Callable[[], None]) -> End:
        loop = asyncio.get_running_loop()
        sock = await self._far.of(setup).accept()

        async def read(size: int) -> bytes:
            data = b""
            while len(data) < size:
                data += await loop.sock_recv(sock, size - len(data))
            return data

        _, methods = await read(2)
        await read(methods)
        await loop.sock_sendall(sock, b"\x05\x00")
        _, _, _, kind = await read(4)
        await read((4 if kind == 1 else (await read(1))[0]) + 2)
        await loop.sock_sendall(sock, b"\x05\x00\x00\x01" + bytes(6))
        far = TcpEnd("far side", changed, BACK, FORTH, sock)
        _begin(far, setup)
        return far


class Tls(_Base):
    """Through an HTTP proxy with TLS, which the far side plays itself at first.

    Args:
        folder: Where its certificate goes.
    """

    name = "tls"
    far_last_verbs = TlsEnd.LAST_VERBS
    tells_client_end = False

    def __init__(self, folder: Path) -> None:
        super().__init__()
        authority = Authority(folder)
        self._ca = authority.ca
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(*authority.issue("127.0.0.1", server=True, host="127.0.0.1"))

    async def open(self) -> None:
        self.link = DirectLink()

    async def join(self, setup: Setup, changed: Callable[[], None]) -> Joined:
        proxy = self._far.of(setup).address
        self.link = ProxyLink(ProxyOptions(url=f"https://{proxy}", ca_file=self._ca), DirectLink())
        return await super().join(setup, changed)

    async def _far_side(self, setup: Setup, changed: Callable[[], None]) -> End:
        loop = asyncio.get_running_loop()
        sock = await self._far.of(setup).accept()
        arrived, leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self._context.wrap_bio(arrived, leaving, server_side=True)

        async def until_done[T](act: Callable[[], T]) -> T:
            while True:
                try:
                    return act()
                except ssl.SSLWantReadError:
                    await loop.sock_sendall(sock, leaving.read())
                    arrived.write(await loop.sock_recv(sock, 65536))

        await until_done(tls.do_handshake)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await until_done(lambda: tls.read(1))
        tls.write(b"HTTP/1.1 200 yes\r\n\r\n")
        await loop.sock_sendall(sock, leaving.read())
        far = TlsEnd(changed, sock, tls, arrived, leaving)
        _begin(far, setup)
        return far


class _Ssh(_Base):
    """What both sorts of SSH servers share.

    Args:
        folder: Where keys go.
        cipher: Which decides what kind of relay it is.
    """

    link: SshLink
    link_verbs = ("rekey",)
    relay_kind: type[Relay]

    def __init__(self, folder: Path, cipher: Cipher) -> None:
        super().__init__()
        self._cipher = cipher
        self._bastion = self._make_bastion(folder)
        self._open = contextlib.AsyncExitStack()
        self.relay_kind = PlaneRelay if cipher == GCM else StockRelay
        self._budgets = (windows.FIRST.left, windows.PROCESS.left)

    def _make_bastion(self, folder: Path) -> Bastion:
        raise NotImplementedError

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
        self.link = cast("SshLink", await self._open.enter_async_context(_opened(options)))

    @property
    def _conn(self) -> Any:
        """asyncssh's client connection."""
        return self.link._sessions[0]._conn

    async def join(self, setup: Setup, changed: Callable[[], None]) -> Joined:
        joined = await super().join(setup, changed)
        assert isinstance(joined.relay, self.relay_kind)
        return joined

    def order(self, step: Step) -> bool:
        return step.verb == "rekey" and bool(self.link._sessions) and _rekey(self._conn)

    async def restore(self, *, afresh: bool) -> None:
        if afresh:
            await self._open.aclose()
            await self._connect()

    def leftovers(self, relay: Relay) -> list[str]:
        left = []
        if self.link._sessions:
            channels = self._conn._channels
            left += [f"channels {sorted(channels)}"] if channels else []
            wire = getattr(self._conn, "wire", None)
            if wire is not None:
                left += ["a relay in the inbox"] if wire.inbox.relays or wire.inbox.opening else []
                left += ["a relay in the outbox"] if wire.outbox.paused else []
            left += ["a relay of the session"] if self.link._sessions[0]._relays else []
        held = relay.held if isinstance(relay, PlaneRelay) else len(cast("StockRelay", relay)._held)
        left += [f"{held} bytes held"] if held else []
        budgets = (windows.FIRST.left, windows.PROCESS.left)
        left += [f"budgets {budgets}, not {self._budgets}"] if budgets != self._budgets else []
        return left

    async def close(self) -> None:
        await self._open.aclose()
        await super().close()


@contextlib.asynccontextmanager
async def _opened(options: SshOptions) -> AsyncIterator[Link]:
    async with SshTunnel(options).open(DirectLink(), lambda *_: None) as link:
        yield link


def _rekey(conn: Any) -> bool:
    """Start a key exchange on either side's connection, unless one is under way."""
    if not conn._kex_complete or conn._transport is None:
        return False
    conn._send_kexinit()
    conn._kexinit_sent = True
    return True


class OpenSsh(_Ssh):
    """A backend behind OpenSSH's sshd, which starts key exchanges of its own after each MiB.

    Args:
        folder: Where keys go.
        cipher: Which decides what kind of relay it is.
    """

    kill_verbs = ("kill",)
    tells_breaks = False
    pace = 0.002

    def __init__(self, folder: Path, cipher: Cipher) -> None:
        super().__init__(folder, cipher)
        self.name = f"openssh, {'own' if cipher == GCM else 'asyncssh'} channels"

    def _make_bastion(self, folder: Path) -> Bastion:
        return Bastion(folder, extra="RekeyLimit 1M")

    async def open(self) -> None:
        await asyncio.to_thread(self._bastion.start)
        await self._connect()

    def order(self, step: Step) -> bool:
        if step.verb == "kill":
            return self._bastion.kill_sessions() > 0
        return super().order(step)

    async def close(self) -> None:
        await super().close()
        await asyncio.to_thread(self._bastion.stop)


class ChannelEnd(End):
    """The server's end of a channel: it sends the packets that it is told to, within the window that it has.

    To asyncssh, whose server keeps the connection, it is the channel's handler.

    Args:
        changed: Called whenever something has happened.
        conn: The server's connection.
        setup: How it starts.
    """

    VERBS = ("send", "end", "pause", "resume", "sip", "chop", "noise")
    LAST_VERBS = ("close", "drop")

    def __init__(self, changed: Callable[[], None], conn: Any, setup: Setup) -> None:
        super().__init__("far side", changed, BACK, FORTH)
        self._conn, self._setup = conn, setup
        self._number = conn.add_channel(self)
        self._peer = self._allowed = self._packet = 0
        self._chop = 32768
        self._granted = 0
        self._got_close = self._sent_close = False
        self.stalled = False

    @property
    def willing(self) -> float:
        return super().willing if self.reading else self._granted

    @property
    def listens(self) -> bool:
        return not self.gone

    # Verbs.

    def pause(self, _: int = 0) -> bool:
        """Grant no more window."""
        was, self.reading = self.reading, False
        return was and not self.gone

    def resume(self, _: int = 0) -> bool:
        if self.gone or self.reading:
            return False
        self.reading = True
        self._top_up()
        return True

    def sip(self, size: int) -> bool:
        """Grant so much once, although it is paused."""
        if self.gone or self.reading or self._got_close:
            return False
        self._grant(size)
        return True

    def chop(self, size: int) -> bool:
        """Send packets of so much from now on."""
        self._chop = size
        return not self.gone

    def noise(self, kind: int) -> bool:
        """Send what changes nothing: an empty packet, requests, and what is to be ignored."""
        if self.gone or self._got_close:
            return False
        match kind:
            case 0 if not self.ended:
                self._say(MSG_CHANNEL_DATA, String(b""))
            case 1:
                self._say(MSG_CHANNEL_REQUEST, String(b"odd@example.com"), Boolean(True))
            case 2:
                self._conn.send_packet(MSG_IGNORE, String(b"ignored"))
            case 3:
                self._conn.send_packet(_MSG_GLOBAL_REQUEST, String(b"keepalive@openssh.com"), Boolean(False))
            case 4:
                self._conn.send_packet(_MSG_DEBUG, Boolean(False), String(b"debug"), String(b""))
            case _:
                return False
        return True

    def close(self, _: int = 0) -> bool:
        """Send an end and a close."""
        if self.gone or self._got_close:
            return False
        self._leave(say_end=not self.ended)
        return True

    def drop(self, _: int = 0) -> bool:
        """Send a close without an end before it: RFC 4254, section 5.3, does not want one."""
        if self.gone or self._got_close:
            return False
        self._leave(say_end=False)
        return True

    def dispose(self) -> None:
        """Close, whatever has happened."""
        if not self._sent_close:
            self._send_close()
        self.gone = True

    def _leave(self, *, say_end: bool) -> None:
        self.queued = 0
        if say_end:
            self._say(MSG_CHANNEL_EOF)
        self._send_close()
        self.ended = self.gone = self.delivered = True

    # Packets.

    def _say(self, kind: int, *fields: bytes) -> None:
        self._conn.send_packet(kind, UInt32(self._peer), *fields)

    def _send_close(self) -> None:
        self._sent_close = True
        self._say(MSG_CHANNEL_CLOSE)
        self._release()

    def _release(self) -> None:
        if self._sent_close and self._got_close:
            self._conn._channels.pop(self._number, None)

    def _grant(self, size: int) -> None:
        self._granted += size
        self._say(MSG_CHANNEL_WINDOW_ADJUST, UInt32(size))

    def _top_up(self) -> None:
        open_ = self._granted - self.received
        if open_ <= self._setup.window // 2 and not (self._sent_close or self._got_close):
            self._grant(self._setup.window - open_)

    def _flush(self) -> None:
        while self.queued and self._allowed:
            most = max(self._chop, self.queued // _MOST_PACKETS)
            data = self._sends.at(self.sent, min(self.queued, self._allowed, self._packet, most))
            self._say(MSG_CHANNEL_DATA, String(bytes(data)))
            self._allowed -= len(data)
            self.sent += len(data)
            self.queued -= len(data)
        if self._ending and not (self.queued or self.ended or self._sent_close):
            self._say(MSG_CHANNEL_EOF)
            self.ended = True
        self._changed()

    # What asyncssh calls.

    def log_received_packet(self, *_: Any) -> None:
        """Not logged."""

    log_sent_packet = set_inbound_peer_names = log_received_packet

    def process_open(self, peer: int, window: int, max_packet: int, session: object) -> None:
        self._peer, self._allowed, self._packet = peer, window, max_packet
        self._granted = 0 if self._setup.closed else self._setup.window
        self._conn.send_channel_open_confirmation(peer, self._number, self._granted, _LEAST_MAX_PACKET)
        _begin(self, self._setup)

    def process_packet(self, kind: int, _: int, packet: SSHPacket) -> bool:
        if self._got_close:
            self.complaint = f"packet {kind} after a close"
        match kind:
            case 94:
                self._on_data(packet.get_string())
            case 93:
                self._allowed += packet.get_uint32()
                self._flush()
            case 96:
                if self.seen is not None:
                    self.complaint = "a second end"
                self._see(Seen.END)
            case 97:
                self._on_close()
            case 99 | 100:
                """The answer to a request."""
            case _:
                return False
        return True

    def _on_data(self, data: bytes) -> None:
        if self.seen is not None:
            self.complaint = "data after an end"
        if len(data) > _LEAST_MAX_PACKET or self.received + len(data) > self._granted:
            self.complaint = f"{len(data)} bytes where {self._granted - self.received} are allowed"
        if self.gone:
            self.received += len(data)  # it was on its way
            return
        self._take(data)
        if self.reading:
            self._top_up()

    def _on_close(self) -> None:
        self._got_close = True
        if not self._sent_close:
            self._see(Seen.RESET)
            if not self.ended:
                self._refuse()
            if not self._setup.tardy:
                self._send_close()
        self._release()
        self._changed()

    def process_connection_close(self, _: Exception | None) -> None:
        if not self.gone:
            self._see(Seen.RESET)
            self._refuse()


class Scripted(_Ssh):
    """A scripted SSH server in this very process, so that what it says in one go arrives in one piece.

    Args:
        folder: Where keys go.
        cipher: Which decides what kind of relay it is.
    """

    far_verbs = ChannelEnd.VERBS
    far_last_verbs = ChannelEnd.LAST_VERBS
    link_verbs = ("rekey", "rekey_by_peer", "stall", "unstall")
    kill_verbs = ("kill", "disconnect", "garble")

    def __init__(self, folder: Path, cipher: Cipher) -> None:
        super().__init__(folder, cipher)
        self.name = f"scripted, {'own' if cipher == GCM else 'asyncssh'} channels"
        self._server: asyncssh.SSHAcceptor | None = None
        self._there: Any = None
        """The server's connection."""
        self._made: asyncio.Future[ChannelEnd] | None = None
        self._next: tuple[Setup, Callable[[], None]] | None = None

    def _make_bastion(self, folder: Path) -> Bastion:
        return Bastion(folder, embedded=True)  # for its keys

    async def open(self) -> None:
        adaptor, folder = self, self._bastion.folder

        class Server(asyncssh.SSHServer):
            def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
                adaptor._there = conn

            def connection_requested(self, *_: object) -> Any:
                assert adaptor._next is not None
                assert adaptor._made is not None
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
        )
        await self._connect()

    async def _connect(self) -> None:
        await super()._connect()
        self.stalled = False
        self._conn.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32768)

    async def _far_side(self, setup: Setup, changed: Callable[[], None]) -> End:
        self._next = setup, changed
        self._made = asyncio.get_running_loop().create_future()
        return await self._made

    def order(self, step: Step) -> bool:
        transport = self._there._transport
        if transport is None:
            return False
        if step.verb in self.kill_verbs and self.stalled:
            self.order(Step("link", "unstall"))  # or this side would not notice
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
            case "garble":
                transport.write(UInt32(32) + os.urandom(64))
            case _:
                return super().order(step)
        return True

    def _target(self, setup: Setup) -> Endpoint:
        return Endpoint("db", 1)

    async def close(self) -> None:
        await super().close()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()


def registered() -> int:
    """How many descriptors the loop watches for relays."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, RelayLoop)
    return len(loop.relays._handlers)
