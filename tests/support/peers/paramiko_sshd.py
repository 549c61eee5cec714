"""Runs a paramiko server that forwards TCP connections.

Usage: `paramiko_sshd.py FOLDER PORT REKEY_BYTES`. If REKEY_BYTES is 0, paramiko uses its default.
"""

import contextlib
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import paramiko  # type: ignore[import-untyped,import-not-found,unused-ignore]

PIECE = 1 << 16


class Server(paramiko.ServerInterface):  # type: ignore[misc,unused-ignore]
    """An SSH server that accepts one key, and connects to the destination of each channel request."""

    def __init__(self, allowed: bytes) -> None:
        self.allowed = allowed
        self.backends: dict[int, socket.socket] = {}

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: Any) -> int:
        return int(paramiko.AUTH_SUCCESSFUL if key.asbytes() == self.allowed else paramiko.AUTH_FAILED)

    def check_channel_direct_tcpip_request(
        self, chanid: int, origin: tuple[str, int], destination: tuple[str, int]
    ) -> int:
        try:
            self.backends[chanid] = socket.create_connection(destination, timeout=10)
        except OSError:
            return int(paramiko.OPEN_FAILED_CONNECT_FAILED)
        self.backends[chanid].settimeout(None)
        return int(paramiko.OPEN_SUCCEEDED)


def forward(channel: Any, backend: socket.socket) -> None:
    """Forward data in both directions. If one direction closes, the other direction stays open."""

    def to_backend() -> None:
        with contextlib.suppress(OSError):
            while data := channel.recv(PIECE):
                backend.sendall(data)
            backend.shutdown(socket.SHUT_WR)

    up = threading.Thread(target=to_backend, daemon=True)
    up.start()
    with contextlib.suppress(OSError):
        while data := backend.recv(PIECE):
            channel.sendall(data)
        channel.shutdown_write()
    up.join()
    channel.close()
    backend.close()


def serve(client: socket.socket, host_key: Any, allowed: bytes) -> None:
    transport = paramiko.Transport(client)
    transport.add_server_key(host_key)
    server = Server(allowed)
    transport.start_server(server=server)
    while transport.is_active():
        channel = transport.accept(1)
        if channel is not None:
            backend = server.backends.pop(channel.get_id())
            threading.Thread(target=forward, args=(channel, backend), daemon=True).start()


def main(folder: Path, port: int, rekey_bytes: int) -> None:
    if rekey_bytes:
        paramiko.packet.Packetizer.REKEY_BYTES = rekey_bytes
    host_key = paramiko.Ed25519Key.from_private_key_file(str(folder / "host_key"))
    allowed = paramiko.Ed25519Key.from_private_key_file(str(folder / "client_key")).asbytes()
    with socket.create_server(("127.0.0.1", port), backlog=64) as listener:
        while True:
            client, _ = listener.accept()
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=serve, args=(client, host_key, allowed), daemon=True).start()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
