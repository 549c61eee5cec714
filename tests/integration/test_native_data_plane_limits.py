"""Tests the memory limits of one SSH connection: buffers for slow clients, and queued replies to the SSH server."""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from asyncssh.constants import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_FAILURE,
    MSG_CHANNEL_REQUEST,
)
from asyncssh.packet import Boolean, String, UInt32

from gateway.contracts.config_types import HostPort
from gateway.contracts.states import CloseReason
from gateway.demo.sshd import Bastion
from gateway.metric_types import Histogram
from gateway.relay.sockets import reset, tune
from gateway.ssh import asyncssh_transport, send_queue, ssh_connection
from gateway.ssh.flow_control import INITIAL_BUDGET
from gateway.ssh.options import PoolOptions
from gateway.ssh.pool import SshConnectionPool
from tests.support.requirements import need_data_plane, need_sshd
from tests.support.servers import serving
from tests.support.ssh_attacks import hostile
from tests.support.ssh_sessions import opened, options

pytestmark = pytest.mark.integration


@pytest.fixture
def clients() -> Iterator[Callable[[], tuple[socket.socket, socket.socket]]]:
    """A function that opens a TCP connection with small buffers, and returns the sockets of client and gateway."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

        def make() -> tuple[socket.socket, socket.socket]:
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            client.connect(listener.getsockname())
            client.setblocking(False)
            ours, _ = listener.accept()
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
            tune(ours)
            return client, ours

        yield make


@pytest.fixture
def exchanges(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic times of the key exchanges, in seconds."""
    seen: list[float] = []
    original = ssh_connection.SshConnection.send_newkeys

    def noted(self: ssh_connection.SshConnection, k: bytes, h: bytes) -> None:
        seen.append(time.monotonic())
        original(self, k, h)

    monkeypatch.setattr(ssh_connection.SshConnection, "send_newkeys", noted)
    return seen


@pytest.fixture(params=[False, True], ids=["asyncssh", "engine"])
def engine(request: pytest.FixtureRequest) -> bool:
    """Whether the data plane is `native`. Otherwise, the data plane is `asyncssh`."""
    if request.param:
        need_data_plane()
    return bool(request.param)


@contextlib.asynccontextmanager
async def attacked(folder: Path, attack: Callable[..., None], *, engine: bool) -> AsyncIterator[SshConnectionPool]:
    async with (
        hostile(folder / "bastion", attack) as bastion,
        asyncio.timeout(50),
        opened(
            options(bastion, connections=PoolOptions(1, 1), data_plane="native" if engine else "asyncssh")
        ) as link,
    ):
        yield link


async def join(link: SshConnectionPool, client: socket.socket) -> Any:
    return await link.join(client, HostPort("db", 1), Histogram())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


async def read_all(client: socket.socket) -> bytes:
    got = bytearray()
    while piece := await asyncio.get_running_loop().sock_recv(client, 1 << 20):
        got += piece
    return bytes(got)


async def test_replies_to_a_peer_that_does_not_read_are_bounded(tmp_path: Path, clients: Any, engine: bool) -> None:
    held: list[asyncssh.SSHServerConnection] = []

    def flood(conn: asyncssh.SSHServerConnection, number: int, chan: object) -> None:
        held.append(conn)
        conn._transport.pause_reading()  # type: ignore[union-attr]
        packets: list[bytes] = []
        # Send all packets in one write, because many writes to asyncio's transport take quadratic time.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(conn, "_send", packets.append)
            for _ in range(80_000):
                conn.send_packet(MSG_CHANNEL_REQUEST, UInt32(number), String("x"), Boolean(True))
        conn._send(b"".join(packets))

    async with attacked(tmp_path, flood, engine=engine) as link:
        client, ours = clients()
        await join(link, ours)
        transport = link._connections[0]._conn.own_transport  # type: ignore[attr-defined]

        def congested() -> bool:
            return bool(transport.inspect().get("congested") if engine else transport.queue.congested)

        await asyncio.get_running_loop().sock_sendall(client, b"attack")
        await until(congested)
        most = 0
        for _ in range(100):
            await asyncio.sleep(0.01)
            most = max(most, transport.inspect()["waiting"] if engine else len(transport.queue._backlog))
        assert most < send_queue.MAX_CONTROL_BACKLOG + (1 << 20)  # the replies to the last read can exceed the limit
        held[0]._transport.resume_reading()  # type: ignore[union-attr]
        await until(lambda: not congested())


async def test_replies_queued_during_a_key_exchange_are_bounded(tmp_path: Path, engine: bool) -> None:
    """asyncssh queues replies during a key exchange. If too many replies are queued, the gateway disconnects."""
    async with attacked(tmp_path, lambda *_: None, engine=engine) as link:
        conn = link._connections[0]._conn
        assert isinstance(conn, ssh_connection.SshConnection)
        conn.rekey()
        for _ in range(ssh_connection._MAX_DEFERRED_PACKETS):
            conn.send_packet(MSG_CHANNEL_FAILURE, UInt32(0))
        assert not conn.transport_closed
        conn.send_packet(MSG_CHANNEL_FAILURE, UInt32(0))
        assert conn.transport_closed
        assert not conn._deferred_packets
        assert "too many replies" in (await link.lost()).detail


async def test_one_byte_packets_use_little_memory(tmp_path: Path, clients: Any, engine: bool) -> None:
    full = os.urandom(120_000)
    said = full + bytes(at % 256 for at in range(20_000))

    def drizzle(conn: asyncssh.SSHServerConnection, number: int, chan: object) -> None:
        for at in range(0, len(full), 30_000):
            conn.send_packet(MSG_CHANNEL_DATA, UInt32(number), String(full[at : at + 30_000]))
        for at in range(20_000):
            conn.send_packet(MSG_CHANNEL_DATA, UInt32(number), String(bytes([at % 256])))
            if at % 6 == 0:
                conn.send_packet(MSG_CHANNEL_DATA, UInt32(number), String(b""))

    async with attacked(tmp_path, drizzle, engine=engine) as link:
        client, ours = clients()
        relay = await join(link, ours)
        await asyncio.get_running_loop().sock_sendall(client, b"attack")
        await until(lambda: relay.buffered + relay.from_backend == len(said))
        assert relay.buffered > 20_000
        if engine:
            state = relay.inspect()
            assert state["memory"] <= 4 * (65 << 10)
            assert state["granted"] + state["owed"] + relay.buffered == state["size"] == relay.window.size
        else:
            assert len(relay._send_buffer._chunks) <= 4
            window = relay.window
            assert relay._channel._recv_window + window.consumed + relay.buffered == window.size
        got = bytearray()
        while len(got) < len(said):
            got += await asyncio.get_running_loop().sock_recv(client, 65536)
        assert got == said


async def test_data_held_after_a_channel_closes_is_accounted_until_delivery(
    tmp_path: Path, clients: Any, engine: bool
) -> None:
    said = os.urandom(1_000_000)

    def last_words(conn: asyncssh.SSHServerConnection, number: int, chan: object) -> None:
        for at in range(0, len(said), 32768):
            conn.send_packet(MSG_CHANNEL_DATA, UInt32(number), String(said[at : at + 32768]))
        conn.send_packet(MSG_CHANNEL_CLOSE, UInt32(number))

    before = INITIAL_BUDGET.available
    async with attacked(tmp_path, last_words, engine=engine) as link:
        client, ours = clients()
        relay = await join(link, ours)
        await asyncio.get_running_loop().sock_sendall(client, b"attack")
        await until(lambda: bool(relay.inspect()["closed"] if engine else relay._channel_closed))
        assert relay.buffered > 500_000
        assert relay.window.size >= relay.buffered
        assert before - INITIAL_BUDGET.available >= relay.buffered
        assert await read_all(client) == said  # the client receives EOF, although the server sent no CHANNEL_EOF
        assert await relay.ended is CloseReason.FINISHED
        assert relay.buffered == 0
    assert before == INITIAL_BUDGET.available


async def test_the_windows_of_clients_that_reset_are_released(tmp_path: Path, clients: Any, engine: bool) -> None:
    before = INITIAL_BUDGET.available
    async with attacked(tmp_path, lambda *_: None, engine=engine) as link:
        for _ in range(20):
            client, ours = clients()
            relay = await join(link, ours)
            reset(client)
            await relay.ended
    assert before == INITIAL_BUDGET.available


@pytest.mark.parametrize("data_plane", ["native", "asyncssh"])
async def test_received_bytes_count_towards_a_key_exchange(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: list[float], data_plane: str
) -> None:
    need_sshd()
    need_data_plane()
    monkeypatch.setattr(asyncssh_transport, "REKEY_BYTES", 1 << 20)
    said = os.urandom(16 << 20)
    bastion = Bastion(tmp_path / "bastion").start()
    try:
        with serving(lambda client: client.sendall(said)) as port:
            async with (
                opened(options(bastion, data_plane=data_plane, connections=PoolOptions(1, 1))) as link,
                asyncio.timeout(50),
            ):
                sock = await link.socket(HostPort("127.0.0.1", port))
                with sock:
                    assert await read_all(sock) == said
                assert len(exchanges) > 4
    finally:
        bastion.stop()


async def test_a_server_that_overcounts_long_packets_gets_short_packets(
    tmp_path: Path, exchanges: list[float]
) -> None:
    """With a small RekeyLimit, OpenSSH starts a key exchange for each packet of 128 KiB.

    The gateway then permits only short packets on new channels. The second channel therefore needs fewer exchanges.
    """
    need_sshd()
    need_data_plane()
    said = os.urandom(16 << 20)
    bastion = Bastion(tmp_path / "bastion", extra="RekeyLimit 1M").start()
    try:
        with serving(lambda client: client.sendall(said)) as port:
            async with opened(options(bastion, connections=PoolOptions(1, 1))) as link, asyncio.timeout(50):
                seen = []
                for _ in range(2):
                    exchanges.clear()
                    with await link.socket(HostPort("127.0.0.1", port)) as sock:
                        assert await read_all(sock) == said
                    seen.append(len(exchanges))
                assert seen[1] < seen[0] / 2, seen
    finally:
        bastion.stop()
