"""Tests both data planes, `native` and `asyncssh`, with real servers."""

import asyncio
import contextlib
import os
import random
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from asyncssh.constants import MSG_CHANNEL_DATA, MSG_CHANNEL_WINDOW_ADJUST
from asyncssh.packet import String, UInt32
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.contracts.config_types import HostPort
from gateway.contracts.states import CloseReason
from gateway.demo.sshd import Bastion
from gateway.metric_types import Histogram
from gateway.nfs.latency_tap import RpcLatencyTap
from gateway.relay.event_loop import RelayEventLoop
from gateway.relay.sockets import tune
from gateway.ssh import asyncssh_internals, asyncssh_transport, ssh_connection
from gateway.ssh.options import PoolOptions
from gateway.ssh.pool import SshConnectionPool
from tests.support.requirements import need_data_plane, need_sshd
from tests.support.servers import echoing, serving
from tests.support.ssh_attacks import Attack, hostile
from tests.support.ssh_sessions import PATIENT, echo_once, opened, options

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def bastions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Bastion]]:
    need_sshd()
    folder = tmp_path_factory.mktemp("plane")
    made = {
        "openssh": Bastion(folder / "openssh").start(),
        "asyncssh": Bastion(folder / "asyncssh", embedded=True).start(),
    }
    yield made
    for bastion in made.values():
        bastion.stop()


@pytest.fixture(params=["native", "asyncssh"])
def selected(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The options of a tunnel that select the data plane."""
    if request.param == "native":
        need_data_plane()
    return {"data_plane": request.param}


def plane(link: SshConnectionPool) -> str:
    return str(link.status().data_plane)


async def exchange(link: SshConnectionPool, port: int, forth: list[bytes], *, end_first: bool) -> bytes:
    """Send `forth` to an echo server, half-close, and return the response.

    If `end_first` is true and `forth` is shorter than 100,000 bytes, start to read only after the half-close.
    """
    loop = asyncio.get_running_loop()
    sock = await link.socket(HostPort("127.0.0.1", port))
    got = bytearray()

    async def send() -> None:
        for piece in forth:
            await loop.sock_sendall(sock, piece)
            await asyncio.sleep(0)
        sock.shutdown(socket.SHUT_WR)

    async def receive() -> None:
        while piece := await loop.sock_recv(sock, 65536):
            got.extend(piece)

    with sock:
        if end_first and sum(map(len, forth)) < 100_000:
            await send()
            await receive()
        else:
            await asyncio.gather(send(), receive())
    return bytes(got)


PIECES = st.lists(
    st.one_of(st.integers(1, 64), st.sampled_from([32767, 32768, 32769, 65536]), st.integers(1, 300_000)), max_size=8
)


@pytest.mark.parametrize("server", ["openssh", "asyncssh"])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(PIECES, min_size=1, max_size=4), st.booleans(), st.integers(0, 2**32))
def test_both_data_planes_carry_the_same_bytes(
    bastions: dict[str, Bastion],
    server: str,
    channels: list[list[int]],
    end_first: bool,
    seed: int,
) -> None:
    need_data_plane()
    rng = random.Random(seed)
    traffic = [[rng.randbytes(size) for size in sizes] for sizes in channels]

    async def through(*, own: bool, port: int) -> list[bytes]:
        with pytest.MonkeyPatch.context() as patch:
            if not own:
                patch.setattr(asyncssh_internals, "SUPPORTED_VERSIONS", ())
            async with opened(options(bastions[server])) as link, asyncio.timeout(30):
                assert plane(link) == ("native" if own else "asyncssh")
                return await asyncio.gather(*(exchange(link, port, each, end_first=end_first) for each in traffic))

    with serving(echoing) as port:
        for own in (True, False):
            with asyncio.Runner(loop_factory=RelayEventLoop) as runner:
                got = runner.run(through(own=own, port=port))
            assert got == [b"".join(each) for each in traffic]


CHACHA = "chacha20-poly1305@openssh.com"


@pytest.mark.parametrize(
    ("cipher", "data_plane", "expected"),
    [(CHACHA, "auto", "native"), (CHACHA, "asyncssh", "asyncssh"), ("aes256-ctr", "native", "asyncssh")],
)
async def test_the_cipher_selects_the_data_plane(
    bastions: dict[str, Bastion], cipher: str, data_plane: str, expected: str
) -> None:
    need_data_plane()
    with serving(echoing) as port:
        async with opened(options(bastions["openssh"], ciphers=(cipher,), data_plane=data_plane)) as link:
            assert (plane(link), link.status().cipher) == (expected, cipher)
            await echo_once(link, port, os.urandom(500_000))


async def test_every_size_from_one_byte_to_several_packets(
    bastions: dict[str, Bastion], selected: dict[str, Any]
) -> None:
    with serving(echoing) as port:
        async with opened(options(bastions["openssh"], **selected)) as link:
            loop = asyncio.get_running_loop()
            with await link.socket(HostPort("127.0.0.1", port)) as sock:
                for size in (*range(1, 200), *range(32700, 32800), 65535, 65536, 131072, 131073):
                    sent = os.urandom(size)
                    await loop.sock_sendall(sock, sent)
                    got = bytearray()
                    while len(got) < size:
                        got += await loop.sock_recv(sock, size - len(got))
                    assert got == sent


@pytest.mark.parametrize(
    ("who", "data_plane"), [("us", "native"), ("sshd", "native"), ("both", "native"), ("both", "asyncssh")]
)
async def test_key_exchanges_during_bulk_traffic_in_both_directions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: str, data_plane: str
) -> None:
    need_sshd()
    need_data_plane()
    exchanges = 0
    if who in ("us", "both"):
        monkeypatch.setattr(asyncssh_transport, "REKEY_BYTES", 3 << 20)
    original = ssh_connection.SshConnection.send_newkeys

    def counted(self: ssh_connection.SshConnection, k: bytes, h: bytes) -> None:
        nonlocal exchanges
        exchanges += 1
        original(self, k, h)

    monkeypatch.setattr(ssh_connection.SshConnection, "send_newkeys", counted)
    bastion = Bastion(tmp_path / "bastion", extra="RekeyLimit 4M" if who in ("sshd", "both") else "").start()
    try:
        with serving(echoing) as port:
            async with opened(options(bastion, data_plane=data_plane)) as link, asyncio.timeout(50):
                traffic = [[os.urandom(1 << 20) for _ in range(15)] for _ in range(4)]
                got = await asyncio.gather(*(exchange(link, port, each, end_first=False) for each in traffic))
                # Compare booleans, because pytest would print the difference of 15 MB.
                assert [received == b"".join(sent) for received, sent in zip(got, traffic, strict=True)] == [True] * 4
                assert exchanges > 10
                assert plane(link) == data_plane
                await echo_once(link, port)
    finally:
        bastion.stop()


async def test_the_numbers_of_thousands_of_channels_are_released(
    bastions: dict[str, Bastion], selected: dict[str, Any]
) -> None:
    with serving(echoing) as port:
        async with opened(options(bastions["openssh"], connections=PoolOptions(1, 1), **selected)) as link:
            conn: Any = link._connections[0]._conn
            conn._next_recv_chan = 0xFFFFFFFF - 500  # asyncssh's channel numbers start again at 0 after 500 channels
            for _ in range(20):
                await asyncio.gather(*(echo_once(link, port, os.urandom(50)) for _ in range(100)))
            async with asyncio.timeout(15):
                while conn._channels if conn.native_transport is None else conn.native_transport.channel_count:
                    await asyncio.sleep(0.01)


async def test_a_query_is_answered_beside_clients_that_do_not_read(
    bastions: dict[str, Bastion], selected: dict[str, Any]
) -> None:
    def flood(client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client.sendall(bytes(65536))

    with serving(flood) as flooding, serving(echoing) as port:
        async with opened(options(bastions["openssh"], connections=PoolOptions(1, 1), **selected)) as link:
            deaf = [await link.socket(HostPort("127.0.0.1", flooding)) for _ in range(20)]

            def held() -> int:
                return sum(relay.buffered for relay in link._connections[0]._relays.values())

            last = [-1, -2, -3]
            async with asyncio.timeout(20):
                while not last[0] == last[1] == last[2] > 0:  # wait until the flood has filled all buffers
                    await asyncio.sleep(0.2)
                    last = [*last[1:], held()]
            took = []
            async with asyncio.timeout(30):
                for _ in range(20):
                    started = time.monotonic()
                    await echo_once(link, port)
                    took.append(time.monotonic() - started)
            assert sorted(took)[10] < 1, took
            assert held() <= 21 * 2 * 1024 * 1024
            for sock in deaf:
                sock.close()


def unknown_channel(conn: asyncssh.SSHServerConnection, number: int, chan: object) -> None:
    conn.send_packet(MSG_CHANNEL_DATA, UInt32(number + 1000), String(b"x"))


def overlong_packet(conn: asyncssh.SSHServerConnection, number: int, chan: object) -> None:
    conn.send_packet(MSG_CHANNEL_DATA, UInt32(number), String(bytes(300_000)))


def window_overrun(conn: asyncssh.SSHServerConnection, number: int, chan: object) -> None:
    for _ in range(200):
        conn.send_packet(MSG_CHANNEL_DATA, UInt32(number), String(bytes(32768)))


def wrong_length(conn: asyncssh.SSHServerConnection, number: int, chan: object) -> None:
    conn.send_packet(MSG_CHANNEL_DATA, UInt32(number), UInt32(5000) + b"short")


def empty_packet(conn: asyncssh.SSHServerConnection, number: int, chan: object) -> None:
    conn.send_packet(MSG_CHANNEL_DATA)


def window_of_nobody(conn: asyncssh.SSHServerConnection, number: int, chan: object) -> None:
    conn.send_packet(MSG_CHANNEL_WINDOW_ADJUST, UInt32(number + 1000), UInt32(1))


def strange_type(conn: asyncssh.SSHServerConnection, number: int, chan: object) -> None:
    conn.send_packet(127, UInt32(number + 1000))


@pytest.mark.parametrize(
    ("attack", "reported"),
    [
        (unknown_channel, "Invalid channel number"),
        (overlong_packet, "Max packet size exceeded"),
        (window_overrun, "more data than its window allows|Window exceeded"),
        (wrong_length, "Incomplete"),
        (empty_packet, "Incomplete channel request"),
        (window_of_nobody, "Invalid channel number"),
        (strange_type, "Invalid channel number"),
    ],
)
async def test_a_protocol_violation_closes_only_its_own_connection(
    tmp_path: Path, attack: Attack, reported: str, selected: dict[str, Any]
) -> None:
    loop = asyncio.get_running_loop()
    async with (
        hostile(tmp_path / "bastion", attack) as bastion,
        opened(options(bastion, **selected)) as victim,
        opened(options(bastion, **selected)) as bystander,
        asyncio.timeout(10),
    ):
        other = await bystander.socket(HostPort("db", 1))
        ours, theirs = socket.socketpair()
        tune(ours)
        tune(theirs)
        relay = await victim.join(theirs, HostPort("db", 1), Histogram())
        await loop.sock_sendall(ours, b"attack")
        assert re.search(reported, (await victim.lost()).detail)
        assert await relay.ended is CloseReason.LINK_LOST
        await loop.sock_sendall(other, b"ping")
        assert await loop.sock_recv(other, 10) == b"pong"
        ours.close()
        other.close()


async def test_data_arrives_even_if_the_close_precedes_the_join_of_the_client(
    tmp_path: Path, selected: dict[str, Any]
) -> None:
    class Session(asyncssh.SSHTCPSession[bytes]):
        def connection_made(self, chan: asyncssh.SSHTCPChannel[bytes]) -> None:
            # Like a database that refuses a client, this server sends a message, EOF and CLOSE at the same time.
            chan.write(b"too many connections")
            chan.write_eof()
            chan.close()

    class Abrupt(asyncssh.SSHServer):
        def connection_requested(
            self, dest_host: str, dest_port: int, orig_host: str, orig_port: int
        ) -> asyncssh.SSHTCPSession[bytes]:
            return Session()

    bastion = Bastion(tmp_path / "bastion", embedded=True)
    server = await asyncssh.listen(
        "127.0.0.1",
        bastion.port,
        server_factory=Abrupt,
        server_host_keys=[str(tmp_path / "bastion" / "host_key")],
        authorized_client_keys=str(tmp_path / "bastion" / "authorized_keys"),
        encryption_algs=["aes128-gcm@openssh.com"],
    )
    async with server, opened(options(bastion, **selected)) as link:
        loop = asyncio.get_running_loop()
        for _ in range(50):  # each iteration reuses the same file descriptor
            sock = await link.socket(HostPort("db", 1))
            got = bytearray()
            async with asyncio.timeout(15):
                while piece := await loop.sock_recv(sock, 100):
                    got += piece
            assert got == b"too many connections"
            sock.close()


async def test_data_from_a_client_after_the_backend_has_closed_disturbs_no_other_channel(
    bastions: dict[str, Bastion], selected: dict[str, Any]
) -> None:
    """The client sends data after the backend has closed, but before the client has read the response."""
    payload = os.urandom(1 << 20)

    def answer_and_close(client: socket.socket) -> None:
        client.recv(10)
        client.sendall(payload)

    loop = asyncio.get_running_loop()
    one = options(bastions["openssh"], connections=PoolOptions(1, 1), **selected)
    with serving(answer_and_close) as closing, serving(echoing) as port:
        async with opened(one) as link, asyncio.timeout(20):
            other = await link.socket(HostPort("127.0.0.1", port))
            for _ in range(5):
                sock = await link.socket(HostPort("127.0.0.1", closing))
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                await loop.sock_sendall(sock, b"go")
                await asyncio.sleep(0.1)
                with contextlib.suppress(OSError):
                    for _ in range(20):
                        await loop.sock_sendall(sock, b"more")
                        await asyncio.sleep(0.005)
                got = bytearray()
                with contextlib.suppress(ConnectionResetError):
                    while piece := await loop.sock_recv(sock, 65536):
                        got += piece
                assert payload.startswith(got)
                sock.close()
            await loop.sock_sendall(other, b"still here")
            assert await loop.sock_recv(other, 100) == b"still here"
            other.close()


async def test_the_latencies_of_rpc_messages_are_measured(
    bastions: dict[str, Bastion], selected: dict[str, Any]
) -> None:
    """Two calls are pending at the same time, and the server answers the second call first."""
    more = threading.Event()

    def message(xid: int, kind: int, size: int) -> bytes:
        return UInt32(0x80000000 | 8 + size) + UInt32(xid) + UInt32(kind) + bytes(size)

    def answer(client: socket.socket) -> None:
        with client.makefile("rb") as incoming:
            incoming.read(2 * len(message(0, 0, 100_000)))
        client.sendall(message(2, 1, 70_000))
        more.wait(20)
        client.sendall(message(1, 1, 100))

    loop = asyncio.get_running_loop()
    latencies: list[float] = []
    with serving(answer) as port:
        async with opened(options(bastions["openssh"], **selected)) as link, asyncio.timeout(20):
            ours, theirs = socket.socketpair()
            tune(ours)
            tune(theirs)
            with ours:
                tap = RpcLatencyTap(latencies.append)
                relay = await link.join(theirs, HostPort("127.0.0.1", port), Histogram(), tap=tap)
                began = time.monotonic()
                await loop.sock_sendall(ours, message(1, 0, 100_000) + message(2, 0, 100_000))
                got = 0
                while got < len(message(2, 1, 70_000)):
                    got += len(await loop.sock_recv(ours, 65536))
                while not latencies:
                    await asyncio.sleep(0.005)
                assert (relay.waiting_since or 0) >= began
                more.set()
                while len(latencies) < 2:
                    await asyncio.sleep(0.005)
                assert relay.waiting_since is None
                assert latencies[0] < latencies[1] < time.monotonic() - began


async def test_thousands_of_tiny_packets_in_one_turn(bastions: dict[str, Bastion], selected: dict[str, Any]) -> None:
    def drizzle(client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(4000):
            client.sendall(bytes([at % 256]))

    loop = asyncio.get_running_loop()
    with serving(drizzle) as port:
        async with opened(options(bastions["openssh"], **selected)) as link, asyncio.timeout(20):
            sock = await link.socket(HostPort("127.0.0.1", port))
            for _ in range(10):
                time.sleep(0.1)  # noqa: ASYNC251 - block the event loop, so that all data arrives together
                await asyncio.sleep(0)
            got = bytearray()
            while piece := await loop.sock_recv(sock, 65536):
                got += piece
            assert got == bytes(at % 256 for at in range(4000))
            sock.close()


async def test_a_connection_that_fails_during_uploads_is_noticed(
    bastions: dict[str, Bastion], selected: dict[str, Any]
) -> None:
    def swallow(client: socket.socket) -> None:
        while client.recv(1 << 20):
            pass

    loop = asyncio.get_running_loop()
    with serving(swallow) as port:
        for _ in range(5):
            async with opened(options(bastions["openssh"], connections=PoolOptions(1, 1), **selected)) as link:
                socks = [await link.socket(HostPort("127.0.0.1", port)) for _ in range(20)]

                async def upload(sock: socket.socket) -> None:
                    with contextlib.suppress(OSError):
                        while True:
                            await loop.sock_sendall(sock, bytes(1 << 20))

                uploads = [asyncio.ensure_future(upload(sock)) for sock in socks]
                await asyncio.sleep(0.1)
                bastions["openssh"].kill_sessions()
                async with asyncio.timeout(15):
                    await link.lost()
                    await asyncio.gather(*uploads)
                for sock in socks:
                    sock.close()


@contextlib.asynccontextmanager
async def changed(
    bastion: Bastion, folder: Path, change: Callable[[bytes], bytes], **more: Any
) -> AsyncIterator[SshConnectionPool]:
    """Open a tunnel through a TCP proxy. The function `change` modifies the data that the server sends."""

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", bastion.port)

        async def pump(
            source: asyncio.StreamReader, sink: asyncio.StreamWriter, change: Callable[[bytes], bytes]
        ) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(65536):
                    sink.write(change(data))
                    await sink.drain()
            sink.close()

        await asyncio.gather(pump(reader, far_writer, bytes), pump(far_reader, writer, change))

    async with await asyncio.start_server(forward, "127.0.0.1", 0) as proxy:
        known = folder / "known_hosts"
        middle = proxy.sockets[0].getsockname()[1]
        known.write_text(bastion.known_hosts.read_text().replace(f":{bastion.port} ", f":{middle} "))
        chosen = options(
            bastion, port=middle, known_hosts=(known,), keepalive=PATIENT, connections=PoolOptions(1, 1), **more
        )
        async with opened(chosen) as link, asyncio.timeout(20):
            yield link


async def test_a_modified_packet_closes_the_connection(
    bastions: dict[str, Bastion], tmp_path: Path, selected: dict[str, Any]
) -> None:
    """If one bit of a packet changes, the authentication tag is wrong, and the client gets no byte of the packet."""
    loop = asyncio.get_running_loop()
    flip = False

    def change(data: bytes) -> bytes:
        return data[:-1] + bytes([data[-1] ^ 1]) if flip else data

    with serving(echoing) as echo:
        async with changed(bastions["openssh"], tmp_path, change, **selected) as link:
            await echo_once(link, echo)
            sock = await link.socket(HostPort("127.0.0.1", echo))
            flip = True
            await loop.sock_sendall(sock, b"precious")
            assert "MAC verification failed" in (await link.lost()).detail
            with contextlib.suppress(ConnectionResetError):
                assert await loop.sock_recv(sock, 100) == b""
            sock.close()


async def test_garbage_instead_of_packets_closes_only_the_connection(
    bastions: dict[str, Bastion], tmp_path: Path, selected: dict[str, Any]
) -> None:
    """A server sends random bytes after the login. Other connections to the same server must still work."""
    loop = asyncio.get_running_loop()
    rng = random.Random(7)
    noise: list[bytes] = []
    # The number of bytes after which the data plane checks the length of a packet. asyncssh first needs a whole
    # cipher block.
    least = 16 if selected["data_plane"] == "asyncssh" else 4

    def change(data: bytes) -> bytes:
        return noise.pop() if noise else data

    with serving(echoing) as echo:
        async with opened(options(bastions["openssh"], **selected)) as bystander:
            for size in (1, 3, 4, 19, 20, 36, 100, 5000, 600_000):
                async with changed(bastions["openssh"], tmp_path, change, **selected) as link:
                    with await link.socket(HostPort("127.0.0.1", echo)) as sock:
                        noise.append(rng.randbytes(size))
                        await loop.sock_sendall(sock, b"ask")
                        while noise:
                            await asyncio.sleep(0.005)
                        if size >= least:
                            assert (await link.lost()).detail
                await echo_once(bystander, echo)


PACKETS = st.tuples(
    st.sampled_from([90, 91, 92, 93, 94, 95, 96, 97, 98, 99, 100, 80, 81, 82, 2, 3, 4, 20, 21, 30, 127]),
    st.integers(0, 3),
    st.binary(max_size=40),
)


def test_any_sequence_of_authentic_packets_is_handled(tmp_path: Path, selected: dict[str, Any]) -> None:
    """A hostile server sends arbitrary packets with valid authentication tags.

    This connection may stay open or close. Another connection to the same server must still work.
    """
    drawn: list[tuple[int, int, bytes]] = []
    problems: list[dict[str, object]] = []

    def attack(conn: asyncssh.SSHServerConnection, number: int, chan: object) -> None:
        for kind, channel, body in drawn:
            conn.send_packet(kind, UInt32(channel), body)

    async def run(bastion: Bastion, bystander: SshConnectionPool) -> None:
        loop = asyncio.get_running_loop()
        chosen = options(bastion, connections=PoolOptions(1, 1), keepalive=PATIENT, **selected)
        async with opened(chosen) as victim, asyncio.timeout(20):
            with await victim.socket(HostPort("db", 1)) as sock:
                await loop.sock_sendall(sock, b"attack")
                await asyncio.sleep(0.01)
            with await bystander.socket(HostPort("db", 1)) as other:
                await loop.sock_sendall(other, b"ping")
                assert await loop.sock_recv(other, 10) == b"pong"

    with asyncio.Runner(loop_factory=RelayEventLoop) as runner:
        runner.get_loop().set_exception_handler(lambda _, context: problems.append(context))
        stack = contextlib.AsyncExitStack()
        bastion = runner.run(stack.enter_async_context(hostile(tmp_path / "bastion", attack)))
        bystander = runner.run(stack.enter_async_context(opened(options(bastion, keepalive=PATIENT, **selected))))

        @settings(max_examples=40, deadline=None)
        @given(st.lists(PACKETS, min_size=1, max_size=12))
        def explore(packets: list[tuple[int, int, bytes]]) -> None:
            drawn[:] = packets
            runner.run(run(bastion, bystander))
            assert not problems, problems

        try:
            explore()
        finally:
            runner.run(stack.aclose())
