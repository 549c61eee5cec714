"""Measures how uploads and queries share a path; the clients and the backend run in threads of this process."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

ASK, ANSWER = 200, 4096
_PIECE = 65536
_PAUSE = 0.05
"""The seconds between a response and the next query."""


class Backend:
    """A backend that counts the bytes of each upload and answers queries.

    The first byte of a connection is the number of its upload, or 0 for queries.
    """

    def __init__(self) -> None:
        self.bytes = [0] * 256
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []

    @property
    def port(self) -> int:
        """The port of the backend on 127.0.0.1."""
        return int(self._listener.getsockname()[1])

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._run(self._accept, self._listener)
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self._open:
            with contextlib.suppress(OSError):  # the connection can already be closed
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _run(self, act: Callable[[socket.socket], None], sock: socket.socket) -> None:
        self._open.append(sock)
        thread = threading.Thread(target=_quietly, args=(act, sock), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            client, _ = listener.accept()
            self._run(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        name = client.recv(1)
        if name == b"\0":
            while client.recv(ASK, socket.MSG_WAITALL):
                client.sendall(bytes(ANSWER))
        while name and (data := client.recv(_PIECE)):
            self.bytes[name[0]] += len(data)


class Clients:
    """Endless uploads, and clients that repeat a query. When the context exits, all connections are reset.

    Args:
        ports: The ports to which the clients connect: the ports of the uploads, and then those of the queries.
        uploads: The number of uploads.
    """

    def __init__(self, ports: Sequence[int], uploads: int) -> None:
        self._ports, self._uploads = ports, uploads
        self._threads: list[tuple[socket.socket, threading.Thread]] = []
        self._asked = [0.0] * len(ports)
        self._waits: list[list[float]] = [[] for _ in ports]

    def __enter__(self) -> Self:
        for at, port in enumerate(self._ports):
            sock = socket.create_connection(("127.0.0.1", port), timeout=30)
            sock.settimeout(None)
            act = self._send if at < self._uploads else self._ask
            thread = threading.Thread(target=_quietly, args=(act, sock, at), daemon=True)
            thread.start()
            self._threads.append((sock, thread))
        return self

    def __exit__(self, *_: object) -> None:
        for sock, _thread in self._threads:
            with contextlib.suppress(OSError):  # the connection can already be closed
                sock.shutdown(socket.SHUT_RDWR)
        for _sock, thread in self._threads:
            thread.join()

    def waits(self) -> list[list[float]]:
        """Return the response times of each querying client in seconds; for a pending response, the time so far."""
        now = time.monotonic()
        return [
            [*self._waits[at], *([now - self._asked[at]] if self._asked[at] else [])]
            for at in range(self._uploads, len(self._ports))
        ]

    @staticmethod
    def _send(sock: socket.socket, at: int) -> None:
        sock.sendall(bytes([at + 1]))
        while True:
            sock.sendall(bytes(_PIECE))

    def _ask(self, sock: socket.socket, at: int) -> None:
        sock.sendall(b"\0")
        while True:
            self._asked[at] = asked = time.monotonic()
            sock.sendall(bytes(ASK))
            if len(sock.recv(ANSWER, socket.MSG_WAITALL)) < ANSWER:
                return
            self._asked[at] = 0.0
            self._waits[at].append(time.monotonic() - asked)
            time.sleep(_PAUSE)


@dataclass(frozen=True)
class Shares:
    """The bytes of each upload, and the response times of each querying client.

    Args:
        uploads: Bytes received from each upload.
        waits: The response times of each querying client in seconds; for a pending response, the time so far.
    """

    uploads: list[int]
    waits: list[list[float]]

    @property
    def fairness(self) -> float:
        """Return the bytes of the slowest upload, divided by the mean of all uploads."""
        total = sum(self.uploads)
        return min(self.uploads) * len(self.uploads) / total if total else 0.0

    def wait(self, share: float) -> float:
        """Return a quantile of the response times in seconds; the argument is a fraction from 0 to 1."""
        every = sorted(wait for each in self.waits for wait in each)
        return every[min(len(every) - 1, int(len(every) * share))]


def measure(backend: Backend, ports: Sequence[int], uploads: int, seconds: float) -> Shares:
    """Run clients for `seconds`, and return their results; see `Clients` for the arguments."""
    with Clients(ports, uploads) as clients:
        time.sleep(seconds)
        return Shares(backend.bytes[1 : uploads + 1], clients.waits())


def _quietly(act: Callable[..., None], sock: socket.socket, *more: object) -> None:
    with sock, contextlib.suppress(OSError):  # another thread shuts the socket down to stop this thread
        act(sock, *more)
