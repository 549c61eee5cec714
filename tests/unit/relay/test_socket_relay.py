"""Tests of relays between two sockets. Most tests run with the event loop and with the native engine."""

import asyncio
import contextlib
import random
import socket
import struct
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.contracts.relay import Relay
from gateway.contracts.states import CloseReason
from gateway.metric_types import Histogram
from gateway.nfs.latency_tap import RpcLatencyTap
from gateway.relay.event_loop import RelayEventLoop
from gateway.relay.socket_relay import SocketRelay
from gateway.relay.sockets import reset, tune
from tests.support.relays import ENGINES, Maker, maker, tcp_pair


@pytest.fixture(params=ENGINES)
def make(request: pytest.FixtureRequest) -> Maker:
    return maker(request.param)


async def joined(make: Maker) -> tuple[socket.socket, socket.socket, Relay, Histogram]:
    client, inner = await tcp_pair()
    outer, backend = await tcp_pair()
    latency = Histogram()
    return client, backend, make(inner, outer, latency, None), latency


async def observed(latency: Histogram) -> Histogram:
    """Wait until the histogram has observations, and return it. The native engine reports them every 0.1 s."""
    async with asyncio.timeout(10):
        while not latency.count:
            await asyncio.sleep(0.01)
    return latency


async def send(sock: socket.socket, chunks: list[bytes]) -> None:
    loop = asyncio.get_running_loop()
    for chunk in chunks:
        await loop.sock_sendall(sock, chunk)
        await asyncio.sleep(0)
    sock.shutdown(socket.SHUT_WR)


async def receive(sock: socket.socket, rng: random.Random, most: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = bytearray()
    while piece := await loop.sock_recv(sock, rng.randint(1, most)):
        data += piece
        if rng.random() < 0.05:
            await asyncio.sleep(0.001)
    return bytes(data)


CHUNKS = st.lists(st.integers(1, 200_000).map(lambda size: random.Random(size).randbytes(size)), max_size=6)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CHUNKS, CHUNKS, st.integers(0, 2**32), st.sampled_from([1000, 70_000, 1_000_000]))
def test_bytes_arrive_as_they_were_sent_in_both_directions(
    make: Maker, forth: list[bytes], back: list[bytes], seed: int, most: int
) -> None:
    async def exchange() -> None:
        client, backend, relay, _ = await joined(make)
        rng = random.Random(seed)
        with client, backend:
            async with asyncio.timeout(20):
                _, _, got_forth, got_back = await asyncio.gather(
                    send(client, forth), send(backend, back), receive(backend, rng, most), receive(client, rng, most)
                )
                assert await relay.ended is CloseReason.FINISHED
        assert got_forth == b"".join(forth)
        assert got_back == b"".join(back)
        assert (relay.to_backend, relay.from_backend) == (len(got_forth), len(got_back))

    with asyncio.Runner(loop_factory=RelayEventLoop) as runner:
        runner.run(exchange())


@pytest.mark.parametrize("first", ["client", "backend"])
async def test_a_half_close_leaves_the_other_direction_open(make: Maker, first: str) -> None:
    client, backend, relay, _ = await joined(make)
    loop = asyncio.get_running_loop()
    near, far = (client, backend) if first == "client" else (backend, client)
    with client, backend:
        near.shutdown(socket.SHUT_WR)
        assert await loop.sock_recv(far, 10) == b""
        await loop.sock_sendall(far, b"still here")
        assert await loop.sock_recv(near, 100) == b"still here"
        assert not relay.ended.done()
        far.shutdown(socket.SHUT_WR)
        assert await relay.ended is CloseReason.FINISHED


@pytest.mark.parametrize(
    ("who", "ending"), [("client", CloseReason.CLIENT_RESET), ("backend", CloseReason.BACKEND_RESET)]
)
async def test_a_reset_is_forwarded_as_a_reset(make: Maker, who: str, ending: CloseReason) -> None:
    client, backend, relay, _ = await joined(make)
    near, far = (client, backend) if who == "client" else (backend, client)
    with client, backend:
        await asyncio.sleep(0.01)
        reset(near)
        assert await relay.ended is ending
        with pytest.raises(ConnectionResetError):
            await asyncio.get_running_loop().sock_recv(far, 10)


async def test_a_client_that_does_not_read_stops_the_backend(make: Maker) -> None:
    client, backend, relay, _ = await joined(make)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    # This is more than the kernel buffers. On large machines, the default maximum of tcp_rmem is 32 MiB.
    held_by_kernel = 80 << 20
    sent = 0
    with client, backend:
        with contextlib.suppress(TimeoutError):
            while sent < held_by_kernel:
                async with asyncio.timeout(0.5):
                    await asyncio.get_running_loop().sock_sendall(backend, bytes(65536))
                sent += 65536
        assert sent < held_by_kernel
        relay.abort(CloseReason.ABORTED)


async def test_pending_data_for_a_slow_reader_is_delivered_after_the_sender_closes(make: Maker) -> None:
    client, backend, relay, _ = await joined(make)
    loop = asyncio.get_running_loop()
    payload = random.Random(1).randbytes(4 << 20)
    with client, backend:
        backend.shutdown(socket.SHUT_WR)
        sending = asyncio.ensure_future(send(client, [payload]))
        await asyncio.sleep(0.2)
        assert await receive(backend, random.Random(2), 100_000) == payload
        await sending
        assert await relay.ended is CloseReason.FINISHED
        assert await loop.sock_recv(client, 10) == b""


async def test_latency_is_measured_from_the_last_request_byte_to_the_first_response_byte(make: Maker) -> None:
    client, backend, relay, latency = await joined(make)
    loop = asyncio.get_running_loop()
    began = time.monotonic()
    with client, backend:
        for _ in range(3):
            await loop.sock_sendall(client, b"ask")
            await loop.sock_recv(backend, 10)
            await asyncio.sleep(0.02)
            await loop.sock_sendall(backend, b"answer")
            await loop.sock_recv(client, 10)
        relay.abort(CloseReason.ABORTED)
        await relay.ended
    assert (await observed(latency)).count == 3
    assert 0.05 < latency.sum < time.monotonic() - began


class RecordingTap:
    """A tap that records the bytes of a relay, and finishes after `enough` bytes."""

    tracker = None

    def __init__(self, enough: int) -> None:
        self.enough = enough
        self.seen = b""

    @property
    def finished(self) -> bool:
        return len(self.seen) >= self.enough

    def on_request(self, data: memoryview, now: float) -> None:
        self.seen += bytes(data)

    on_response = on_request


async def test_a_finished_tap_is_dropped(make: Maker) -> None:
    client, inner = await tcp_pair()
    outer, backend = await tcp_pair()
    latency, ear = Histogram(), RecordingTap(5)
    relay = make(inner, outer, latency, ear)
    loop = asyncio.get_running_loop()
    with client, backend:
        async with asyncio.timeout(20):
            for there, back in ((b"ab", b"c"), (b"de", b"f")):
                await loop.sock_sendall(client, there)
                assert await loop.sock_recv(backend, 10) == there
                await loop.sock_sendall(backend, back)
                assert await loop.sock_recv(client, 10) == back
            # The native engine runs in another thread, so the tap gets the bytes later.
            while not ear.finished:
                await asyncio.sleep(0.005)
            sending = asyncio.ensure_future(loop.sock_sendall(backend, bytes(8 << 20)))
            got = 0
            while got < 8 << 20:
                got += len(await loop.sock_recv(client, 1 << 20))
            await sending
        if isinstance(relay, SocketRelay):
            assert relay._download.pipe is not None  # After the tap finished, the relay used splice(2).
        else:
            assert relay.inspect()["moved"]  # type: ignore[attr-defined]
        assert ear.seen == b"abcde"
        relay.abort(CloseReason.ABORTED)
        await relay.ended
        # The relay has measured both requests, although the tap finished before the second response.
        assert latency.count == 2


async def test_the_relay_does_not_measure_latency_if_the_tap_does(make: Maker) -> None:
    client, inner = await tcp_pair()
    outer, backend = await tcp_pair()
    latency, found = Histogram(), Histogram()
    relay = make(inner, outer, latency, RpcLatencyTap(found.observe))
    loop = asyncio.get_running_loop()
    with client, backend:
        async with asyncio.timeout(20):
            for kind in (0, 1):  # 0 is an RPC call, and 1 is its reply.
                near, far = (client, backend) if kind == 0 else (backend, client)
                record = struct.pack("!III", 0x80000008, 7, kind)
                await loop.sock_sendall(near, record)
                assert await loop.sock_recv(far, 100) == record
                # The native engine runs in another thread, so `waiting_since` changes later.
                while (relay.waiting_since is None) != (kind == 1):
                    await asyncio.sleep(0.005)
        relay.abort(CloseReason.ABORTED)
        await relay.ended
        assert (latency.count, found.count) == (0, 1)


@pytest.mark.parametrize("ends", [True, False], ids=["end of stream", "open"])
async def test_urgent_data_does_not_stop_or_shorten_the_stream(make: Maker, ends: bool) -> None:
    """splice(2) does not read past the mark of urgent data. The urgent byte becomes part of the stream."""
    loop = asyncio.get_running_loop()
    client, backend, relay, _ = await joined(make)
    data = random.Random(1).randbytes(8 << 20)

    async def send() -> None:
        await loop.sock_sendall(client, data[: 6 << 20])
        while True:
            with contextlib.suppress(BlockingIOError):
                client.send(b"!", socket.MSG_OOB)
                break
            await asyncio.sleep(0.01)
        await loop.sock_sendall(client, data[6 << 20 :])
        if ends:
            client.shutdown(socket.SHUT_WR)

    with client, backend:
        sending = asyncio.ensure_future(send())
        got = bytearray()
        async with asyncio.timeout(20):
            while len(got) <= len(data) and (piece := await loop.sock_recv(backend, 1 << 20)):
                got += piece
            assert got == data[: 6 << 20] + b"!" + data[6 << 20 :]
            if ends:
                assert await loop.sock_recv(backend, 1) == b""
            await sending
        relay.abort(CloseReason.ABORTED)


@pytest.mark.parametrize("loop", ["own", "asyncio's"])
def test_data_that_a_unix_client_sends_before_its_close_arrives(make: Maker, loop: str) -> None:
    """If the client closes its unix socket, epoll(7) reports EPOLLHUP immediately, even if data is still unread."""

    async def close_early() -> None:
        client, inner = socket.socketpair()
        tune(client)
        tune(inner)
        outer, backend = await tcp_pair()
        with backend:
            relay = make(inner, outer, Histogram(), None)
            sent = random.Random(1).randbytes(3 << 20)
            reading = asyncio.ensure_future(slowly(backend))
            with client:
                await asyncio.get_running_loop().sock_sendall(client, sent)
            assert await asyncio.wait_for(reading, 20) == sent
            backend.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(5):
                assert await relay.ended is CloseReason.FINISHED

    async def slowly(sock: socket.socket) -> bytes:
        data = bytearray()
        while piece := await asyncio.get_running_loop().sock_recv(sock, 65536):
            data += piece
            await asyncio.sleep(0.002)
        return bytes(data)

    with asyncio.Runner(loop_factory=RelayEventLoop if loop == "own" else None) as runner:
        runner.run(close_early())
