"""Tests whether the tap of PostgreSQL logins finds the cancel key, and whether the tap ends at invalid data."""

import itertools
import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.backend_support.postgres_cancel_protocol import PostgresCancelKeyTap, PostgresCancelProtocol
from gateway.query_cancel_parser import CancelRequest, ClientMessageKind, EncryptionRequest

SSL, GSS = struct.pack("!II", 8, 80877103), struct.pack("!II", 8, 80877104)


def message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack("!I", 4 + len(body)) + body


def startup(protocol: int = 3 << 16, parameters: bytes = b"user\0app\0replication\0database\0\0") -> bytes:
    return struct.pack("!II", 8 + len(parameters), protocol) + parameters


def cancel(pid: int, key: bytes) -> bytes:
    return struct.pack("!III", 12 + len(key), 80877102, pid) + key


READY = message(b"Z", b"I")
PASSWORD = message(b"p", b"SCRAM-SHA-256\0" + struct.pack("!II", 8, 80877102))  # The tap does not parse passwords.
KEYS = st.binary(min_size=4, max_size=4) | st.binary(min_size=5, max_size=256)
BEFORE = st.lists(
    st.sampled_from([
        message(b"R", struct.pack("!I", 10) + b"SCRAM-SHA-256\0\0"),
        message(b"R", struct.pack("!I", 0)),
        message(b"S", b"server_version\0" + b"17.0\0"),
        message(b"S", b"K\0" + b"Z" * 5000 + b"\0"),
        message(b"v", struct.pack("!II", 3 << 16, 0)),
        message(b"N", b"SWARNING\0\0"),
    ]),
    max_size=12,
)  # fmt: skip


def feed(tap: PostgresCancelKeyTap, forth: bytes, back: bytes, cuts: list[int]) -> None:
    """Pass the client's bytes and then the server's bytes to the tap. Divide both at the offsets in `cuts`."""
    for stream, show in ((forth, tap.on_request), (back, tap.on_response)):
        places = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
        for start, end in itertools.pairwise(places):
            if not tap.finished:
                show(memoryview(stream)[start:end], 0.0)


@given(
    st.lists(st.sampled_from([SSL, GSS]), max_size=2),
    st.sampled_from([3 << 16, (3 << 16) + 2]),
    BEFORE,
    st.integers(0, 2**32 - 1),
    KEYS,
    st.lists(st.integers(0, 600), max_size=40),
    st.booleans(),
)
def test_the_key_is_found_wherever_the_bytes_are_split(
    questions: list[bytes], protocol: int, before: list[bytes], pid: int, key: bytes, cuts: list[int], bytewise: bool
) -> None:
    tap = PostgresCancelProtocol().cancel_key_tap()
    forth = b"".join(questions) + startup(protocol) + PASSWORD
    back = b"N" * len(questions) + b"".join(before) + message(b"K", struct.pack("!I", pid) + key) + READY
    feed(tap, forth, back, list(range(len(back))) if bytewise else cuts)
    assert tap.finished
    assert not tap.key_hidden
    assert tap.matches(CancelRequest(cancel(pid, key)))
    assert not tap.matches(CancelRequest(cancel(pid ^ 1, key)))
    assert not tap.matches(CancelRequest(cancel(pid, key[:-1] + bytes([key[-1] ^ 1]))))
    assert not tap.matches(CancelRequest(cancel(pid, key + b"x")))


@pytest.mark.parametrize("question", [SSL, GSS])
@pytest.mark.parametrize("answer", [b"S", b"G", b"E", b"\0"])
def test_the_tap_ends_when_the_server_accepts_encryption(question: bytes, answer: bytes) -> None:
    tap = PostgresCancelKeyTap()
    tap.on_request(memoryview(question), 0.0)
    tap.on_response(memoryview(answer), 0.0)
    assert tap.finished
    assert tap.key_hidden


def test_the_tap_ends_after_a_login_without_a_key() -> None:
    for last in (READY, message(b"E", b"SFATAL\0C28P01\0\0")):
        tap = PostgresCancelKeyTap()
        feed(tap, startup(), message(b"R", struct.pack("!I", 0)) + last + message(b"K", bytes(8)), [3, 9])
        assert tap.finished
        assert not tap.key_hidden
        assert not tap.matches(CancelRequest(cancel(0, bytes(4))))


def test_a_cancel_request_is_not_a_session() -> None:
    tap = PostgresCancelKeyTap()
    tap.on_request(memoryview(SSL), 0.0)
    tap.on_response(memoryview(b"N"), 0.0)
    tap.on_request(memoryview(cancel(7, b"abcd")), 0.0)
    assert tap.finished
    assert not tap.key_hidden


@pytest.mark.parametrize(
    ("forth", "back"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b""),  # The client sends a TLS ClientHello without an SSLRequest.
        (b"", message(b"K", bytes(8))),  # The server sends data before the client.
        (startup(2 << 16), b""),
        (struct.pack("!II", 9, 80877103), b""),
        (startup(), message(b"K", bytes(7))),
        (startup(), message(b"K", bytes(4 + 257))),
        (startup(), b"K" + struct.pack("!I", 2**32 - 1)),
        (startup(), b"R" + struct.pack("!I", 3)),
        (startup(), message(b"D", b"a row")),
        (startup(), message(b"N", bytes(1 << 20))),
    ],
)
def test_the_tap_ends_at_invalid_data(forth: bytes, back: bytes) -> None:
    tap = PostgresCancelKeyTap()
    feed(tap, forth, back, [1, 2, 3])
    assert tap.finished
    assert tap.key_hidden
    assert not tap.matches(CancelRequest(cancel(0, bytes(4))))


@given(st.binary(max_size=600), st.binary(max_size=600), st.lists(st.integers(0, 600), max_size=20))
def test_the_tap_never_raises(forth: bytes, back: bytes, cuts: list[int]) -> None:
    feed(PostgresCancelKeyTap(), forth, back, cuts)
    feed(PostgresCancelKeyTap(), startup() + forth, back, cuts)
    feed(PostgresCancelKeyTap(), SSL + startup() + forth, b"N" + back, cuts)
    if forth:
        PostgresCancelProtocol().classify(forth)


def test_a_stream_without_a_key_uses_no_memory() -> None:
    tap = PostgresCancelKeyTap()
    tap.on_request(memoryview(startup()), 0.0)
    piece = memoryview(message(b"S", bytes(60_000)) * 2)
    tap.on_response(piece, 0.0)
    tracemalloc.start()
    for _ in range(5):
        tap.on_response(piece, 0.0)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not tap.finished
    assert grown < 10_000
    for _ in range(4):
        tap.on_response(piece, 0.0)
    assert tap.finished


# Tests of the classification of a connection by its first bytes.


@given(st.integers(0, 2**32 - 1), KEYS, st.binary(max_size=20))
def test_a_cancel_request_is_reported_when_it_is_complete(pid: int, key: bytes, more: bytes) -> None:
    cancels = PostgresCancelProtocol()
    whole = cancel(pid, key)
    for cut in range(1, len(whole)):
        assert cancels.classify(whole[:cut]) is ClientMessageKind.INCOMPLETE
    assert cancels.classify(whole + more) == CancelRequest(whole)
    assert len(whole) <= cancels.max_bytes


def test_the_first_bytes_of_other_connections_are_classified() -> None:
    read = PostgresCancelProtocol().classify
    assert read(SSL) == EncryptionRequest(SSL, b"N")
    assert read(GSS) == EncryptionRequest(GSS, b"N")
    for cut in range(1, 8):
        assert read(SSL[:cut]) is ClientMessageKind.INCOMPLETE
    for first in (
        startup(),
        cancel(1, b"abc"),
        cancel(1, bytes(257)),
        b"\x16",
        b"GET / HTTP/1.1\r\n",
        SSL[:3] + b"\x09" + SSL[4:],
    ):
        assert read(first) is ClientMessageKind.SESSION, first


def test_a_request_does_not_print_its_key() -> None:
    key = b"\xdeKEY"
    reported = f"{CancelRequest(cancel(1, key))!r} {CancelRequest(cancel(1, key))}"
    assert "KEY" not in reported
    tap = PostgresCancelKeyTap()
    feed(tap, startup(), message(b"K", bytes(4) + key), [])
    assert tap.matches(CancelRequest(cancel(0, key)))
    assert "KEY" not in f"{tap!r} {tap}"
