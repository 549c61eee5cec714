"""Tests that a relay keeps clients that pause or read slowly, and detects dead clients.

The tests use a time limit of 3 s instead of 60 s for data that a client does not acknowledge (`DEAD_AFTER`).
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
from gateway.relay import dead_peer_detector
from gateway.relay.sockets import tune
from tests.support.netns import inside, run
from tests.support.relays import ENGINES, Maker, maker, tcp_pair
from tests.support.requirements import need

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

LIMIT = 3.0
ADDRESS = "10.203.0.1"


@pytest.fixture(params=ENGINES)
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Maker:
    """Return a function that creates relays with the time limit `LIMIT`."""
    monkeypatch.setattr(dead_peer_detector, "DEAD_AFTER", LIMIT)
    monkeypatch.setattr(dead_peer_detector, "_SCAN_INTERVAL", LIMIT / 60)
    with contextlib.suppress(ImportError):  # the native engine is optional
        monkeypatch.setattr("gateway.relay.native_engine_runner.DEAD_AFTER", LIMIT)
    return maker(request.param)


async def relayed(
    make: Maker, client: socket.socket, inner: socket.socket, receive_buffer: int | None = 32768
) -> tuple[Relay, socket.socket]:
    """Return a relay between `inner` and a backend, and the backend's socket."""
    outer, backend = await tcp_pair()
    if receive_buffer is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    return make(inner, outer, Histogram(), None), backend


async def read_slowly(client: socket.socket, seconds: float) -> int:
    """Read 4 KiB every 50 ms. Return the number of bytes."""
    count, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(BlockingIOError):
            count += len(client.recv(4096))
        await asyncio.sleep(0.05)
    return count


async def read_all(client: socket.socket, size: int, chunk: int = 1 << 20) -> bytes:
    loop, got = asyncio.get_running_loop(), bytearray()
    async with asyncio.timeout(30):
        while len(got) < size and (data := await loop.sock_recv(client, chunk)):
            got += data
    return bytes(got)


async def pause(make: Maker, size: int) -> None:
    """Read nothing, then a little, then again nothing, then everything."""
    loop = asyncio.get_running_loop()
    client, inner = await tcp_pair()
    relay, backend = await relayed(make, client, inner)
    with client, backend:
        answer = random.Random(1).randbytes(size)
        sending = asyncio.ensure_future(loop.sock_sendall(backend, answer))
        await asyncio.sleep(2 * LIMIT)
        assert not relay.ended.done()
        got = await loop.sock_recv(client, 16384)
        await asyncio.sleep(1.5 * LIMIT)
        assert not relay.ended.done()
        assert got + await read_all(client, size - len(got)) == answer
        await sending
        relay.abort(CloseReason.ABORTED)


async def pause_until_the_backend_has_ended(make: Maker, *, half_closed: bool) -> None:
    """Read nothing until the backend has sent its response and the end of the stream."""
    loop = asyncio.get_running_loop()
    client, inner = await tcp_pair()
    relay, backend = await relayed(make, client, inner)
    with client:
        with backend:
            answer = random.Random(2).randbytes(600_000)
            if half_closed:
                client.shutdown(socket.SHUT_WR)
            await loop.sock_sendall(backend, answer)
            await asyncio.sleep(0.5)
        await asyncio.sleep(2 * LIMIT)
        assert await read_all(client, len(answer) + 1) == answer
    await relay.ended


async def keep_reading_slowly(make: Maker) -> None:
    client, inner = await tcp_pair()
    relay, backend = await relayed(make, client, inner)
    with client, backend:
        sending = asyncio.ensure_future(asyncio.get_running_loop().sock_sendall(backend, bytes(32 << 20)))
        assert await read_slowly(client, 3 * LIMIT) > 100_000
        assert not relay.ended.done()
        sending.cancel()
        relay.abort(CloseReason.ABORTED)


async def test_a_client_that_pauses_or_reads_slowly_loses_nothing(make: Maker) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(pause(make, 8 << 20))  # more than the send buffer
        group.create_task(pause(make, 600_000))  # less than the send buffer
        group.create_task(pause_until_the_backend_has_ended(make, half_closed=False))
        group.create_task(pause_until_the_backend_has_ended(make, half_closed=True))
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
            # Segmentation offload is off, so that packets have the same size as on a real network.
            f"ip -n {near} link set outer gso_max_segs 1; ip -n {far} link set outer gso_max_segs 1;"
            f"ip -n {near} addr add {ADDRESS}/24 dev outer; ip -n {near} link set outer up;"
            f"ip -n {far} addr add 10.203.0.2/24 dev outer; ip -n {far} link set outer up"
        )
        yield near, far
    finally:
        run(f"ip netns del {near}; ip netns del {far}", check=False)


def connect(hosts: tuple[str, str]) -> tuple[socket.socket, socket.socket]:
    """Return both sockets of a TCP connection from the clients' namespace to the gateway's namespace."""
    near, far = hosts
    with inside(near):
        server = socket.create_server((ADDRESS, 0))
    with inside(far):
        client = socket.socket()
    with server:
        client.connect(server.getsockname())
        inner, _ = server.accept()
    client.setblocking(False)
    tune(inner)
    return client, inner


async def test_a_client_can_pause_again_after_an_idle_time(make: Maker, hosts: tuple[str, str]) -> None:
    """The kernel does not clear the time of the first window probe when the client has read all data."""
    loop = asyncio.get_running_loop()
    client, inner = connect(hosts)
    relay, backend = await relayed(make, client, inner, None)
    with client, backend:
        answer = random.Random(3).randbytes(4 << 20)
        for _ in range(2):
            sending = asyncio.ensure_future(loop.sock_sendall(backend, answer))
            await asyncio.sleep(1)
            assert await read_all(client, len(answer), 8192) == answer
            await sending
            await asyncio.sleep(LIMIT + 0.5)
        assert not relay.ended.done()
        relay.abort(CloseReason.ABORTED)


async def read_fast(client: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while True:
        await loop.sock_recv(client, 65536)
        await asyncio.sleep(0.001)


async def test_the_failure_of_a_clients_host_is_detected(make: Maker, hosts: tuple[str, str]) -> None:
    """The clients read fast, slowly, and nothing. Their host then neither sends nor receives packets."""
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as stack:
        relays, clients, tasks = [], [], []
        for _ in range(3):
            client, inner = connect(hosts)
            clients.append(stack.enter_context(client))
            relay, backend = await relayed(make, client, inner)
            relays.append(relay)
            tasks.append(loop.create_task(loop.sock_sendall(stack.enter_context(backend), bytes(1 << 30))))
        reading = [loop.create_task(read_fast(clients[0])), loop.create_task(read_slowly(clients[1], 60))]
        await asyncio.sleep(LIMIT + 1)
        assert not any(each.ended.done() for each in relays)
        with inside(hosts[1]):
            run("iptables -A INPUT -j DROP; iptables -A OUTPUT -j DROP")
        async with asyncio.timeout(90):
            assert {await each.ended for each in relays} == {CloseReason.CLIENT_RESET}
        for each in (*tasks, *reading):
            each.cancel()
        await asyncio.wait((*tasks, *reading))
