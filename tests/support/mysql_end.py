"""Implements a MySQL server whose packets are controlled by a test. The test can simulate a malicious server."""

import hashlib
import os
import socket
import ssl
import struct
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

SALT = b"abcdefghijklmnopqrst"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PEM = KEY.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)  # fmt: skip
OK = b"\0\0\0\2\0\0\0"
DENIED = b"\xff" + (1045).to_bytes(2, "little") + b"#28000Access denied"
_PLUGIN_AUTH, _SECURE, _PROTOCOL_41, _SSL = 0x80000, 0x8000, 0x200, 0x800
_LONG, _EOF = 0xFD, b"\xfe\0\0\2\0"


@dataclass
class MysqlEnd:
    """One end of a MySQL connection, usually the server's end.

    Args:
        sock: A socket that is connected to the other end.
        heard: The list to which this class appends the payload of each received packet, after TLS decryption.
    """

    sock: socket.socket
    heard: list[bytes] = field(default_factory=list)
    _sequence: int = 0

    def greet(self, plugin: str, context: ssl.SSLContext | None = None) -> bytes:
        """Send a greeting with `plugin` as the default authentication plugin, and return the client's login packet.

        If `context` is given, start TLS before the login packet.
        """
        able = _PLUGIN_AUTH | _SECURE | _PROTOCOL_41 | (_SSL if context else 0)
        fixed = struct.pack("<HBHHB", able & 0xFFFF, 45, 2, able >> 16, len(SALT) + 1)
        self.send(
            b"\x0a8.4.0-script\0" + bytes(4) + SALT[:8] + b"\0" + fixed + bytes(10) + SALT[8:] + b"\0"
            + plugin.encode() + b"\0"
        )  # fmt: skip
        if context is not None:
            self.receive()
            self.sock = context.wrap_socket(self.sock, server_side=True)
        return self.receive()

    def switch(self, plugin: str, data: bytes = SALT + b"\0") -> bytes:
        """Request that the client uses another authentication plugin, and return the client's response."""
        return self.ask(b"\xfe" + plugin.encode() + b"\0" + data)

    def ask(self, payload: bytes) -> bytes:
        self.send(payload)
        return self.receive()

    def send(self, payload: bytes) -> None:
        self.sock.sendall(len(payload).to_bytes(3, "little") + bytes([self._sequence % 256]) + payload)
        self._sequence += 1

    def receive(self) -> bytes:
        header = self._exactly(4)
        self._sequence = header[3] + 1
        payload = self._exactly(int.from_bytes(header[:3], "little"))
        self.heard.append(payload)
        return payload

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self.sock.recv(count - len(data))
            if not piece:
                raise ConnectionResetError
            data += piece
        return data

    def serve(self, lag: str | None = None) -> None:
        """Answer the queries of the gateway's check until the client quits.

        Args:
            lag: The lag in seconds that the server reports as a replica. None means that the server is a primary.
        """
        self.send(OK)
        while (asked := self.receive())[:1] == b"\3":
            if asked.startswith(b"\3SELECT"):
                row = {"read_only": "0", "server_id": "7", "version": "8.4.0", "max_connect_errors": "100",
                       "account": "u@%"}  # fmt: skip
                self.columns(*row)
                self.send(b"".join(_text(value.encode()) for value in row.values()))
                self.send(_EOF)
            elif asked.startswith(b"\3SHOW"):
                self.columns("Seconds_Behind_Source")
                if lag is not None:
                    self.send(_text(lag.encode()))
                self.send(_EOF)
            else:
                self.send(OK)

    def columns(self, *names: str) -> None:
        """Send the start of a result set, which defines text columns with these names."""
        self.send(bytes([len(names)]))
        for name in names:
            parts = (b"def", b"", b"", b"", name.encode(), name.encode())
            fixed = struct.pack("<BHIBHBxx", 12, 45, 255, _LONG, 0, 0)
            self.send(b"".join(map(_text, parts)) + fixed)
        self.send(_EOF)


def _text(value: bytes) -> bytes:
    return bytes([len(value)]) + value


def revealed(heard: list[bytes], password: str) -> bool:
    """Return whether a packet contains the password, in cleartext or encrypted with `KEY`."""
    secret = password.encode()
    return any(secret in each or secret in _decrypted(each) for each in heard)


def _decrypted(packet: bytes) -> bytes:
    if len(packet) != KEY.key_size // 8:
        return b""
    try:
        masked = KEY.decrypt(packet, padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None))  # noqa: S303
    except ValueError:
        return b""
    return bytes(byte ^ SALT[at % len(SALT)] for at, byte in enumerate(masked))


def fast_proof(password: str) -> bytes:
    """Return the hash with which a client proves to `caching_sha2_password` that it knows the password."""
    first = hashlib.sha256(password.encode()).digest()
    second = hashlib.sha256(hashlib.sha256(first).digest() + SALT).digest()
    return bytes(one ^ other for one, other in zip(first, second, strict=True))


def random_password() -> str:
    """Return a random string, which tests use as a password."""
    return os.urandom(8).hex()
