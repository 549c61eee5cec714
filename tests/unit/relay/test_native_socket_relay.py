"""Tests of pairs in the native engine. The tests use no event loop."""

import contextlib
import gc
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gateway.relay.sockets import reset
from tests.support.requirements import need_data_plane

if TYPE_CHECKING:
    from gateway._dataplane.engine import Engine

MIB = 1 << 20


class Pair:
    """A pair in the native engine, and the sockets of its client and its backend."""

    def __init__(self, engine: "Engine", module: Any, *, unix: bool = False, tap: int = 0) -> None:
        self.engine, self.module = engine, module
        self.client, near = _connection(unix=unix)
        self.backend, far = _connection(unix=unix)
        flags = module.ATTACH_MEASURE
        flags |= module.ATTACH_UNIX | module.ATTACH_UNIX_BACKEND if unix else 0
        self.token = engine.token()
        engine.pair(self.token, near.detach(), far.detach(), 0, flags, tap)
        engine.turn()

    def ended(self) -> tuple[int, int, int] | None:
        """Let the native engine handle pending events, and then check whether the pair has ended.

        Returns:
            None if the pair has not ended. Otherwise, the close reason, the file descriptor of the client's socket,
            and the file descriptor of the backend's socket. If the native engine has closed a socket, its file
            descriptor is -1.
        """
        self.engine.turn()
        for kind, token, arguments, _ in self.engine.take():
            if kind == self.module.RECORD_PAIR_ENDED and token == self.token:
                return arguments[:3]
        return None

    def transfer(self, size: int) -> bytes:
        """Send `size` zero bytes from the backend to the client. Return the bytes that the client has received."""
        received = bytearray()
        sent = 0
        while len(received) < size:
            with contextlib.suppress(BlockingIOError):
                sent += self.backend.send(bytes(min(MIB, size - sent))) if sent < size else 0
            self.engine.turn()
            with contextlib.suppress(BlockingIOError):
                received += self.client.recv(4 * MIB)
        return bytes(received)

    def close(self) -> None:
        self.client.close()
        self.backend.close()


def open_descriptors() -> int:
    gc.collect()  # objects of earlier tests must not close descriptors later
    return len(list(Path("/proc/self/fd").iterdir()))


def _connection(*, unix: bool) -> tuple[socket.socket, socket.socket]:
    if unix:
        pair = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as server:
            outer = socket.create_connection(server.getsockname())
            pair = outer, server.accept()[0]
    for each in pair:
        each.setblocking(False)
    return pair


@pytest.fixture
def new_pair() -> Iterator[Any]:
    need_data_plane()
    from gateway._dataplane import engine as module  # noqa: PLC0415 - the native engine is optional

    made: list[Pair] = []
    engine = module.Engine((0.001, 1.0), 0, 60_000)

    def make(**options: Any) -> Pair:
        made.append(Pair(engine, module, **options))
        return made[-1]

    yield make
    engine.close()
    for each in made:
        each.close()


@pytest.mark.parametrize("unix", [False, True])
def test_bulk_data_uses_a_pipe_that_an_idle_pair_does_not_keep(new_pair: Any, unix: bool) -> None:
    pair = new_pair(unix=unix)
    before = open_descriptors()
    assert pair.transfer(32 * MIB) == bytes(32 * MIB)
    state = pair.engine.inspect(pair.token)
    assert (state["pipes"], state["piped"], state["held"]) == (0, 0, 0)
    if not unix:
        assert state["moved"]
    # The native engine keeps one empty pipe (two file descriptors) for the next transfer.
    assert open_descriptors() <= before + 2
    assert pair.engine.gauge(pair.token)[:2] == (0, 32 * MIB)
    pair.client.shutdown(socket.SHUT_WR)
    assert pair.ended() is None
    pair.backend.shutdown(socket.SHUT_WR)
    assert pair.ended() == (0, -1, -1)
    assert open_descriptors() <= before - 2


def test_bulk_data_is_copied_without_descriptors_for_a_pipe(new_pair: Any) -> None:
    pair = new_pair()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, before[1]))
    try:
        assert pair.transfer(16 * MIB) == bytes(16 * MIB)
        assert pair.engine.inspect(pair.token)["pipes"] == 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_full_pipe_and_a_full_socket_stop_the_sender_until_the_client_reads(new_pair: Any) -> None:
    pair = new_pair()
    pair.transfer(8 * MIB)
    sent, idle = 0, 0
    while idle < 50:
        idle += 1
        with contextlib.suppress(BlockingIOError):
            sent += pair.backend.send(bytes(MIB))
            idle = 0
        pair.engine.turn()
    state = pair.engine.inspect(pair.token)
    assert 0 < state["piped"] + state["held"] <= MIB
    received = 0
    while received < sent:
        with contextlib.suppress(BlockingIOError):
            received += len(pair.client.recv(4 * MIB))
        pair.engine.turn()
    assert received == sent
    assert pair.ended() is None


def test_a_pair_reads_at_most_a_mebibyte_in_a_turn(new_pair: Any) -> None:
    pair = new_pair()
    pair.transfer(8 * MIB)
    before = pair.engine.gauge(pair.token)[1]
    for _ in range(20):
        with contextlib.suppress(BlockingIOError):
            pair.backend.send(bytes(4 * MIB))
        with contextlib.suppress(BlockingIOError):
            pair.client.recv(4 * MIB)
        pair.engine.turn()
        now = pair.engine.gauge(pair.token)[1]
        assert now - before <= MIB
        before = now


@pytest.mark.parametrize(("who", "reason"), [("client", 1), ("backend", 5)])
@pytest.mark.parametrize("bulk", [False, True])
def test_a_reset_resets_the_other_side(new_pair: Any, who: str, reason: int, bulk: bool) -> None:
    pair = new_pair()
    if bulk:
        pair.transfer(8 * MIB)
    near, other = (pair.client, pair.backend) if who == "client" else (pair.backend, pair.client)
    reset(near)
    assert pair.ended() == (reason, -1, -1)
    with pytest.raises(ConnectionResetError):
        other.recv(1)


def test_a_client_whose_data_was_lost_must_linger(new_pair: Any) -> None:
    pair = new_pair()
    pair.backend.send(b"answer")
    pair.backend.close()  # From now on, the kernel responds with a reset to data from the client.
    assert pair.ended() is None
    pair.client.send(b"lost")
    while (record := pair.ended()) is None:
        pair.client.send(b"lost")
    assert (record[0], record[2]) == (0, -1)
    assert pair.client.recv(100) == b"answer"
    os.close(record[1])


def test_a_native_engine_that_is_closed_resets_both_sides_and_an_unknown_token_too(new_pair: Any) -> None:
    pair, late = new_pair(), new_pair()
    late.engine.command(pair.module.COMMAND_ABORT, late.token, 3)
    assert late.ended() == (3, -1, -1)
    late.engine.command(pair.module.COMMAND_UNTAP, late.token, 0)  # This pair has already ended.
    pair.engine.release(late.token)
    client, near = _connection(unix=False)
    backend, far = _connection(unix=False)
    pair.engine.pair(late.token, near.detach(), far.detach(), 0, 0, 0)
    pair.engine.turn()
    pair.engine.close()
    for each in (client, backend, pair.client, pair.backend):
        with each, pytest.raises(ConnectionResetError):
            each.recv(1)
