"""Measures how uploads and queries share the bandwidth of a tunnel. The clients and the server run in threads."""

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
    """A server that counts the bytes of each upload, and answers queries.

    The first byte on each connection is 0 if the client sends queries; otherwise, it is the number of the upload.
    """

    def __init__(self) -> None:
        self.bytes = [0] * 256
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []

    @property
    def port(self) -> int:
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
    """Runs clients in threads until the `with` block ends: some upload data endlessly, and the others repeat a query.

    Args:
        ports: The port to which each client connects. The ports of the clients that upload come first.
        uploads: The number of clients that upload. The remaining clients send queries.
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
        """Return the response times of each client that sends queries, in seconds.

        If a client waits for a response, its last value is the time since the query.
        """
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
    """The results of a measurement.

    Args:
        uploads: The number of bytes that the backend received from each upload.
        waits: The response times, as `Clients.waits` returns them.
    """

    uploads: list[int]
    waits: list[list[float]]

    @property
    def fairness(self) -> float:
        """Return the number of bytes of the slowest upload, divided by the mean number of bytes of all uploads."""
        total = sum(self.uploads)
        return min(self.uploads) * len(self.uploads) / total if total else 0.0

    def wait(self, share: float) -> float:
        """Return the quantile `share` (a fraction from 0 to 1) of all response times, in seconds."""
        every = sorted(wait for each in self.waits for wait in each)
        return every[min(len(every) - 1, int(len(every) * share))]


def measure(backend: Backend, ports: Sequence[int], uploads: int, seconds: float) -> Shares:
    """Run the clients for `seconds` seconds, and return the results. See `Clients` for `ports` and `uploads`."""
    with Clients(ports, uploads) as clients:
        time.sleep(seconds)
        return Shares(backend.bytes[1 : uploads + 1], clients.waits())


def _quietly(act: Callable[..., None], sock: socket.socket, *more: object) -> None:
    with sock, contextlib.suppress(OSError):  # another thread shuts the socket down to stop this thread
        act(sock, *more)
