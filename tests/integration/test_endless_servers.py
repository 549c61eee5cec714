"""Tests whether a check uses limited memory and time, even if a server sends endless data or one byte at a time."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.backends import EmptyOptions
from gateway.backends.smb import SmbBackend, SmbOptions
from gateway.contracts.backend import Backend
from gateway.contracts.states import HealthState
from gateway.errors import FailureReason
from tests.support.mysql_end import MysqlEnd
from tests.support.probes import DEADLINE, KINDS, probe
from tests.support.servers import dripping, serving

pytestmark = pytest.mark.integration

MOST = 32 << 20
"""The limit for the growth of the process's resident memory during one check, in bytes."""
BLOCK = bytes(64 * 1024)
BACKENDS: dict[str, Backend] = {**KINDS, "smb": SmbBackend(SmbOptions(share="media"), EmptyOptions())}


def _status(key: str) -> int:
    line = next(each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith(key))
    return int(line.split()[1]) * 1024


@contextlib.contextmanager
def within(most: int) -> Iterator[None]:
    """Check that the resident memory of this process grows by less than `most` bytes inside the `with` block."""
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # reset VmHWM, the peak, to the present value (proc(5))
    yield
    grown = _status("VmHWM") - before
    assert grown < most, f"the peak grew by {grown >> 20} MiB"


Script = Callable[[socket.socket], None]


def forever(make: Callable[[int], bytes]) -> Script:
    """Return a function that calls `make` with 0, 1, 2 and so on, and sends each result to a client."""

    def send(client: socket.socket) -> None:
        number = 0
        while True:
            client.sendall(make(number))
            number += 1

    return send


def then(first: Callable[[socket.socket], None], script: Script) -> Script:
    """Return a function that calls `first` and then `script` with the socket of a client."""

    def both(client: socket.socket) -> None:
        first(client)
        script(client)

    return both


# A MySQL client joins a packet of maximum length with the next packet (Reference Manual, "MySQL Packets").


def joined_packets(client: socket.socket) -> None:
    sequence = 0
    while True:
        client.sendall(b"\xff\xff\xff" + bytes([sequence % 256]))
        for _ in range(256):
            client.sendall(BLOCK[: 65535 if _ == 255 else 65536])
        sequence += 1


def after_login(more: Callable[[MysqlEnd], None]) -> Script:
    def serve(client: socket.socket) -> None:
        end = MysqlEnd(client)
        end.greet("mysql_native_password")
        end.send(b"\0\0\0\2\0\0\0")
        while not end.receive().startswith(b"\3SELECT"):
            end.send(b"\0\0\0\2\0\0\0")
        more(end)

    return serve


def empty_rows(end: MysqlEnd) -> None:
    """Send endless rows. All columns of each row are NULL."""
    names = [f"c{number}" for number in range(240)]
    end.columns(*names)
    while True:
        end.send(b"\xfb" * len(names))


def long_row(end: MysqlEnd) -> None:
    end.columns("a")
    while True:
        end.sock.sendall(b"\xff\xff\xff" + bytes([end._sequence % 256]) + bytes((1 << 24) - 1))
        end._sequence += 1


def columns(end: MysqlEnd) -> None:
    end.send(b"\xfd\xff\xff\xff")
    while True:
        end.send(b"\3def\0\0\0\1a\1a" + struct.pack("<BHIBHBxx", 12, 45, 255, 0xFD, 0, 0))


# The PostgreSQL manual defines the messages under "Message Formats".


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", 4 + len(body)) + body


def logged_in(client: socket.socket) -> None:
    client.recv(4096)
    client.sendall(message(b"R", bytes(4)))


def queried(client: socket.socket) -> None:
    logged_in(client)
    client.sendall(message(b"Z", b"I"))
    client.recv(4096)
    client.sendall(message(b"T", struct.pack("!H", 1) + b"a\0" + struct.pack("!IHIHIH", 0, 0, 25, 0xFFFF, 0, 0)))


def huge(client: socket.socket) -> None:
    """Send a DataRow message whose length is one gigabyte."""
    client.sendall(b"D" + struct.pack("!I", (1 << 30) - 1))
    forever(lambda _: BLOCK)(client)


def fragments(client: socket.socket) -> None:
    """Send an endless RPC record: no fragment is marked as the last one (RFC 5531, section 11)."""
    client.recv(4096)
    forever(lambda _: struct.pack("!I", len(BLOCK)) + BLOCK)(client)


def attributes(client: socket.socket) -> None:
    """Send an NFS reply that contains a bitmap of eight million attributes."""
    head = struct.pack("!IIIIII", 1, 0, 0, 0, 0, 0)
    client.settimeout(5)
    while call := client.recv(65536):
        xid = call[4:8]
        if call[24:28] == bytes(4):  # the NULL procedure
            client.sendall(struct.pack("!I", 0x80000000 + 24) + xid + head[:20])
            continue
        walk = struct.pack("!II", 24, 0) + struct.pack("!II", 15, 0)
        found = struct.pack("!IIII", 3, 0, 3, 3) + struct.pack("!III", 10, 0, 4) + bytes(4) + struct.pack("!II", 9, 0)
        count = 250_000
        body = xid + head[:20] + struct.pack("!III", 0, 0, 5) + walk + found + struct.pack("!I", count)
        body += b"\xff" * (4 * count) + bytes(8)
        client.sendall(struct.pack("!I", 0x80000000 + len(body)) + body)


def talk_http(client: socket.socket) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\n")


ENDLESS: list[tuple[str, Script]] = [
    ("mysql", joined_packets),
    ("mysql", after_login(empty_rows)),
    ("mysql", after_login(long_row)),
    ("mysql", after_login(columns)),
    ("postgres", then(logged_in, forever(lambda number: message(b"S", b"%d\0\0" % number)))),
    ("postgres", then(logged_in, forever(lambda _: message(b"N", b"S\0\0")))),
    ("postgres", then(queried, forever(lambda _: message(b"D", struct.pack("!HI", 1, 0))))),
    ("postgres", then(queried, huge)),
    ("nfs", fragments),
    ("nfs", attributes),
    ("redis", forever(lambda _: b"*1000\r\n")),
    ("http", then(talk_http, forever(lambda number: b"X-%d: y\r\n" % number))),
    ("http", then(talk_http, forever(lambda _: b"\r\n" + BLOCK))),
    *((kind, forever(lambda _: BLOCK)) for kind in ("mysql", "postgres", "nfs", "smb", "redis", "http", "tcp")),
]


@pytest.mark.parametrize(
    ("kind", "script"), ENDLESS, ids=[f"{kind}-{number}" for number, (kind, _) in enumerate(ENDLESS)]
)
async def test_endless_data_from_a_server_uses_little_memory_and_ends_with_the_check(
    kind: str, script: Script
) -> None:
    gone = threading.Event()

    def serve(client: socket.socket) -> None:
        try:
            script(client)
        finally:
            gone.set()

    with serving(serve) as port, within(MOST):
        result = await probe(BACKENDS[kind], port, timeout=5)
        assert gone.wait(10)  # the check has closed the connection to the server
    if kind != "tcp":  # a TCP check does not read the data
        assert (result.state, result.reason) in (
            (HealthState.DOWN, FailureReason.PROTOCOL),
            (HealthState.DOWN, FailureReason.RESET),
            (HealthState.DOWN, FailureReason.TIMEOUT),
        ), result.detail


@pytest.mark.parametrize(
    ("kind", "first"),
    [
        ("smb", b"\0\0\0\x80\xfeSMB"), ("mysql", b"\x4a\0\0\0\x0a8.0.30\0"), ("redis", b"*9\r\n$99\r\n"),
        ("http", b"HTTP/1.1 200 OK\r\n"), ("tcp", b""),
    ],
)  # fmt: skip
async def test_a_check_of_a_server_that_sends_single_bytes_ends_at_the_deadline(kind: str, first: bytes) -> None:
    with serving(dripping(first)) as port:
        started = time.monotonic()
        result = await probe(BACKENDS[kind], port, timeout=DEADLINE)
        assert (result.reason is FailureReason.TIMEOUT) == (kind != "tcp"), result.detail
        assert time.monotonic() - started < DEADLINE + 5
