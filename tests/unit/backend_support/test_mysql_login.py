"""Tests a login to MySQL with every short sequence of packets that a hostile server can send."""

import contextlib
import itertools
import socket
import struct
import threading

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from pymysql.err import MySQLError

from gateway.backend_support.mysql_login import RestrictedMysqlConnection
from gateway.contracts.phase_timer import PhaseTimer
from gateway.errors import TargetPathError

PASSWORD = "correct horse battery"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PEM = KEY.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)  # fmt: skip
SALT = b"abcdefghijklmnopqrst"
OK = b"\0\0\0\2\0\0\0"
SWITCHES = tuple(
    b"\xfe" + plugin + b"\0" + SALT + b"\0"
    for plugin in (b"mysql_native_password", b"caching_sha2_password", b"sha256_password", b"mysql_clear_password")
)
FAST = b"\1\3"
WORDS = (*SWITCHES, b"\xfedialog\0\2Password: ", b"\xfe" + SALT + b"\0", FAST, b"\1\4", b"\1" + PEM, OK)
ASKS_FOR_KEY = (b"\1", b"\2")


def served(end: socket.socket, plugin: bytes, words: tuple[bytes, ...], heard: list[bytes]) -> None:
    """Run a server. Send a greeting and the packets `words`, and send the public key if the client requests it."""
    able = 0x88200
    fixed = struct.pack("<HBHHB", able & 0xFFFF, 45, 2, able >> 16, len(SALT) + 1)
    greeting = b"\x0a8.4.0\0" + bytes(4) + SALT[:8] + b"\0" + fixed + bytes(10) + SALT[8:] + b"\0" + plugin + b"\0"
    sequence = 0
    said = iter((greeting, *words))
    with end, end.makefile("rb") as stream, contextlib.suppress(OSError):
        word: bytes | None = next(said)
        while word is not None:
            end.sendall(len(word).to_bytes(3, "little") + bytes([sequence % 256]) + word)
            if word in (FAST, OK):  # The client does not respond to FAST and OK.
                sequence += 1
                word = next(said, None)
                continue
            header = stream.read(4)
            if len(header) < 4:
                return
            sequence = header[3] + 1
            heard.append(stream.read(int.from_bytes(header[:3], "little")))
            word = b"\1" + PEM if heard[-1] in ASKS_FOR_KEY else next(said, None)


def takes(plugin: bytes, words: tuple[bytes, ...]) -> bool:
    """Return whether a server that sends these packets gets the password."""
    ours, theirs = socket.socketpair()
    heard: list[bytes] = []
    server = threading.Thread(target=served, args=(theirs, plugin, words, heard), daemon=True)
    server.start()
    login = RestrictedMysqlConnection(
        PhaseTimer(), verified=False, server_public_key=None, host="h", user="u", password=PASSWORD,
        defer_connect=True, ssl_disabled=True, read_timeout=1,
    )  # fmt: skip
    with (
        ours,
        contextlib.suppress(MySQLError, TargetPathError, OSError, ValueError, LookupError, TypeError, RuntimeError),
    ):
        login.connect(ours)
    login._force_close()  # type: ignore[attr-defined]
    server.join(10)
    assert not server.is_alive()
    return any(PASSWORD.encode() in each or decrypts(each) for each in heard)


def decrypts(packet: bytes) -> bool:
    if len(packet) != KEY.key_size // 8:
        return False
    try:
        KEY.decrypt(packet, padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None))  # noqa: S303
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("plugin", [b"mysql_native_password", b"caching_sha2_password", b"sha256_password"])
def test_no_exchange_of_three_packets_reveals_the_password(plugin: bytes) -> None:
    taken = [words for words in itertools.product(WORDS, repeat=3) if takes(plugin, words)]
    assert not taken
