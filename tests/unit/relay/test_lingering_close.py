"""Tests whether a client gets the whole response even if the backend closes its connection first."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import pytest

from gateway.relay import lingering_close
from gateway.relay.event_loop import RelayEventLoop
from gateway.relay.lingering_close import lingering_closer
from gateway.relay.sockets import reset_on_process_exit, tune

RESPONSE = bytes(range(256)) * 4096


@contextlib.contextmanager
def connected() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Yield the gateway's socket and the client's socket of a connection. The client's receive buffer is small."""
    with socket.socket() as listener, socket.socket() as client:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        tune(listener)
        reset_on_process_exit(listener)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.setblocking(True)
        client.connect(listener.getsockname())
        ours, _ = listener.accept()
        ours.setblocking(False)
        yield ours, client
        ours.close()


def fill(sock: socket.socket) -> int:
    """Send `RESPONSE` until the socket accepts no more bytes. Return the number of sent bytes."""
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while sent < len(RESPONSE):
            sent += sock.send(RESPONSE[sent:])
    return sent


async def read_all(client: socket.socket) -> bytes:
    client.setblocking(False)
    got = bytearray()
    async with asyncio.timeout(20):
        while piece := await asyncio.get_running_loop().sock_recv(client, 65536):
            got += piece
    return bytes(got)


async def gone() -> None:
    async with asyncio.timeout(20):
        while len(lingering_closer()):
            await asyncio.sleep(0.01)


async def test_late_bytes_do_not_discard_the_response_and_cause_a_reset() -> None:
    with connected() as (ours, client):
        sent = fill(ours)
        client.sendall(b"more, which nothing reads")
        lingering_closer().close_later(ours, reset_after=False)
        await asyncio.sleep(0)
        assert await read_all(client) == RESPONSE[:sent]
        await gone()
        client.setblocking(True)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            for _ in range(2):
                client.sendall(b"x")


async def test_a_client_that_closes_normally_sees_end_of_file() -> None:
    with connected() as (ours, client):
        sent = fill(ours)
        lingering_closer().close_later(ours, reset_after=False)
        assert await read_all(client) == RESPONSE[:sent]
        assert len(lingering_closer()) == 1
        client.shutdown(socket.SHUT_WR)
        await gone()
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


@pytest.mark.parametrize("reset_after", [False, True])
async def test_a_client_that_never_closes_is_closed_when_it_has_received_everything(
    monkeypatch: pytest.MonkeyPatch, reset_after: bool
) -> None:
    monkeypatch.setattr(lingering_close, "LINGER_TIMEOUT", 0.3)
    with connected() as (ours, client):
        sent = fill(ours)
        lingering_closer().close_later(ours, reset_after=reset_after)
        await asyncio.sleep(1.5)
        assert len(lingering_closer()) == 1
        assert await read_all(client) == RESPONSE[:sent]
        await gone()


async def test_a_client_that_acknowledges_nothing_is_closed_after_a_long_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lingering_close, "LINGER_TIMEOUT", 0.3)
    monkeypatch.setattr(lingering_close, "_MAX_PAUSE", 1.0)
    with connected() as (ours, _):
        fill(ours)
        lingering_closer().close_later(ours, reset_after=True)
        await gone()


async def test_a_slow_client_gets_the_whole_response_before_its_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lingering_close, "LINGER_TIMEOUT", 0.4)
    monkeypatch.setattr(lingering_close, "_SCAN_INTERVAL", 0.05)
    with connected() as (ours, client):
        sent = fill(ours)
        lingering_closer().close_later(ours, reset_after=True)
        client.setblocking(False)
        got = bytearray()
        async with asyncio.timeout(50):
            while len(got) < sent:
                with contextlib.suppress(BlockingIOError):
                    got += client.recv(max(65536, sent // 20))
                await asyncio.sleep(0.02)
        assert got == RESPONSE[:sent]
        await gone()


async def test_the_oldest_socket_beyond_the_limit_is_still_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lingering_close, "_MAX_SOCKETS", 1)
    with connected() as (oldest, first), connected() as (ours, second):
        for sock in (oldest, ours):
            sock.sendall(b"all of it")
            lingering_closer().close_later(sock, reset_after=True)
        assert len(lingering_closer()) == 1
        assert await read_all(second) == b"all of it"
        await gone()
        first.setblocking(True)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            for _ in range(2):
                first.sendall(b"x")


async def test_a_client_that_resets_is_removed() -> None:
    with connected() as (ours, client):
        fill(ours)
        lingering_closer().close_later(ours, reset_after=False)
        client.close()  # Because the client has unread data, the kernel sends a reset instead of end-of-file.
        await gone()


def test_data_is_still_delivered_after_the_loop_closes() -> None:
    with connected() as (ours, client):

        async def leave() -> int:
            sent = fill(ours)
            lingering_closer().close_later(ours, reset_after=False)
            return sent

        with asyncio.Runner(loop_factory=RelayEventLoop) as runner:
            sent = runner.run(leave())
        with asyncio.Runner(loop_factory=RelayEventLoop) as runner:
            assert runner.run(read_all(client)) == RESPONSE[:sent]
