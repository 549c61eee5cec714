"""Implements a proxy for the Docker socket, which forwards and records the requests that an allowlist permits."""

import contextlib
import re
import select
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import yaml


@dataclass
class DockerProxy:
    """A proxy that listens on a Unix socket, and filters requests in the same way as wollomatic/socket-proxy.

    Args:
        path: The path of the proxy's Unix socket.
        upstream: The path of Docker's Unix socket.
        rules: For each HTTP method, the regular expressions of permitted URL paths; None permits every request.
    """

    path: Path
    upstream: Path
    rules: dict[str, list[str]] | None = None
    used: set[tuple[str, str]] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)
    drop_events: bool = False
    _server: socket.socket = field(default_factory=lambda: socket.socket(socket.AF_UNIX))
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self.path.unlink(missing_ok=True)
        self._server.bind(str(self.path))
        self._server.listen(64)
        self._server.settimeout(0.1)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        self._server.close()

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                client, _ = self._server.accept()
            except TimeoutError:
                continue
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client, socket.socket(socket.AF_UNIX) as upstream:
            client.settimeout(120)
            upstream.connect(str(self.upstream))
            while not self._stop.is_set():
                head = self._head(client)
                if head is None:
                    return
                method, target = head.split(b" ", 2)[:2]
                path = target.decode().partition("?")[0]
                if not self._allowed(method.decode(), path):
                    self.refused.append(f"{method.decode()} {path}")
                    client.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
                    return
                if self.drop_events and path.endswith("/events"):
                    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
                    self._stop.wait(120)
                    return
                upstream.sendall(head)
                # The proxy checks only the first request of a connection, so each connection ends after one request.
                self._pump(client, upstream)
                return

    def _head(self, client: socket.socket) -> bytes | None:
        data = b""
        while b"\r\n\r\n" not in data:
            piece = client.recv(65536)
            if not piece:
                return None
            data += piece
        return re.sub(rb"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", data, count=1)

    def _pump(self, client: socket.socket, upstream: socket.socket) -> None:
        while not self._stop.is_set():
            for ready in select.select([client, upstream], [], [], 0.2)[0]:
                piece = ready.recv(65536)
                if not piece:
                    return
                (upstream if ready is client else client).sendall(piece)

    def _allowed(self, method: str, path: str) -> bool:
        if self.rules is None:
            return True
        for pattern in self.rules.get(method, []):
            if re.fullmatch(pattern, path):
                self.used.add((method, pattern))
                return True
        return False


def allowlist(path: Path) -> dict[str, list[str]]:
    """Return the URL paths that the service `socket-proxy` of a Compose file permits, by HTTP method."""
    found: dict[str, list[str]] = {}
    for argument in yaml.safe_load(path.read_text())["services"]["socket-proxy"]["command"]:
        match = re.fullmatch(r"-allow(GET|POST|DELETE)=(.*)", argument)
        if match:
            found.setdefault(match[1], []).append(match[2])
    return found
