"""Listening sockets: bound once, before anything else, and outliving every tunnel."""

import asyncio
import errno
import logging
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

from gateway.contracts import Endpoint
from gateway.errors import GatewayError
from gateway.relay.readiness import READ, readiness
from gateway.relay.sockets import bind_unix, reset, reset_when_killed, tune

log = logging.getLogger(__name__)

Address = Endpoint | Path
BACKLOG = 4096
_UNIX_MODE, _OPEN_MODE = 0o660, 0o666
_ACCEPTS_PER_TURN = 64
_PAUSE_AFTER_ERROR = 0.1
_NO_IPV6 = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)

OnAccept = Callable[[socket.socket], None]


class BindError(GatewayError):
    """An address cannot be listened on; the operator must choose another or free it."""


class Listener:
    """One address of a backend; accepts from `start` to `close`.

    Args:
        address: Where to listen.
        sockets: Bound already, by somebody else.
    """

    def __init__(self, address: Address, sockets: list[socket.socket] | None = None) -> None:
        self.address = address
        self._sockets = _bind(address) if sockets is None else sockets
        self._bound_here = sockets is None
        self._on_accept: OnAccept | None = None
        self._file: os.stat_result | None = None
        self._open_to_all = False
        if isinstance(address, Path) and self._bound_here:
            try:
                self._file = address.lstat()
            except OSError as error:
                self.close()
                raise BindError(f"cannot listen on {address}: {_told(error)}") from error

    @property
    def descriptors(self) -> list[int]:
        """Its sockets, for another process to accept from."""
        return [sock.fileno() for sock in self._sockets]

    def set_mode(self, *, open_to_all: bool) -> None:
        """Set the mode of the file of a unix socket that was bound here, where it changes.

        A file that has taken the socket's place is left alone, and a failure is logged: the listener goes on.

        Args:
            open_to_all: Whether every process may connect, since the peer's credentials decide.
        """
        if self._file is None or open_to_all == self._open_to_all:
            return
        try:
            _change_mode(self.address, self._file, _OPEN_MODE if open_to_all else _UNIX_MODE)
        except OSError as error:
            extra = {"listener": str(self.address), "detail": error.strerror}
            log.error("the mode of a unix socket could not be set", extra=extra)
        else:
            self._open_to_all = open_to_all

    def start(self, on_accept: OnAccept) -> None:
        """Hand every accepted socket, non-blocking, to `on_accept`, which owns it; when that raises, it is reset."""
        first = self._on_accept is None
        self._on_accept = on_accept
        if first:
            for sock in self._sockets:
                self._watch(sock)

    def stop(self) -> None:
        """Accept no more here, and stay bound: another owner, or another process, may go on."""
        self._on_accept = None
        for sock in self._sockets:
            readiness().remove(sock.fileno())

    def close(self) -> None:
        """Stop listening; new connections are refused by the kernel."""
        for sock in self._sockets:
            if sock.fileno() >= 0 and self._on_accept is not None:
                readiness().remove(sock.fileno())
            sock.close()
        self._on_accept = None
        if isinstance(self.address, Path) and self._bound_here:
            self.address.unlink(missing_ok=True)
        self._sockets, self._file = [], None

    def _watch(self, sock: socket.socket) -> None:
        if sock.fileno() < 0 or self._on_accept is None:
            return
        try:
            readiness().add(sock.fileno(), lambda _: self._accept(sock), READ)
        except OSError as error:  # epoll_ctl(2): no memory, or too many watches
            self._pause(sock, error)

    def _accept(self, sock: socket.socket) -> None:
        """Take in who waits; never raises, since readiness drops a handler that does."""
        for _ in range(_ACCEPTS_PER_TURN):
            if self._on_accept is None:
                return
            try:
                client, _ = sock.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except Exception as error:  # noqa: BLE001 - logged, and tried again
                # accept(2) passes on network errors of the connection, and what is wrong with us. When we are out
                # of descriptors the connection stays in the kernel's queue, and epoll would report it without end.
                self._pause(sock, error)
                return
            try:
                client.setblocking(False)
                self._on_accept(client)
            except Exception:
                log.exception("a client could not be taken in: it is reset", extra={"listener": str(self.address)})
                reset(client)

    def _pause(self, sock: socket.socket, error: Exception) -> None:
        """Try again in a moment."""
        detail = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        log.error("cannot accept", extra={"listener": str(self.address), "detail": detail})
        readiness().remove(sock.fileno())
        asyncio.get_running_loop().call_later(_PAUSE_AFTER_ERROR, self._watch, sock)


def _bind(address: Address) -> list[socket.socket]:
    if isinstance(address, Path):
        return [_bind_unix(address)]
    hosts = ["127.0.0.1", "::1"] if address.host == "localhost" else [address.host]
    bound: list[socket.socket] = []
    for host in hosts:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            bound.append(_listening(socket.socket(family), (host, address.port)))
        except OSError as error:
            if bound and error.errno in _NO_IPV6:
                continue  # 127.0.0.1 is what most mean by localhost
            for sock in bound:
                sock.close()
            if bound:
                raise BindError(f"cannot listen on [{host}]:{address.port}: {_told(error)}") from error
            raise BindError(f"cannot listen on {address}: {_told(error)}") from error
    return bound


def _listening(sock: socket.socket, address: tuple[str, int]) -> socket.socket:
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
        tune(sock)  # accepted sockets inherit both
        reset_when_killed(sock)
    except BaseException:
        sock.close()
        raise
    return sock


def _bind_unix(path: Path) -> socket.socket:
    try:
        sock = bind_unix(path, _UNIX_MODE)
    except OSError as error:
        raise BindError(f"cannot listen on {path}: {_told(error)}") from error
    sock.listen(BACKLOG)
    return sock


def _change_mode(address: Address, bound: os.stat_result, mode: int) -> None:
    """Change the mode of a socket's file, and of no other: who may write to its folder can replace it by a link.

    Raises:
        OSError: The file is gone, or another one.
    """
    descriptor = os.open(str(address), os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISSOCK(found.st_mode) or not os.path.samestat(found, bound):
            raise FileExistsError(errno.EEXIST, "another file is in its place: restart to bind it again")
        # fchmod(2) refuses a descriptor of O_PATH, and chmod(2) would follow a link (open(2), O_PATH).
        Path(f"/proc/self/fd/{descriptor}").chmod(mode)
    finally:
        os.close(descriptor)


def _told(error: OSError) -> str:
    hints = {
        errno.EADDRINUSE: " (another process is listening there, or this one on an address that overlaps it: "
        "give that up in a reload of its own)",
        errno.EACCES: " (ports below 1024 need CAP_NET_BIND_SERVICE)",
        errno.EADDRNOTAVAIL: " (this host does not have that address)",
    }
    return f"{error.strerror}{hints.get(error.errno or 0, '')}"
