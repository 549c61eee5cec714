"""Tests SSH tunnels over a simulated slow network: fair shares of the bandwidth, key exchanges, and buffer limits."""

import asyncio
import contextlib
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.contracts.config_types import Duration
from gateway.demo.sshd import Bastion
from gateway.ssh.asyncssh_relay_client_side import AsyncsshRelayClientSide
from gateway.ssh.flow_control import MAX_SEND_PACKET
from gateway.ssh.options import KeepaliveOptions, PoolOptions, SshOptions
from gateway.ssh.send_queue import _BATCH_SIZE, ChannelSender, SendQueue
from tests.soak import instrumentation
from tests.support.files import REPOSITORY
from tests.support.front import fronting
from tests.support.lateness import Lateness
from tests.support.requirements import need_sshd
from tests.support.servers import echoing, serving
from tests.support.share import Backend, Clients, measure
from tests.support.slow_link import Shape, SlowLink
from tests.support.ssh_sessions import opened, options

pytestmark = pytest.mark.integration

NATIVE, ASYNCSSH = instrumentation.CIPHERS


def over(path: SlowLink, bastion: Bastion, **changes: Any) -> SshOptions:
    """Return the options of a tunnel with one SSH connection, which reaches `bastion` over the simulated network."""
    pin = (bastion.folder / "host_key.pub").read_text().strip()
    plain = options(bastion, port=path.port, known_hosts=(), host_keys=(pin,), connections=PoolOptions(1, 1))
    return replace(plain, **changes)


@pytest.mark.parametrize("cipher", instrumentation.CIPHERS)
async def test_uploads_share_a_full_uplink_evenly_and_queries_are_answered(bastion: Bastion, cipher: str) -> None:
    uploads, queries = 16, 2
    with Backend() as backend, SlowLink(bastion.port, Shape(up=2e6)) as path:
        async with (
            opened(over(path, bastion, ciphers=(cipher,), data_plane=instrumentation.data_plane(cipher))) as link,
            fronting(link, backend.port) as front,
        ):
            with Lateness() as machine:
                ports = [front.port] * (uploads + queries)
                shares = await asyncio.to_thread(measure, backend, ports, uploads, 5.0)
    assert shares.fairness >= 0.3, sorted(shares.uploads)
    assert shares.wait(1.0) < 3 + machine.sum, shares.waits


async def test_turns_are_short_if_other_relays_wait_on_a_slow_path(
    bastion: Bastion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If several clients upload data over a slow network, their relays take turns to send one packet each.

    `tests/unit/_dataplane/` has the same test for the native engine.
    """
    uploads = 6
    waiting: dict[ChannelSender, int] = {}
    between: list[int] = []
    """For each wait of a relay in the send queue, the number of bytes that all relays sent during the wait."""
    enqueue, serve = SendQueue.enqueue, SendQueue._give_turns
    relays: set[AsyncsshRelayClientSide] = set()

    def total() -> int:
        return sum(each.to_backend for each in relays)

    def noted(queue: SendQueue, sender: ChannelSender) -> None:
        assert isinstance(sender, AsyncsshRelayClientSide)
        relays.add(sender)
        if queue._batch_limit < _BATCH_SIZE and not queue.is_queued(sender):
            waiting[sender] = total()
        enqueue(queue, sender)

    def served(queue: SendQueue) -> None:
        serve(queue)
        done = [each for each in waiting if not queue.is_queued(each)]
        between.extend(total() - waiting.pop(each) for each in done)

    monkeypatch.setattr(SendQueue, "enqueue", noted)
    monkeypatch.setattr(SendQueue, "_give_turns", served)
    with Backend() as backend, SlowLink(bastion.port, Shape(up=2e6)) as path:
        async with (
            opened(over(path, bastion, data_plane="asyncssh")) as link,
            fronting(link, backend.port) as front,
        ):
            with Clients([front.port] * uploads, uploads=uploads):
                async with asyncio.timeout(30):
                    while len(between) < 40:
                        await asyncio.sleep(0.02)
    settled = sorted(between[20:])
    assert settled[len(settled) // 2] <= (uploads + 1) * MAX_SEND_PACKET, settled


@pytest.mark.parametrize(("who", "cipher"), [("us", NATIVE), ("sshd", NATIVE), ("us", ASYNCSSH)])
async def test_a_key_exchange_on_a_full_slow_uplink_resets_nothing(tmp_path: Path, who: str, cipher: str) -> None:
    """Unsent data delays the key exchange. The gateway must not close the connection because of this delay."""
    need_sshd()
    limit = 1 << 20
    keepalive = KeepaliveOptions(
        interval=Duration(0.5), suspect=Duration(6.0), replace=Duration(1.5), lost=Duration(60.0)
    )
    bastion = Bastion(tmp_path / "bastion", extra=f"RekeyLimit {limit}" if who == "sshd" else "").start()
    try:
        with (
            Backend() as backend,
            instrumentation.Exchanges(limit if who == "us" else 1 << 40) as exchanges,
            SlowLink(bastion.port, Shape(up=2e5, buffer=16 << 10)) as path,
        ):
            chosen = over(
                path, bastion, ciphers=(cipher,), data_plane=instrumentation.data_plane(cipher), keepalive=keepalive
            )
            async with opened(chosen) as link, fronting(link, backend.port) as front:
                connections = instrumentation.sessions(link)
                with Clients([front.port] * 4, uploads=4):
                    async with asyncio.timeout(50):
                        while exchanges.count < 2 or min(backend.bytes[1:5]) < 320 << 10:
                            assert instrumentation.sessions(link) == connections, (
                                "the gateway replaced the connection"
                            )
                            await asyncio.sleep(0.05)
                    assert not front.endings
    finally:
        bastion.stop()


def flooding(client: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            client.sendall(bytes(65536))


@pytest.mark.parametrize("cipher", instrumentation.CIPHERS)
async def test_a_slow_reader_holds_no_more_than_its_window(bastion: Bastion, cipher: str) -> None:
    stop = threading.Event()

    def read(client: socket.socket) -> None:
        while not stop.is_set():
            client.recv(32768)
            time.sleep(0.003)

    with serving(flooding) as port, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        one = options(
            bastion, ciphers=(cipher,), data_plane=instrumentation.data_plane(cipher), connections=PoolOptions(1, 1)
        )
        async with opened(one) as link, fronting(link, port) as front:
            client.connect(("127.0.0.1", front.port))
            reading = asyncio.create_task(asyncio.to_thread(read, client))
            try:
                (session,) = instrumentation.sessions(link)
                fullest = taken = 0.0  # both values are multiples of the window size
                async with asyncio.timeout(40):
                    while fullest < 0.8 or taken < 2:
                        await asyncio.sleep(0.01)
                        for seen in instrumentation.look(session):
                            fullest, taken = max(fullest, seen.held / seen.size), seen.down / seen.size
                            assert seen.unbalanced() is None
            finally:
                stop.set()
                await reading


@pytest.mark.timeout(120)
def test_a_short_soak_run_finds_no_error(tmp_path: Path) -> None:
    need_sshd()
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak.soak", "--seconds", "15", "--seed", "1", "--clients", "120"],
        capture_output=True, text=True, timeout=110, check=False, cwd=REPOSITORY,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "seed 1: 0 problems" in done.stdout


def test_a_slow_link_delays_limits_and_loses_nothing() -> None:
    sent = bytes(range(256)) * 4000
    shape = Shape(delay=0.1, up=4e6, down=4e6, loss=0.01, rto=0.05)
    with serving(echoing) as port, SlowLink(port, shape, seed=1) as path:
        with socket.create_connection(("127.0.0.1", path.port), timeout=30) as client:
            began = time.monotonic()
            client.sendall(b"x")
            assert client.recv(1) == b"x"
            assert time.monotonic() - began > 0.2
            began = time.monotonic()
            sending = threading.Thread(target=client.sendall, args=(sent,))
            sending.start()
            with client.makefile("rb") as incoming:
                got = incoming.read(len(sent))
            took = time.monotonic() - began
            sending.join()
        assert got == sent
        assert took > 0.2 + len(sent) / 4e6
        figures = path.figures()
        assert (figures.up, figures.down, figures.connections) == (len(sent) + 1, len(sent) + 1, 1)
        assert figures.losses > 0


def test_a_slow_link_holds_little_and_can_stall_and_be_cut() -> None:
    with serving(echoing) as port, SlowLink(port, Shape(up=1e5, buffer=8192)) as path:
        with socket.create_connection(("127.0.0.1", path.port), timeout=30) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
            client.setblocking(False)
            accepted = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    accepted += client.send(bytes(4096))
            # The proxy has four socket buffers of 8 KiB. The kernel doubles their sizes.
            assert accepted < 128 << 10
            client.setblocking(True)
        path.shape(Shape())
        for stop in (path.hole, path.stall):
            with socket.create_connection(("127.0.0.1", path.port), timeout=30) as client:
                client.sendall(b"x")
                assert client.recv(1) == b"x"
                began = time.monotonic()
                stop(0.5)
                client.sendall(b"y")
                assert client.recv(1) == b"y"
                assert time.monotonic() - began > 0.4
                assert path.cut().cuts
                with pytest.raises(ConnectionResetError):
                    client.recv(1)
