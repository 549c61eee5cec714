"""Runs Samba servers, and simple TCP servers in threads, such as an echo server."""

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
    """Run a TCP server on 127.0.0.1 until the `with` block ends; yield its port.

    Args:
        behavior: A function that is called with the socket of each client, in a new thread.
        port: The port of the server; 0 to use a free port.
    """
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
    """Read until the client closes, and send nothing."""
    while client.recv(65536):
        pass


def dripping(first: bytes) -> Behavior:
    """Return a behavior that sends `first` and then 1000 zero bytes, one byte every 0.5 seconds."""

    def drip(client: socket.socket) -> None:
        for byte in first + bytes(1000):
            client.sendall(bytes([byte]))
            time.sleep(0.5)

    return drip


def resetting(client: socket.socket) -> None:
    """Reset the connection after the first byte from the client, or after 0.05 seconds without data."""
    client.settimeout(0.05)
    with contextlib.suppress(TimeoutError):
        client.recv(1)
    reset(client)


def talking(words: bytes, *, then_close: bool = False) -> Behavior:
    """Return a behavior that sends `words`, and then reads until the client closes.

    Args:
        words: The data to send.
        then_close: Whether the server closes the connection immediately after sending.
    """

    def talk(client: socket.socket) -> None:
        client.sendall(words)
        if not then_close:
            silent(client)

    return talk


def echoing(client: socket.socket) -> None:
    """Send all received data back until the client half-closes; then half-close too."""
    while data := client.recv(65536):
        client.sendall(data)
    client.shutdown(socket.SHUT_WR)


class Samba:
    """A Samba server with one share, `media`, which clients can use without a password.

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
