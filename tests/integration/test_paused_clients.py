"""Tests that a relay keeps clients that pause, and detects dead clients, although the kernel has TCP_USER_TIMEOUT."""

import asyncio
import contextlib
import random
import socket

import pytest

from gateway.contracts.states import CloseReason
from gateway.metric_types import Histogram
from gateway.relay import sockets, tcp_user_timeout_suspender
from tests.support.relays import ENGINES, Maker, maker, tcp_pair

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@pytest.fixture(params=ENGINES)
def make(request: pytest.FixtureRequest) -> Maker:
    return maker(request.param)


def set_user_timeout(monkeypatch: pytest.MonkeyPatch, milliseconds: int, stalled_after: float) -> None:
    """Change TCP_USER_TIMEOUT, and check sockets often enough for this timeout."""
    monkeypatch.setattr(sockets, "USER_TIMEOUT_MS", milliseconds)
    with contextlib.suppress(ImportError):  # the native engine is optional
        monkeypatch.setattr("gateway.relay.native_engine_runner.USER_TIMEOUT_MS", milliseconds)
    for name, value in (
        ("_SCAN_INTERVAL", 0.1),
        ("_PARTS", 1),
        ("_STALLED_AFTER", stalled_after),
        ("_ACK_MARGIN", 0.2),
    ):
        monkeypatch.setattr(tcp_user_timeout_suspender, name, value)


@pytest.mark.parametrize("size", [8 << 20, 600_000], ids=["more than the send buffer", "less than the send buffer"])
async def test_a_client_that_pauses_longer_than_the_user_timeout_loses_nothing(
    make: Maker, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_user_timeout(monkeypatch, 3000, 0.6)
    loop = asyncio.get_running_loop()
    client, inner = await tcp_pair()
    outer, backend = await tcp_pair()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
    # In production, only the gateway's sockets have TCP_USER_TIMEOUT, but `tcp_pair` sets it on all sockets.
    for end, milliseconds in ((client, 0), (backend, 0), (inner, 3000), (outer, 3000)):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
    with inner.dup() as same:  # the relay owns `inner`
        relay = make(inner, outer, Histogram(), None)
        with client, backend:
            answer = random.Random(1).randbytes(size)
            sending = asyncio.ensure_future(loop.sock_sendall(backend, answer))
            await asyncio.sleep(6)
            assert not relay.ended.done()
            assert same.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0
            got = bytearray()
            async with asyncio.timeout(20):
                while len(got) < len(answer):
                    got += await loop.sock_recv(client, 1 << 20)
                await sending
                assert got == answer
                while same.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) != 3000:
                    await asyncio.sleep(0.05)
            relay.abort(CloseReason.ABORTED)


async def test_the_user_timeout_of_a_client_that_reads_slowly_is_not_suspended(
    make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_user_timeout(monkeypatch, 9000, 3.0)
    client, inner = await tcp_pair()
    outer, backend = await tcp_pair()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
    inner.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 9000)
    with inner.dup() as same:
        relay = make(inner, outer, Histogram(), None)
        with client, backend:
            sending = asyncio.ensure_future(asyncio.get_running_loop().sock_sendall(backend, bytes(32 << 20)))
            for _ in range(50):
                with contextlib.suppress(BlockingIOError):
                    client.recv(65536)
                await asyncio.sleep(0.1)
                assert same.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 9000
            sending.cancel()
            relay.abort(CloseReason.ABORTED)
