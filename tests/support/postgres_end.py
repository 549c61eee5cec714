"""Implements a PostgreSQL server whose messages are controlled by a test.

The server can start a SCRAM login, but cannot complete the login.
"""

import base64
import socket
import struct


def exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = sock.recv(count - len(data))
        if not piece:
            raise ConnectionResetError
        data += piece
    return data


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def greet(sock: socket.socket) -> None:
    """Read the startup packet of a client, without TLS."""
    (length,) = struct.unpack("!I", exactly(sock, 4))
    exactly(sock, length - 4)


def ask_for_iterations(sock: socket.socket, count: int) -> None:
    """Read the startup packet, and request a SCRAM login with `count` iterations of the password hash."""
    greet(sock)
    sock.sendall(message(b"R", struct.pack("!I", 10) + b"SCRAM-SHA-256\0\0"))
    _, length = struct.unpack("!cI", exactly(sock, 5))
    nonce = exactly(sock, length - 4).partition(b",r=")[2]
    salt = base64.b64encode(b"saltsalt")
    sock.sendall(message(b"R", struct.pack("!I", 11) + b"r=" + nonce + b"more,s=" + salt + b",i=%d" % count))


def serve(sock: socket.socket, *row: str | None) -> None:
    """Accept the client without a password, and answer its query with one row."""
    greet(sock)
    ready = message(b"Z", b"I")
    sock.sendall(message(b"R", bytes(4)) + ready)
    _, length = struct.unpack("!cI", exactly(sock, 5))
    exactly(sock, length - 4)
    fields = b"".join(b"c%d\0" % at + struct.pack("!IhIhih", 0, 0, 25, -1, -1, 0) for at in range(len(row)))
    values = b"".join(
        struct.pack("!i", -1) if each is None else struct.pack("!i", len(each)) + each.encode() for each in row
    )
    count = struct.pack("!h", len(row))
    sock.sendall(message(b"T", count + fields) + message(b"D", count + values) + message(b"C", b"SELECT 1\0") + ready)
