"""Tests that a relay keeps clients that pause or read slowly, and detects dead clients.

The kernel would close the connections of such clients because of TCP_USER_TIMEOUT, unless the gateway suspends this
timeout. The tests use a timeout of 3 s instead of 60 s.
"""

import asyncio
import contextlib
import os
import random
import socket
import time
from collections.abc import Iterator

import pytest

from gateway.contracts.relay import Relay
from gateway.contracts.states import CloseReason
from gateway.metric_types import Histogram
from gateway.relay import sockets, tcp_user_timeout_suspender
from tests.support.netns import inside, run
from tests.support.relays import ENGINES, Maker, maker, tcp_pair
from tests.support.requirements import need

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

TIMEOUT = 3000
ADDRESS = "10.203.0.1"


@pytest.fixture(params=ENGINES)
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Maker:
    """Return a function that creates relays with the TCP_USER_TIMEOUT `TIMEOUT`, and checks sockets every 0.1 s."""
    monkeypatch.setattr(sockets, "USER_TIMEOUT_MS", TIMEOUT)
    with contextlib.suppress(ImportError):  # the native engine is optional
        monkeypatch.setattr("gateway.relay.native_engine_runner.USER_TIMEOUT_MS", TIMEOUT)
    for name, value in (("_SCAN_INTERVAL", 0.1), ("_PARTS", 1), ("_STALLED_AFTER", 0.6), ("_ACK_MARGIN", 0.2)):
        monkeypatch.setattr(tcp_user_timeout_suspender, name, value)
    return maker(request.param)


def user_timeout(sock: socket.socket) -> int:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)


async def relayed(make: Maker, client: socket.socket, inner: socket.socket) -> tuple[Relay, socket.socket]:
    """Return a relay between `inner` and a backend, and the backend's socket."""
    outer, backend = await tcp_pair()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
    # In production, only the gateway's sockets have TCP_USER_TIMEOUT, but `tcp_pair` sets it on all sockets.
    for end, milliseconds in ((client, 0), (backend, 0), (inner, TIMEOUT), (outer, TIMEOUT)):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
    return make(inner, outer, Histogram(), None), backend


async def read_slowly(client: socket.socket, seconds: float) -> int:
    """Read 4 KiB every 50 ms. Return the number of bytes."""
    count, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(BlockingIOError):
            count += len(client.recv(4096))
        await asyncio.sleep(0.05)
    return count


async def pause(make: Maker, size: int) -> None:
    """Read nothing, then a little, then again nothing, then everything."""
    loop = asyncio.get_running_loop()
    client, inner = await tcp_pair()
    with inner.dup() as same:  # the relay owns `inner`
        relay, backend = await relayed(make, client, inner)
        with client, backend:
            answer = random.Random(1).randbytes(size)
            sending = asyncio.ensure_future(loop.sock_sendall(backend, answer))
            await asyncio.sleep(6)
            assert not relay.ended.done()
            assert user_timeout(same) == 0
            got = bytearray(await loop.sock_recv(client, 16384))
            await asyncio.sleep(4)
            assert not relay.ended.done()
            async with asyncio.timeout(20):
                while len(got) < len(answer):
                    got += await loop.sock_recv(client, 1 << 20)
                await sending
                assert got == answer
                while user_timeout(same) != TIMEOUT:
                    await asyncio.sleep(0.05)
            relay.abort(CloseReason.ABORTED)


async def pause_until_the_backend_has_ended(make: Maker) -> None:
    """Read nothing until the backend has sent its response and the end of the stream."""
    loop = asyncio.get_running_loop()
    client, inner = await tcp_pair()
    relay, backend = await relayed(make, client, inner)
    with client:
        with backend:
            answer = random.Random(2).randbytes(600_000)
            await loop.sock_sendall(backend, answer)
            await asyncio.sleep(6)
        await asyncio.sleep(4)
        got = bytearray()
        async with asyncio.timeout(20):
            while data := await loop.sock_recv(client, 1 << 20):
                got += data
        assert got == answer
    await relay.ended


async def keep_reading_slowly(make: Maker) -> None:
    client, inner = await tcp_pair()
    relay, backend = await relayed(make, client, inner)
    with client, backend:
        sending = asyncio.ensure_future(asyncio.get_running_loop().sock_sendall(backend, bytes(32 << 20)))
        assert await read_slowly(client, 10) > 100_000
        assert not relay.ended.done()
        sending.cancel()
        relay.abort(CloseReason.ABORTED)


async def test_a_client_that_pauses_or_reads_slowly_loses_nothing(make: Maker) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(pause(make, 8 << 20))  # more than the send buffer
        group.create_task(pause(make, 600_000))  # less than the send buffer
        group.create_task(pause_until_the_backend_has_ended(make))
        group.create_task(keep_reading_slowly(make))


@pytest.fixture
def hosts() -> Iterator[tuple[str, str]]:
    """Create connected network namespaces for the gateway, at `ADDRESS`, and for its clients. Return their names."""
    need(os.geteuid() == 0, "root, to create network namespaces")
    near, far = (f"gwt-{os.getpid()}-{name}" for name in ("near", "far"))
    try:
        run(
            f"ip netns add {near} && ip netns add {far} &&"
            f"ip -n {near} link add outer type veth peer name outer netns {far};"
            f"ip -n {near} addr add {ADDRESS}/24 dev outer; ip -n {near} link set outer up;"
            f"ip -n {far} addr add 10.203.0.2/24 dev outer; ip -n {far} link set outer up"
        )
        yield near, far
    finally:
        run(f"ip netns del {near}; ip netns del {far}", check=False)


async def read_fast(client: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while True:
        await loop.sock_recv(client, 65536)
        await asyncio.sleep(0.001)


async def test_the_failure_of_a_clients_host_is_detected(make: Maker, hosts: tuple[str, str]) -> None:
    """The clients read fast, slowly, and nothing. Their host then neither sends nor receives packets."""
    loop, (near, far) = asyncio.get_running_loop(), hosts
    with contextlib.ExitStack() as stack:
        relays, clients, tasks = [], [], []
        with inside(near):
            server = stack.enter_context(socket.create_server((ADDRESS, 0)))
        for _ in range(3):
            with inside(far):
                client = stack.enter_context(socket.socket())
            client.connect(server.getsockname())
            client.setblocking(False)
            inner, _ = server.accept()
            sockets.tune(inner)
            relay, backend = await relayed(make, client, inner)
            tasks.append(loop.create_task(loop.sock_sendall(stack.enter_context(backend), bytes(1 << 30))))
            relays.append(relay)
            clients.append(client)
        reading = [loop.create_task(read_fast(clients[0])), loop.create_task(read_slowly(clients[1], 60))]
        await asyncio.sleep(4)
        assert not any(each.ended.done() for each in relays)
        with inside(far):
            run("iptables -A INPUT -j DROP; iptables -A OUTPUT -j DROP")
        async with asyncio.timeout(120):
            assert {await each.ended for each in relays} == {CloseReason.CLIENT_RESET}
        for each in (*tasks, *reading):
            each.cancel()
        await asyncio.wait((*tasks, *reading))
