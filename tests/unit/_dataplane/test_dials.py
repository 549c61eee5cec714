"""Tests native listeners that connect clients directly to a target. The test acts as the clients and the target."""

import gc
import ipaddress
import os
import resource
import select
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gateway.relay.sockets import reset, reset_on_process_exit
from tests.support.engine_rig import EngineRig
from tests.support.requirements import need, need_data_plane

if TYPE_CHECKING:
    from gateway._dataplane.engine import Engine

pytestmark = pytest.mark.timeout(30)
IP_LOCAL_PORT_RANGE = 51
"""A socket option of Linux 6.3 and later. Python's `socket` module does not define it."""


class Rig(EngineRig):
    """A native engine, a listening socket for clients of the native engine, and a target."""

    def __init__(self, engine: "Engine", module: Any) -> None:
        super().__init__(engine, module)
        self.open: list[socket.socket] = []
        self.listening = self.serve()
        reset_on_process_exit(self.listening)
        self.target = self.serve()

    def serve(self, host: str = "127.0.0.1", backlog: int = 128) -> socket.socket:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        server = socket.create_server((host, 0), family=family, backlog=backlog)
        server.setblocking(False)
        self.open.append(server)
        return server

    def fill_queue(self) -> None:
        """Use a target with a full accept queue. The kernel ignores new connections until the target accepts one."""
        self.target = self.serve(backlog=0)
        self.open.append(socket.create_connection(self.target.getsockname(), timeout=10))

    def listen(
        self,
        to: tuple[str, int] | None = None,
        permits: int = 1000,
        networks: tuple[str, ...] = (),
        options: bytes = b"",
        *,
        tap: bool = False,
        histogram: int = 0,
        min_responses: int = 0,
    ) -> int:
        """Create a native listener for the socket `listening`. Return the token of the native listener."""
        token, (host, port) = self.engine.token(), to or address(self.target)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        allow = [ipaddress.ip_network(each) for each in networks]
        packed = (struct.pack("BB16s", len(a := n.network_address.packed), n.prefixlen, a) for n in allow)
        self.engine.listen_and_dial(
            token, os.dup(self.listening.fileno()), histogram, 8, permits, tap, min_responses,
            socket.inet_pton(family, host), port, 0, b"".join(packed), options,
        )  # fmt: skip
        self.turn()
        return token

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        """Connect a client to the socket `listening`, and let the native engine accept the client."""
        client = socket.create_connection(self.listening.getsockname(), timeout=10, source_address=(source, 0))
        self.open.append(client)
        self.turn()
        return client

    def accept(self, server: socket.socket | None = None) -> socket.socket:
        accepted, _ = (server or self.target).accept()
        accepted.settimeout(10)
        self.open.append(accepted)
        return accepted

    def joined(self) -> list[int]:
        """Return the token of each pair that the native engine has reported with RECORD_JOINED."""
        return [arguments[0] for kind, _, arguments, _ in self.records if kind == self.module.RECORD_JOINED]

    def returned(self, listener: int) -> socket.socket:
        """Return the only client that the native engine has returned to Python."""
        (descriptor,) = (
            arguments[0]
            for kind, token, arguments, _ in self.records
            if (kind, token) == (self.module.RECORD_RETURNED, listener)
        )
        self.open.append(socket.socket(fileno=descriptor))
        return self.open[-1]


@pytest.fixture
def rig() -> Iterator[Rig]:
    need_data_plane()
    from gateway._dataplane import engine as module  # noqa: PLC0415 - the native engine is optional

    made = Rig(module.Engine((0.001, 1.0), 0, 60_000), module)
    yield made
    made.engine.close()
    for sock in made.open:
        sock.close()


def address(server: socket.socket) -> tuple[str, int]:
    host, port, *_ = server.getsockname()
    return host, port


def open_descriptors() -> int:
    gc.collect()  # objects of earlier tests must not close descriptors later
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_client_is_joined_to_the_target(rig: Rig, host: str) -> None:
    target = rig.serve(host)
    option = struct.pack("=iii", socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 7)
    listener = rig.listen(address(target), options=option * 2)
    client = rig.connect()
    backend = rig.accept(target)
    assert (rig.engine.gauge(listener)[0], rig.engine.gauge(listener)[2]) == (1, 1)
    rig.until(rig.joined)
    ((of, (pair, connection, *_)),) = (
        (of, arguments) for kind, of, arguments, _ in rig.records if kind == rig.module.RECORD_JOINED
    )
    assert (of, connection) == (listener, 0)
    assert rig.engine.gauge(listener)[2] == 0
    client.sendall(b"query")
    rig.turn()
    assert backend.recv(100) == b"query"
    backend.sendall(b"reply")
    rig.turn()
    assert client.recv(100) == b"reply"
    assert rig.engine.gauge(pair)[:3] == (5, 5, 1)
    assert (rig.engine.gauge(listener)[0], rig.engine.inspect(listener)) == (1, {"pending": 0})
    state = rig.engine.inspect(pair)
    assert state is not None
    with socket.socket(fileno=os.dup(state["backend"])) as dialed:
        assert dialed.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 7
        assert not os.get_inheritable(state["backend"])
    client.close()
    backend.close()
    rig.until(lambda: rig.module.RECORD_PAIR_ENDED in rig.kinds(pair))


def test_the_end_of_a_client_reports_only_the_latencies_of_its_backend(rig: Rig) -> None:
    (client, accepted), (dialed, backend) = socket.socketpair(), socket.socketpair()
    rig.open += [client, backend]
    flags = rig.module.ATTACH_MEASURE | rig.module.ATTACH_UNIX | rig.module.ATTACH_UNIX_BACKEND
    rig.engine.pair(rig.engine.token(), accepted.detach(), dialed.detach(), 0, flags, 0)
    rig.listen(histogram=1)
    took = 1.0
    while took > 0.09:  # after 100 ms, the native engine reports the latencies of all backends: try again
        time.sleep(0.11)
        rig.turn()
        rig.records.clear()
        began = time.monotonic()
        short, target = rig.connect(), rig.accept()
        for one, other in ((client, backend), (short, target)):
            one.sendall(b"query")
            rig.turn()
            other.sendall(b"reply")
            rig.turn()
        short.close()
        target.close()
        took = time.monotonic() - began
    rig.until(lambda: rig.module.RECORD_HISTOGRAM in {kind for kind, _, _, _ in rig.records})
    first = next(arguments for kind, _, arguments, _ in rig.records if kind == rig.module.RECORD_HISTOGRAM)
    assert first[0] == 1


def test_short_connections_are_reported_as_a_sum(rig: Rig) -> None:
    listener = rig.listen(permits=2)
    served = [0] * 4

    def serve(reset_it: bool) -> None:
        client, target = rig.connect(), rig.accept()
        client.sendall(b"query")
        rig.turn()
        assert target.recv(100) == b"query"
        target.sendall(b"reply!")
        rig.turn()
        assert client.recv(100) == b"reply!"
        if reset_it:
            reset(client)
        else:
            client.close()
        rig.turn()
        target.close()
        rig.turn()

    # RECORD_SERVED does not include a client that stays connected for more than 50 ms: try again.
    while served[0] < 3 or not served[1]:
        serve(reset_it=served[0] >= 3)
        rig.until(lambda: rig.module.RECORD_SERVED in rig.kinds(listener) or rig.joined())
        for kind, _, arguments, _ in rig.records:
            if kind == rig.module.RECORD_SERVED:
                served = [sum(pair) for pair in zip(served, arguments, strict=True)]
        if rig.joined():
            rig.until(lambda: rig.module.RECORD_PAIR_ENDED in rig.kinds(rig.joined()[0]))
            rig.engine.command(rig.module.COMMAND_PERMIT, listener, 1)
            rig.turn()
        rig.records.clear()
    assert served[1] == served[0] - 3
    assert served[2:] == [5 * served[0], 6 * served[0]]
    assert rig.engine.inspect(listener) == {"pending": 0}


def test_a_client_with_few_responses_is_reported_individually(rig: Rig) -> None:
    listener = rig.listen(min_responses=1)
    client, target = rig.connect(), rig.accept()
    client.close()
    rig.turn()
    assert target.recv(100) == b""
    target.close()
    rig.until(rig.joined)
    rig.until(lambda: rig.kinds(rig.joined()[0]))
    assert rig.kinds(listener) == [rig.module.RECORD_JOINED]
    assert rig.kinds(rig.joined()[0]) == [rig.module.RECORD_PAIR_ENDED]


def test_the_times_until_clients_are_joined_are_reported(rig: Rig) -> None:
    rig.listen()
    for _ in range(3):
        rig.connect()
    counts = [0, 0, 0]

    def complete() -> bool:
        for kind, _, arguments, payload in rig.records:
            if kind == rig.module.RECORD_HISTOGRAM and arguments[0] == 8:
                counts[:] = [a + b for a, b in zip(counts, struct.unpack("=3Q", payload), strict=True)]
        rig.records.clear()
        return sum(counts) == 3

    rig.until(complete)


def test_the_thread_reports_joined_clients_and_their_end_soon(rig: Rig) -> None:
    rig.listen()
    rig.engine.start()
    client = socket.create_connection(rig.listening.getsockname(), timeout=10)
    for expected in (rig.module.RECORD_JOINED, rig.module.RECORD_PAIR_ENDED):
        found: set[int] = set()
        while expected not in found:
            ready, _, _ = select.select([rig.engine.fileno()], [], [], 10)
            assert ready
            found |= {kind for kind, _, _, _ in rig.engine.take()}
        client.close()
        if expected == rig.module.RECORD_JOINED:
            rig.accept().close()


def test_the_bytes_of_an_accepted_client_are_reported_after_the_client(rig: Rig) -> None:
    rig.listen(tap=True)
    client = rig.connect()
    client.sendall(b"login")

    def received() -> list[tuple[int, int, bytes]]:
        return [(kind, of, data) for kind, of, _, data in rig.records if kind != rig.module.RECORD_HISTOGRAM]

    rig.until(lambda: len(received()) > 1)
    (pair,) = rig.joined()
    joined, tapped = received()
    assert (joined[0], joined[2]) == (rig.module.RECORD_JOINED, b"")
    assert tapped == (rig.module.RECORD_TAP, pair, b"login")


def test_clients_outside_the_networks_are_returned_without_a_dial(rig: Rig) -> None:
    listener = rig.listen(networks=("127.8.0.0/15",))
    outside = rig.connect("127.7.255.255")
    assert rig.kinds(listener) == [rig.module.RECORD_RETURNED]
    assert rig.returned(listener).getpeername() == outside.getsockname()
    rig.connect("127.9.1.1")
    rig.until(rig.joined)
    rig.accept()
    with pytest.raises(BlockingIOError):
        rig.target.accept()


def test_a_listener_stops_when_no_more_clients_are_permitted(rig: Rig) -> None:
    listener = rig.listen(permits=1)
    rig.connect()
    rig.engine.command(rig.module.COMMAND_PERMIT, listener, 1)
    rig.connect()
    third = rig.connect()
    rig.until(lambda: rig.module.RECORD_STOPPED in rig.kinds(listener))
    assert rig.kinds(listener) == [rig.module.RECORD_JOINED] * 2 + [rig.module.RECORD_STOPPED]
    with rig.accept(rig.listening) as inner:  # the native engine has not accepted the third client
        assert inner.getpeername() == third.getsockname()
    assert rig.engine.inspect(listener) is None


def test_a_refused_client_is_returned_and_the_listener_stops(rig: Rig) -> None:
    closed = address(rig.target)
    rig.target.close()
    before = open_descriptors()
    listener = rig.listen(closed)
    client = rig.connect()
    client.sendall(b"early")
    rig.until(lambda: rig.records)
    assert rig.kinds(listener) == [rig.module.RECORD_STOPPED, rig.module.RECORD_RETURNED]
    assert rig.returned(listener).recv(100) == b"early"
    assert rig.engine.inspect(listener) is None
    assert open_descriptors() <= before + 2  # the two sockets of the client's connection


def test_a_client_is_not_joined_to_itself(rig: Rig) -> None:
    host, port = address(rig.target)
    rig.target.close()
    bounds = struct.pack("=I", port << 16 | port)
    with socket.socket() as probe:
        try:
            probe.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, bounds)
        except OSError:
            need(False, "Linux 6.3 (IP_LOCAL_PORT_RANGE)")
    listener = rig.listen((host, port), options=struct.pack("=ii4s", socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, bounds))
    rig.connect()
    rig.until(lambda: rig.records)
    assert rig.kinds(listener) == [rig.module.RECORD_STOPPED, rig.module.RECORD_RETURNED]
    assert rig.returned(listener).fileno() >= 0


def test_a_slow_dial_stops_the_listener_and_is_joined_later(rig: Rig) -> None:
    rig.fill_queue()
    listener = rig.listen()
    client, leaving = [socket.create_connection(rig.listening.getsockname(), timeout=10) for _ in range(2)]
    rig.open += [client, leaving]
    rig.turn()
    client.sendall(b"query")
    assert rig.engine.inspect(listener) == {"pending": 2}
    assert not rig.records
    time.sleep(0.41)
    rig.turn()
    assert rig.kinds(listener) == [rig.module.RECORD_STOPPED]
    reset(leaving)
    rig.until(lambda: rig.engine.inspect(listener) is None or (_drain(rig) and False))
    assert rig.kinds(listener) == [rig.module.RECORD_STOPPED] + [rig.module.RECORD_JOINED] * 2
    first, second = rig.joined()
    rig.until(lambda: rig.module.RECORD_PAIR_ENDED in rig.kinds(second) + rig.kinds(first))
    (ended,) = (arguments for kind, _, arguments, _ in rig.records if kind == rig.module.RECORD_PAIR_ENDED)
    assert ended[0] == 1  # 1 is CLOSE_CLIENT_RESET: the client `leaving` has sent a reset


def _drain(rig: Rig) -> bool:
    """Accept the connections that wait on the target."""
    while True:
        try:
            rig.accept()
        except BlockingIOError:
            return True


@pytest.mark.parametrize("way", ["recall", "close", "withdraw"])
def test_a_client_whose_dial_is_pending(rig: Rig, way: str) -> None:
    """COMMAND_RECALL returns the client to Python. COMMAND_UNLISTEN does not cancel the connection attempt."""
    rig.fill_queue()
    before = open_descriptors()
    listener = rig.listen()
    client = rig.connect()
    if way == "close":
        rig.engine.close()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        # One descriptor is new: the client's socket. The four descriptors of the native engine are closed.
        assert open_descriptors() <= before + 1 - 4
        return
    command = rig.module.COMMAND_RECALL if way == "recall" else rig.module.COMMAND_UNLISTEN
    rig.engine.command(command, listener, 0)
    rig.turn()
    if way == "recall":
        assert rig.kinds(listener) == [rig.module.RECORD_RETURNED]
        assert rig.returned(listener).getpeername() == client.getsockname()
        # Three are new: a duplicate of the listening socket, and the two sockets of the client's connection.
        assert open_descriptors() <= before + 3
        assert rig.engine.inspect(listener) == {"pending": 0}
        return
    assert rig.kinds(listener) == [rig.module.RECORD_STOPPED]
    late = rig.connect()
    with rig.accept(rig.listening) as inner:
        assert inner.getpeername() == late.getsockname()
    rig.until(lambda: rig.joined() or (_drain(rig) and False))
    assert rig.engine.inspect(listener) is None


@pytest.mark.parametrize("spare", [0, 1])
def test_a_listener_stops_without_descriptors(rig: Rig, spare: int) -> None:
    """With one unused descriptor, the native engine can accept the client, but cannot open a socket to the target."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    listener = rig.listen()
    waiting = socket.create_connection(rig.listening.getsockname(), timeout=10)
    rig.open.append(waiting)
    unused = os.dup(0)
    os.close(unused)
    resource.setrlimit(resource.RLIMIT_NOFILE, (unused + spare, limits[1]))
    try:
        rig.turn()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    returned = [rig.module.RECORD_RETURNED] * spare
    assert rig.kinds(listener) == [rig.module.RECORD_STOPPED, *returned]
    inner = rig.returned(listener) if spare else rig.accept(rig.listening)
    assert inner.getpeername() == waiting.getsockname()


def test_few_dials_are_pending_at_the_same_time(rig: Rig) -> None:
    rig.fill_queue()
    listener = rig.listen()
    rig.open += [socket.create_connection(rig.listening.getsockname(), timeout=10) for _ in range(66)]
    for _ in range(2):
        rig.turn()
    assert rig.engine.inspect(listener) == {"pending": 64}
    rig.engine.command(rig.module.COMMAND_RECALL, listener, 0)
    rig.turn()
    for kind, _, arguments, _ in rig.records:
        if kind == rig.module.RECORD_RETURNED:
            os.close(arguments[0])
    rig.turn()
    assert rig.engine.inspect(listener) == {"pending": 2}


def test_an_address_of_the_wrong_size_is_refused(rig: Rig) -> None:
    with pytest.raises(ValueError, match="neither 4 nor 16 bytes"):
        rig.engine.listen_and_dial(rig.engine.token(), 0, 0, 0, 1, False, 0, b"abc", 1, 0, b"", b"")
