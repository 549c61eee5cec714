"""Tests the native engine without asyncssh. The test acts as the SSH server, and usually calls `turn`.

The method `turn` runs the native engine once, without its thread.
"""

import contextlib
import ipaddress
import os
import platform
import random
import resource
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.nfs.latency_tap import RpcRecordScanner
from gateway.relay.sockets import reset_on_process_exit
from tests.support import arriving_data
from tests.support.engine_rig import EngineRig
from tests.support.files import REPOSITORY
from tests.support.requirements import need_data_plane

if TYPE_CHECKING:
    from gateway._dataplane.engine import Engine

KEY, IV = b"k" * 16, b"i" * 12
CIPHER = "aes128-gcm@openssh.com"
PACKET = 32 * 1024
OPEN, CONFIRMATION, REFUSAL, ADJUST, DATA, EOF, CLOSE, REQUEST, FAILURE = 90, 91, 92, 93, 94, 96, 97, 98, 100
KEXINIT, NEWKEYS, DISCONNECT = 20, 21, 1


class Sealer:
    """Encrypts or decrypts the packets of one direction with AES-GCM (RFC 5647)."""

    def __init__(self) -> None:
        self._aes, self._counter = AESGCM(KEY), int.from_bytes(IV[4:], "big")

    def _nonce(self) -> bytes:
        self._counter += 1
        return IV[:4] + (self._counter - 1).to_bytes(8, "big")

    def seal(self, payload: bytes) -> bytes:
        plain = pad(payload)
        return plain[:4] + self._aes.encrypt(self._nonce(), plain[4:], plain[:4])

    def unseal(self, packet: bytes) -> bytes:
        plain = self._aes.decrypt(self._nonce(), packet[4:], packet[:4])
        return plain[1 : -plain[0]]


def pad(payload: bytes) -> bytes:
    """Return an unencrypted SSH packet: its length, the padding length, the payload and the padding."""
    padding = -(1 + len(payload)) % 16
    padding += 16 if padding < 4 else 0
    return (1 + len(payload) + padding).to_bytes(4, "big") + bytes([padding]) + payload + bytes(padding)


def numbers(*values: int) -> bytes:
    return b"".join(value.to_bytes(4, "big") for value in values)


class Rig(EngineRig):
    """A native engine with one SSH connection, and the SSH server's socket of this connection."""

    def __init__(self, engine: "Engine", module: Any) -> None:
        super().__init__(engine, module)
        near, self.peer = socket.socketpair()
        self.clients: list[socket.socket] = []
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.listening.setblocking(False)
        reset_on_process_exit(self.listening)
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32768)
        for sock in (near, self.peer):
            sock.setblocking(False)
        self.connection = engine.token()
        key = (CIPHER, KEY, IV, 0)
        engine.connection(self.connection, near.detach(), key, key, 1 << 18, True, 1 << 40, 1 << 30, 1 << 25, 1 << 18)
        self._ours, self._theirs = Sealer(), Sealer()
        self._received = bytearray()

    def say(self, payload: bytes, times: int = 1) -> None:
        self.peer.sendall(b"".join(self._theirs.seal(payload) for _ in range(times)))
        self.turn()

    def hear(self) -> list[bytes]:
        """Read once from the SSH server's socket. Return the payload of each complete packet."""
        with contextlib.suppress(BlockingIOError):
            self._received += self.peer.recv(1 << 20)
        payloads = []
        while len(self._received) >= 4 and len(self._received) >= (
            size := 20 + int.from_bytes(self._received[:4], "big")
        ):
            payloads.append(self._ours.unseal(bytes(self._received[:size])))
            del self._received[:size]
        return payloads

    def join(self, *, window: int = 1 << 40, tap: int = 0) -> tuple[int, int, socket.socket]:
        """Open a channel and attach a client. Return the channel's token, the channel's number, and the client."""
        token = self.engine.token()
        self.engine.channel(token, self.connection, 1 << 21, PACKET, tap, numbers(12) + b"direct-tcpip", b"")
        self.turn()
        (opened,) = self.hear()
        number = int.from_bytes(opened[17:21], "big")
        granted = min(window, (1 << 32) - 1)
        self.say(bytes([CONFIRMATION]) + numbers(number, 1000 + number, granted, PACKET))
        assert self.kinds(token) == [self.module.RECORD_OPENED]
        client, inner = socket.socketpair()
        self.clients.append(client)
        for sock in (client, inner):
            sock.setblocking(False)
        flags = self.module.ATTACH_UNIX | self.module.ATTACH_MEASURE
        self.engine.attach(token, inner.detach(), 0, flags)
        self.turn()
        return token, number, client

    def listen(
        self,
        *connections: int,
        permits: int = 1000,
        networks: tuple[str, ...] = (),
        tap: bool = False,
        full_load: int = 1000,
        min_responses: int = 0,
    ) -> int:
        """Create a native listener for the socket `listening`. Return the token of the native listener."""
        token, chosen = self.engine.token(), connections or (self.connection,)
        allow = [ipaddress.ip_network(each) for each in networks]
        self.engine.listen(
            token, os.dup(self.listening.fileno()), 0, 8, permits, 1 << 18, 1 << 21, PACKET, full_load, tap,
            min_responses, struct.pack(f"={len(chosen)}Q", *chosen),
            b"".join(struct.pack("BB16s", len(a := n.network_address.packed), n.prefixlen, a) for n in allow),
            numbers(12) + b"direct-tcpip", b"",
        )  # fmt: skip
        self.turn()
        return token

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        """Connect a client to the socket `listening`, and let the native engine accept the client."""
        client = socket.create_connection(self.listening.getsockname(), timeout=10, source_address=(source, 0))
        self.clients.append(client)
        self.turn()
        return client

    def confirm(self, number: int) -> None:
        self.say(bytes([CONFIRMATION]) + numbers(number, 1000 + number, 1 << 21, PACKET))

    def returned(self, listener: int) -> socket.socket:
        """Return the only client that the native engine has returned to Python."""
        (descriptor,) = (
            arguments[0]
            for kind, token, arguments, _ in self.records
            if (kind, token) == (self.module.RECORD_RETURNED, listener)
        )
        self.clients.append(socket.socket(fileno=descriptor))
        return self.clients[-1]


@pytest.fixture
def new_rig() -> Iterator[Callable[[], Rig]]:
    need_data_plane()
    from gateway._dataplane import engine as module  # noqa: PLC0415 - the native engine is optional

    rigs: list[Rig] = []

    def create() -> Rig:
        rigs.append(Rig(module.Engine((0.001, 1.0), 1 << 30, 60_000), module))
        return rigs[-1]

    yield create
    for rig in rigs:
        rig.engine.close()
        for sock in (rig.peer, rig.listening, *rig.clients):
            sock.close()


@pytest.fixture
def rig(new_rig: Callable[[], Rig]) -> Rig:
    return new_rig()


def fill(client: socket.socket) -> None:
    """Send until the client's socket accepts no more data."""
    with contextlib.suppress(BlockingIOError):
        while True:
            client.send(bytes(1 << 16))


def test_on_a_slow_path_each_channel_sends_one_packet_in_order_of_arrival(rig: Rig) -> None:
    joined = [rig.join() for _ in range(5)]
    order: list[int] = []
    deadline = time.monotonic() + 30
    while len(order) < 45:
        assert time.monotonic() < deadline
        for _, _, client in joined:
            fill(client)
        rig.turn()
        time.sleep(0.03)  # the native engine considers a connection slow if its socket is full for more than 20 ms
        for payload in rig.hear():
            assert (payload[0], len(payload)) == (DATA, 9 + PACKET)
            order.append(int.from_bytes(payload[1:5], "big"))
    settled = order[15:]
    rounds = [settled[at : at + 5] for at in range(0, 30, 5)]
    assert all(sorted(each) == sorted(set(order)) for each in rounds), order
    assert all(each == rounds[0] for each in rounds), order


def test_nothing_of_a_channel_is_sent_between_kexinit_and_the_new_key(rig: Rig) -> None:
    _, number, client = rig.join()
    rig.engine.send(rig.connection, pad(bytes([KEXINIT]) + bytes(16)))
    client.send(b"query")
    client.shutdown(socket.SHUT_WR)
    rig.say(bytes([REQUEST]) + numbers(number, 1) + b"x\x01")
    rig.turn()
    assert [payload[0] for payload in rig.hear()] == [KEXINIT]
    rig.engine.send(rig.connection, pad(bytes([NEWKEYS])))
    rig.turn()
    assert [payload[0] for payload in rig.hear()] == [NEWKEYS]
    rig._ours = Sealer()
    rig.engine.key(rig.connection, True, CIPHER, KEY, IV)
    for _ in range(3):
        rig.turn()
    assert [payload[0] for payload in rig.hear()] == [FAILURE, DATA, EOF]


def test_replies_during_a_key_exchange_are_bounded(rig: Rig) -> None:
    _, number, _ = rig.join()
    rig.engine.send(rig.connection, pad(bytes([KEXINIT]) + bytes(16)))
    for _ in range(59):
        rig.say(bytes([REQUEST]) + numbers(number, 1) + b"x\x01", times=280)
    violations = [text for kind, _, _, text in rig.records if kind == rig.module.RECORD_VIOLATION]
    assert violations == [b"the server requests too many replies during a key exchange"]


def test_packets_after_new_keys_wait_for_the_key(rig: Rig) -> None:
    _, number, client = rig.join()
    rig.say(bytes([NEWKEYS]))
    rig._theirs = Sealer()
    rig.say(bytes([DATA]) + numbers(number, 5) + b"reply")
    with pytest.raises(BlockingIOError):
        client.recv(100)
    rig.engine.key(rig.connection, False, CIPHER, KEY, IV)
    rig.turn()
    assert client.recv(100) == b"reply"


def test_nothing_follows_a_disconnect_message(rig: Rig) -> None:
    token, _, client = rig.join()
    rig.engine.send(rig.connection, pad(bytes([DISCONNECT]) + numbers(11, 0, 0)))
    client.send(b"late")
    rig.engine.command(rig.module.COMMAND_ABORT, token, 3)
    rig.turn()
    rig.turn()
    assert [payload[0] for payload in rig.hear()] == [DISCONNECT]
    assert rig.kinds(token)[-1] == rig.module.RECORD_ENDED


def test_packets_that_python_does_not_accept_stop_the_reception(rig: Rig) -> None:
    sent = 0
    with pytest.raises(BlockingIOError):
        while sent < 64 << 20:
            rig.say(bytes([80]) + bytes(30_000))
            sent += 30_000
    reported = sum(len(text) for kind, _, _, text in rig.records if kind == rig.module.RECORD_PACKET)
    assert (256 << 10) < reported < (512 << 10)
    rig.engine.command(rig.module.COMMAND_ACCEPTED, rig.connection, reported)
    before = len(rig.records)
    rig.turn()
    assert len(rig.records) > before


def test_a_channel_that_opens_too_late_is_closed(rig: Rig) -> None:
    token = rig.engine.token()
    rig.engine.channel(token, rig.connection, 1 << 21, PACKET, False, numbers(12) + b"direct-tcpip", b"")
    rig.turn()
    assert [payload[0] for payload in rig.hear()] == [OPEN]
    rig.engine.command(rig.module.COMMAND_ABORT, token, 3)
    rig.say(bytes([CONFIRMATION]) + numbers(0, 7, 1000, PACKET))
    assert rig.hear() == [bytes([CLOSE]) + numbers(7)]
    assert rig.kinds(token) == [rig.module.RECORD_REFUSED]


def test_the_loss_of_a_connection_is_the_last_record(rig: Rig) -> None:
    token, _, client = rig.join()
    rig.peer.close()
    rig.turn()
    assert rig.kinds(token)[-1] == rig.module.RECORD_ENDED
    assert rig.records[-1][:2] == (rig.module.RECORD_LOST, rig.connection)
    assert client.recv(1) == b""  # on a unix socket, a reset looks like end-of-file


@pytest.mark.parametrize("complete", [True, False])
def test_the_gauge_shows_whether_the_end_is_complete_before_the_client_sees_it(rig: Rig, complete: bool) -> None:
    """Python reads the gauge, because the client can see the end of its stream before Python gets RECORD_ENDED."""
    token, number, client = rig.join()
    rig.peer.sendall(rig._theirs.seal(bytes([DATA]) + numbers(number, 5) + b"reply"))
    if complete:
        rig.peer.sendall(rig._theirs.seal(bytes([CLOSE]) + numbers(number)))
    else:
        rig.peer.close()
    for _ in range(3):
        rig.engine.turn()
    assert (client.recv(100), client.recv(100)) == (b"reply", b"")
    assert rig.engine.gauge(token)[6] is complete


def test_latencies_are_reported_when_a_channel_ends(rig: Rig) -> None:
    token, number, client = rig.join()
    client.send(b"query")
    rig.turn()
    rig.say(bytes([DATA]) + numbers(number, 5) + b"reply")
    rig.say(bytes([CLOSE]) + numbers(number))
    counts = [text for kind, _, _, text in rig.records if kind == rig.module.RECORD_HISTOGRAM]
    assert [sum(text[at] for at in range(0, 24, 8)) for text in counts] == [1]
    assert rig.engine.gauge(token)[:3] == (5, 5, 1)


@pytest.mark.parametrize(
    "garbage", [b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00"], ids=["rpc", "garbage"]
)
@pytest.mark.parametrize("from_backend", [False, True])
def test_the_headers_of_rpc_messages_are_reported(rig: Rig, from_backend: bool, garbage: bytes) -> None:
    """The native engine finds the same messages as the tap in Python, regardless of how the bytes are split."""
    rng = random.Random(1)
    token, number, client = rig.join(tap=rig.module.TAP_RPC)
    messages = [rpc_message(rng.choice([0, 1]), rng.randrange(1 << 32), rng.randrange(5000), rng) for _ in range(60)]
    stream, scanner, expected = b"".join(messages) + garbage, RpcRecordScanner(), []
    while stream:
        size = rng.choice([1, 3, 7, 100, 5000])
        piece, stream = stream[:size], stream[size:]
        expected += [(xid, kind) for xid, kind in scanner.records(memoryview(piece))]
        if from_backend:
            rig.say(bytes([DATA]) + numbers(number, len(piece)) + piece)
            assert client.recv(5000) == piece
        else:
            client.send(piece)
            rig.turn()
            rig.hear()
    if garbage:
        expected.append((0, -1))
    found = [arguments for kind, of, arguments, _ in rig.records if (kind, of) == (rig.module.RECORD_RPC, token)]
    assert [(xid, kind) for _, _, xid, kind in found] == expected
    assert len(expected) >= 60
    assert {(where, abs(time.monotonic() - now / 1e9) < 60) for where, now, _, _ in found} == {
        (int(from_backend), True)
    }
    assert rig.module.RECORD_TAP not in rig.kinds(token)


def rpc_message(kind: int, xid: int, size: int, rng: random.Random) -> bytes:
    """Return an RPC message that consists of fragments of random sizes."""
    body = numbers(xid, kind) + bytes(size)
    cuts = sorted({len(body), *(rng.randrange(8, len(body) + 1) for _ in range(rng.randrange(3)))})
    pieces = [body[start:end] for start, end in zip([0, *cuts], cuts, strict=False)]
    return b"".join(
        numbers(len(each) | (1 << 31 if at == len(pieces) - 1 else 0)) + each for at, each in enumerate(pieces)
    )


def test_wrong_arguments_are_refused(rig: Rig) -> None:
    with pytest.raises(ValueError, match="does not have a key of 3"):
        rig.engine.key(rig.connection, True, CIPHER, b"abc", IV)
    with pytest.raises(ValueError, match="has other arguments"):
        rig.engine.command(99, rig.connection, 0)
    with pytest.raises(ValueError, match="bounds"):
        rig.module.Engine((), 0, 0)
    with pytest.raises(ValueError, match="window"):
        rig.engine.listen(rig.connection, 0, 0, 0, 1, 2, 1, PACKET, 1, False, 0, b"", b"", b"", b"")
    unused = rig.engine.token()
    rig.engine.release(unused)
    with pytest.raises(KeyError):
        rig.engine.gauge(unused)
    rig.engine.command(rig.module.COMMAND_ABORT, unused, 0)  # a command for a released token has no effect
    rig.turn()
    rig.engine.close()
    with pytest.raises(ValueError, match="closed"):
        rig.engine.turn()


def test_the_thread_carries_a_channel_while_python_is_busy(rig: Rig) -> None:
    _, number, client = rig.join()
    rig.engine.start()
    with pytest.raises(OSError, match="busy"):
        rig.engine.turn()
    client.setblocking(True)
    client.settimeout(10)
    for _ in range(100):
        client.send(b"query")
        select.select([rig.peer], [], [], 10)
        assert rig.hear() == [bytes([DATA]) + numbers(1000 + number, 5) + b"query"]
        rig.peer.sendall(rig._theirs.seal(bytes([DATA]) + numbers(number, 5) + b"reply"))
        assert client.recv(5) == b"reply"
    assert rig.engine.inspect(rig.connection) is not None


def test_the_thread_does_not_preempt_other_threads(rig: Rig) -> None:
    before = set(thread_ids())
    rig.engine.start()
    (thread,) = set(thread_ids()) - before
    deadline = time.monotonic() + 10
    while os.sched_getscheduler(thread) != os.SCHED_BATCH:
        assert time.monotonic() < deadline, os.sched_getscheduler(thread)
        time.sleep(0.01)
    assert os.getpriority(os.PRIO_PROCESS, thread) == os.getpriority(os.PRIO_PROCESS, 0)
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc raises its thresholds")
@pytest.mark.skipif("san.so" in os.environ.get("LD_PRELOAD", ""), reason="a sanitizer replaces the allocator")
@pytest.mark.parametrize(
    ("variables", "returned"),
    [
        ({}, True),
        ({"GLIBC_TUNABLES": "glibc.malloc.tcache_count=7"}, False),
        ({"MALLOC_MMAP_THRESHOLD_": str(16 << 20)}, False),
    ],
)
def test_large_blocks_return_to_the_kernel_unless_the_operator_sets_thresholds(
    variables: dict[str, str], *, returned: bool
) -> None:
    need_data_plane()
    script = """
import ctypes, gateway._dataplane.engine
c = ctypes.CDLL(None)
c.malloc.restype, c.malloc.argtypes, c.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", *"abcdef")]
c.mallinfo2.restype = Info
c.free(c.malloc(8 << 20))  # raises the threshold, unless it is fixed
before = c.mallinfo2().hblks
block = c.malloc(4 << 20)
print(c.mallinfo2().hblks - before)
"""
    environment = {**os.environ, **variables}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout == f"{int(returned)}\n"  # 1 means that glibc has allocated the block with mmap


def test_the_thread_reports_records_and_stops_with_the_native_engine(rig: Rig) -> None:
    token, _, client = rig.join()
    others = thread_ids()
    rig.engine.start()
    (own,) = thread_ids() - others
    client.close()
    rig.engine.command(rig.module.COMMAND_ABORT, token, 3)
    ready, _, _ = select.select([rig.engine.fileno()], [], [], 10)
    assert ready
    assert rig.module.RECORD_ENDED in {kind for kind, of, _, _ in rig.engine.take() if of == token}
    ready, _, _ = select.select([rig.engine.fileno()], [], [], 0)
    assert not ready
    rig.engine.close()
    deadline = time.monotonic() + 10
    while own in thread_ids():  # the kernel removes the entry of a thread only after `pthread_join` has returned
        assert time.monotonic() < deadline


def test_a_thread_that_fails_is_reported(rig: Rig) -> None:
    epoll = rig.engine.fileno()  # before `start`, `fileno` returns the epoll descriptor
    rig.engine.start()
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, epoll)
    os.close(null)
    rig.engine.command(rig.module.COMMAND_ROUND_TRIP, rig.connection, 1)
    ready, _, _ = select.select([rig.engine.fileno()], [], [], 10)
    assert ready
    with pytest.raises(OSError, match="Invalid argument"):
        rig.engine.take()


def test_the_descriptors_of_lost_records_are_closed(rig: Rig) -> None:
    _, number, client = rig.join()
    rig.peer.sendall(b"".join(rig._theirs.seal(bytes([kind]) + numbers(number)) for kind in (EOF, CLOSE)))
    rig.engine.turn()  # a queued RECORD_ENDED now contains the client's socket
    client.send(b"more")
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, rig.engine.fileno())
    os.close(null)
    rig.engine.start()
    ready, _, _ = select.select([rig.engine.fileno()], [], [], 10)
    assert ready
    with pytest.raises(OSError, match="Invalid argument"):
        rig.engine.take()
    with pytest.raises(BrokenPipeError):
        client.send(b"more")


def test_a_listener_joins_clients_and_reports_them(rig: Rig) -> None:
    listener = rig.listen()
    client = rig.connect()
    client.sendall(b"query")
    (opened,) = rig.hear()
    assert (opened[0], opened[21:29]) == (OPEN, numbers(1 << 21, PACKET))
    assert not rig.records
    rig.confirm(0)
    assert (rig.engine.gauge(listener)[0], rig.engine.gauge(listener)[2]) == (1, 1)
    rig.until(lambda: rig.kinds(listener))
    ((channel, connection, *_),) = (
        arguments for kind, _, arguments, _ in rig.records if kind == rig.module.RECORD_JOINED
    )
    assert connection == rig.connection
    rig.turn()
    assert rig.hear() == [bytes([DATA]) + numbers(1000, 5) + b"query"]
    rig.say(bytes([DATA]) + numbers(0, 5) + b"reply")
    assert client.recv(100) == b"reply"
    assert rig.engine.gauge(channel)[:3] == (5, 5, 1)
    assert rig.engine.gauge(listener)[0] == 1
    client.close()
    rig.turn()
    rig.say(bytes([CLOSE]) + numbers(0))
    assert rig.kinds(channel) == [rig.module.RECORD_ENDED]


def test_short_connections_are_reported_as_a_sum(new_rig: Callable[[], Rig]) -> None:
    for _ in range(20):  # a client that stays connected for over 50 ms is not in RECORD_SERVED: try again
        rig = new_rig()
        listener = rig.listen()
        client = rig.connect()
        client.sendall(b"query")
        assert [payload[0] for payload in rig.hear()] == [OPEN]
        rig.confirm(0)
        rig.say(bytes([DATA]) + numbers(0, 5) + b"reply")
        assert client.recv(100) == b"reply"
        client.close()
        rig.turn()
        rig.say(bytes([CLOSE]) + numbers(0))
        rig.until(lambda: rig.kinds(listener))  # noqa: B023 - waits here
        if rig.kinds(listener) == [rig.module.RECORD_SERVED]:
            break
    ((clients, resets, to_backend, from_backend),) = (
        arguments for kind, _, arguments, _ in rig.records if kind == rig.module.RECORD_SERVED
    )
    assert (clients, resets, to_backend, from_backend) == (1, 0, 5, 5)
    assert (rig.engine.gauge(listener)[0], rig.engine.gauge(listener)[2]) == (0, 0)


def test_a_client_with_few_responses_is_reported_individually(rig: Rig) -> None:
    listener = rig.listen(min_responses=2)
    client = rig.connect()
    client.sendall(b"query")
    rig.hear()
    rig.confirm(0)
    rig.say(bytes([DATA]) + numbers(0, 5) + b"reply")
    assert client.recv(100) == b"reply"
    client.close()
    rig.turn()
    rig.say(bytes([CLOSE]) + numbers(0))
    rig.until(lambda: rig.kinds(listener))
    assert rig.kinds(listener) == [rig.module.RECORD_JOINED]
    assert rig.module.RECORD_ENDED in [kind for kind, _, _, _ in rig.records]


def test_the_bytes_of_an_accepted_client_are_reported_after_the_client(rig: Rig) -> None:
    listener = rig.listen(tap=True)
    client = rig.connect()
    client.sendall(b"login")
    rig.hear()
    rig.confirm(0)
    rig.turn()
    records = [each for each in rig.records if each[0] != rig.module.RECORD_HISTOGRAM]
    assert [kind for kind, _, _, _ in records] == [rig.module.RECORD_JOINED, rig.module.RECORD_TAP]
    (_, _, (channel, *_), _), (_, of, (from_backend, *_), data) = records
    assert (of, from_backend, data) == (channel, 0, b"login")
    rig.engine.command(rig.module.COMMAND_UNTAP, channel, 0)
    rig.say(bytes([DATA]) + numbers(0, 2) + b"ok")
    assert client.recv(100) == b"ok"
    assert rig.kinds(channel) == [rig.module.RECORD_TAP]
    assert rig.engine.inspect(listener) == {"pending": 0}


def test_clients_outside_the_networks_are_returned(rig: Rig) -> None:
    listener = rig.listen(networks=("::1/128", "127.8.0.0/15", "127.0.0.2/31"))
    outside = rig.connect("127.7.255.255")
    assert rig.kinds(listener) == [rig.module.RECORD_RETURNED]
    assert [arguments[2] for _, _, arguments, _ in rig.records] == [0]
    with rig.returned(listener) as inner:
        assert inner.getpeername() == outside.getsockname()
    for inside in ("127.9.1.1", "127.0.0.3"):
        rig.connect(inside)
    assert [payload[0] for payload in rig.hear()] == [OPEN, OPEN]
    assert rig.engine.gauge(listener)[0] == 3


def test_a_listener_stops_when_no_more_clients_are_permitted(rig: Rig) -> None:
    listener = rig.listen(permits=1)
    rig.connect()
    assert not rig.records
    rig.engine.command(rig.module.COMMAND_PERMIT, listener, 1)
    rig.connect()
    assert not rig.records
    third = rig.connect()
    assert not rig.records  # the listener stops only if COMMAND_PERMIT does not arrive within 20 ms
    rig.until(lambda: rig.kinds(listener))
    assert rig.kinds(listener) == [rig.module.RECORD_STOPPED]
    assert len(rig.hear()) == 2
    with rig.listening.accept()[0] as inner:  # the native engine has not accepted the third client
        assert inner.getpeername() == third.getsockname()
    assert rig.engine.inspect(listener) == {"pending": 2}
    for number in (0, 1):
        rig.confirm(number)
    assert rig.kinds(listener) == [rig.module.RECORD_STOPPED, *[rig.module.RECORD_JOINED] * 2]
    assert rig.engine.inspect(listener) is None


def test_a_listener_without_permits_waits_for_one(new_rig: Callable[[], Rig]) -> None:
    # The listener stops after a wait of 20 ms, and reports a client after 50 ms. On a slow machine, try again.
    for _ in range(50):
        rig = new_rig()
        listener = rig.listen(permits=1)
        rig.connect()
        waiting = rig.connect()
        accepted = [rig.engine.gauge(listener)[0]]
        rig.engine.command(rig.module.COMMAND_PERMIT, listener, 1)
        rig.turn()
        accepted.append(rig.engine.gauge(listener)[0])
        rig.connect()
        early = list(rig.records)
        rig.confirm(0)
        rig.confirm(1)
        waiting.close()
        rig.turn()
        rig.say(bytes([CLOSE]) + numbers(1))
        rig.turn()
        rig.turn()
        # The listener has accepted the third client with the permit of the closed client.
        accepted.append(rig.engine.gauge(listener)[0])
        if not rig.kinds(listener):
            break
    assert (accepted, early, rig.kinds(listener)) == ([1, 2, 2], [], [])


def test_a_withdrawn_listener_joins_the_clients_that_it_has_accepted(rig: Rig) -> None:
    listener = rig.listen()
    rig.connect()
    rig.engine.command(rig.module.COMMAND_UNLISTEN, listener, 0)
    late = rig.connect()
    assert rig.kinds(listener) == [rig.module.RECORD_STOPPED]
    with rig.listening.accept()[0] as inner:
        assert inner.getpeername() == late.getsockname()
    assert len(rig.hear()) == 1
    rig.confirm(0)
    assert rig.kinds(listener)[1:] == [rig.module.RECORD_JOINED]
    assert rig.engine.inspect(listener) is None


@pytest.mark.parametrize("cause", ["refused", "lost"])
def test_a_client_whose_channel_does_not_open_is_returned(rig: Rig, cause: str) -> None:
    listener = rig.listen()
    client = rig.connect()
    client.sendall(b"early")
    assert len(rig.hear()) == 1
    if cause == "refused":
        rig.say(bytes([REFUSAL]) + numbers(0, 2, 2) + b"no" + numbers(0))
    else:
        rig.peer.close()
        rig.turn()
        assert rig.records[-1][:2] == (rig.module.RECORD_LOST, rig.connection)
    assert rig.kinds(listener) == [rig.module.RECORD_STOPPED, rig.module.RECORD_RETURNED]
    ((_, _, abandoned, _),) = (
        arguments for kind, _, arguments, _ in rig.records if kind == rig.module.RECORD_RETURNED
    )
    assert abandoned == (cause == "lost")
    assert rig.returned(listener).recv(100) == b"early"
    assert rig.engine.inspect(listener) is None


@pytest.mark.parametrize("of", ["connection", "listener"])
def test_recalled_clients_are_returned_and_their_channels_closed(rig: Rig, of: str) -> None:
    listener = rig.listen()
    rig.connect()
    rig.engine.command(rig.module.COMMAND_RECALL, rig.connection if of == "connection" else listener, 0)
    rig.turn()
    assert rig.kinds(listener) == [rig.module.RECORD_RETURNED]
    assert [arguments[2] for _, _, arguments, _ in rig.records] == [1]  # the SSH server can still confirm the channel
    assert rig.returned(listener).fileno() >= 0
    assert len(rig.hear()) == 1
    rig.confirm(0)
    assert rig.hear() == [bytes([CLOSE]) + numbers(1000)]
    assert rig.engine.inspect(listener) == {"pending": 0}
    assert len(rig.records) == 1


def test_a_listener_stops_if_a_channel_opens_slowly(rig: Rig) -> None:
    listener = rig.listen()
    rig.connect()
    rig.confirm(0)
    time.sleep(0.41)
    rig.connect()
    rig.turn()
    assert rig.kinds(listener) == [rig.module.RECORD_JOINED]
    time.sleep(0.41)
    rig.turn()
    assert rig.kinds(listener) == [rig.module.RECORD_JOINED, rig.module.RECORD_STOPPED]


def test_clients_share_the_connections_and_few_channels_open_at_the_same_time(new_rig: Callable[[], Rig]) -> None:
    for _ in range(20):  # the listener stops if a channel does not open within 0.4 s: try again
        rig = new_rig()
        near, far = socket.socketpair()
        rig.clients.append(far)
        second, key = rig.engine.token(), (CIPHER, KEY, IV, 0)
        rig.engine.connection(second, near.detach(), key, key, 1 << 18, True, 1 << 40, 0, 1 << 25, 1 << 18)
        listener = rig.listen(rig.connection, second)
        for _ in range(66):
            rig.connect()
        opened = len(rig.hear())
        rig.confirm(0)
        rig.turn()
        if rig.module.RECORD_STOPPED not in rig.kinds(listener):
            break
    assert (opened, len(rig.hear())) == (32, 1)
    windows = [int.from_bytes(payload[21:25], "big") for payload in unsealed(far)]
    assert windows == [1 << 18] * 32  # this SSH connection permits no larger windows (`growth_bytes` is 0)


def test_a_listener_counts_the_periods_in_which_most_channels_meet_full_connections(
    new_rig: Callable[[], Rig],
) -> None:
    def connect(rig: Rig, number: int) -> None:
        rig.connect()
        rig.confirm(number)

    for _ in range(10):  # the listener does not count a period of two seconds or more: try again
        rig = new_rig()
        listener = rig.listen(full_load=2)
        for number, pause in enumerate((0, 0, 0, 0, 1.05, 0)):
            connect(rig, number)
            time.sleep(pause)
        if rig.engine.gauge(listener)[1]:
            break
    before = rig.engine.gauge(listener)[1]
    assert before > 0
    time.sleep(2.1)
    connect(rig, 6)  # a period of two seconds or more is not counted
    time.sleep(1.1)
    connect(rig, 7)  # a period in which only one channel opens is not counted
    assert rig.module.RECORD_STOPPED not in rig.kinds(listener)
    assert rig.engine.gauge(listener)[1] == before


def unsealed(peer: socket.socket) -> list[bytes]:
    """Decrypt the packets that `peer` has received since the start of the connection. Return their payloads."""
    received, payloads, sealer = peer.recv(1 << 20), [], Sealer()
    while received:
        size = 20 + int.from_bytes(received[:4], "big")
        payloads.append(sealer.unseal(received[:size]))
        received = received[size:]
    return payloads


def test_a_listener_stops_without_descriptors_or_connections(rig: Rig) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    listener = rig.listen()
    waiting = socket.create_connection(rig.listening.getsockname(), timeout=10)
    rig.clients.append(waiting)
    unused = os.dup(0)
    os.close(unused)
    resource.setrlimit(resource.RLIMIT_NOFILE, (unused, limits[1]))
    try:
        rig.turn()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert rig.kinds(listener) == [rig.module.RECORD_STOPPED]
    with rig.listening.accept()[0] as inner:
        assert inner.getpeername() == waiting.getsockname()
    rig.peer.close()
    rig.turn()
    without = rig.listen()
    rig.connect()
    assert rig.kinds(without) == [rig.module.RECORD_STOPPED, rig.module.RECORD_RETURNED]
    assert rig.returned(without).fileno() >= 0


def test_closing_the_native_engine_resets_waiting_clients_and_stops_listening(rig: Rig) -> None:
    rig.listen()
    client, address = rig.connect(), rig.listening.getsockname()
    rig.listening.close()
    rig.engine.close()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=10)


def test_the_thread_accepts_every_client_until_the_rule_is_withdrawn(rig: Rig) -> None:
    listener, module = rig.listen(), rig.module
    rig.engine.start()
    connected, here, deadline = 0, 0, time.monotonic() + 20
    address = rig.listening.getsockname()
    while len(rig.kinds(listener)) + here < 61:  # 60 clients and one RECORD_STOPPED
        assert time.monotonic() < deadline
        if connected < 60:
            rig.clients.append(socket.create_connection(address, timeout=10))
            connected += 1
        if connected == 30:
            rig.engine.command(module.COMMAND_UNLISTEN, listener, 0)
        for payload in rig.hear():
            number = int.from_bytes(payload[17:21], "big")
            rig.peer.sendall(rig._theirs.seal(bytes([CONFIRMATION]) + numbers(number, number, 1 << 21, PACKET)))
        rig.records += rig.engine.take()
        if connected >= 30:
            with contextlib.suppress(BlockingIOError):
                rig.clients.append(rig.listening.accept()[0])
                here += 1
    assert here >= 30
    assert rig.kinds(listener).count(module.RECORD_STOPPED) == 1
    assert rig.engine.inspect(listener) is None


def thread_ids() -> set[int]:
    return {int(each.name) for each in Path("/proc/self/task").iterdir()}


@pytest.fixture(scope="module")
def arriving_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_data_plane()
    library = tmp_path_factory.mktemp("library") / "arriving_data.so"
    source = REPOSITORY / "tests" / "support" / "arriving_data.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True, timeout=60)
    return library


@pytest.mark.parametrize(("fin", "answer"), [(0, 1), (1, 0)], ids=["a byte arrives", "a FIN arrives"])
def test_an_arrival_while_the_counters_of_a_socket_are_read_is_not_a_reset(
    arriving_library: Path, fin: int, answer: int
) -> None:
    preloaded = " ".join([os.environ.get("LD_PRELOAD", ""), str(arriving_library)]).strip()
    done = subprocess.run(
        [sys.executable, "-m", arriving_data.__name__, str(arriving_library), str(fin)],
        env={**os.environ, "LD_PRELOAD": preloaded}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.split() == ["finished", str(arriving_data.SIZE), str(answer), "1"]
