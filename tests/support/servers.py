"""Runs Samba, and simple servers in threads. A simple server sends nothing, sends slowly, resets or echoes."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from gateway.demo.server_process import ServerProcess, find, free_port
from gateway.relay.sockets import reset

Behavior = Callable[[socket.socket], None]


@contextlib.contextmanager
def serving(behavior: Behavior, port: int = 0) -> Iterator[int]:
    """Run a TCP server on loopback with this behavior for every connection; yield its port (0: a free one)."""
    with socket.create_server(("127.0.0.1", port), backlog=1024) as server:
        stop = threading.Event()
        server.settimeout(0.05)

        def accept() -> None:
            while not stop.is_set():
                try:
                    client, _ = server.accept()
                except TimeoutError:
                    continue
                except OSError:
                    return
                threading.Thread(target=_treat, args=(behavior, client), daemon=True).start()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            stop.set()
            thread.join()


def _treat(behavior: Behavior, client: socket.socket) -> None:
    client.settimeout(30)
    with client, contextlib.suppress(OSError):
        behavior(client)


def silent(client: socket.socket) -> None:
    """Send nothing to the client, and keep the connection open."""
    while client.recv(65536):
        pass


def dripping(first: bytes) -> Behavior:
    """Send `first` and 1000 zero bytes, one byte every 0.1 seconds."""

    def drip(client: socket.socket) -> None:
        for byte in first + bytes(1000):
            client.sendall(bytes([byte]))
            time.sleep(0.1)

    return drip


def resetting(client: socket.socket) -> None:
    """Reset the connection after the first byte of the client, or after a short time without data."""
    client.settimeout(0.05)
    with contextlib.suppress(TimeoutError):
        client.recv(1)
    reset(client)


def talking(words: bytes, *, then_close: bool = False) -> Behavior:
    """Send fixed data; then either read until the client closes, or close the connection."""

    def talk(client: socket.socket) -> None:
        client.sendall(words)
        if not then_close:
            silent(client)

    return talk


def echoing(client: socket.socket) -> None:
    """Send all received data back; after a half-close by the client, half-close too."""
    while data := client.recv(65536):
        client.sendall(data)
    client.shutdown(socket.SHUT_WR)


class Samba:
    """A Samba server with the share `media`, which guests can read.

    Args:
        folder: The directory for the server's files.
    """

    def __init__(self, folder: Path) -> None:
        (folder / "share").mkdir(parents=True)
        (folder / "share" / "hello.txt").write_text("hello over SMB\n")
        self.port = free_port()
        (folder / "smb.conf").write_text(f"""
[global]
  smb ports = {self.port}
  interfaces = 127.0.0.1
  bind interfaces only = yes
  private dir = {folder}
  state directory = {folder}
  cache directory = {folder}
  lock directory = {folder}
  pid directory = {folder}
  ncalrpc dir = {folder}/rpc
  map to guest = Bad User
  guest account = root
  disable netbios = yes
  load printers = no
  log file = {folder}/log
[media]
  path = {folder}/share
  guest ok = yes
  read only = no
""")
        command = [find("smbd") or "smbd", "--foreground", "--no-process-group", "-s", str(folder / "smb.conf")]
        self._process = ServerProcess(command, folder / "out")

    def start(self) -> "Samba":
        self._process.start(self.port)
        return self

    def stop(self) -> None:
        self._process.stop()
