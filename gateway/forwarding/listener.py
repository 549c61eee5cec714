"""Binds listening sockets at startup, and keeps them bound while tunnels open and close."""

import asyncio
import errno
import logging
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

from gateway.contracts.config_types import HostPort
from gateway.errors import GatewayError
from gateway.relay.bind_errors import describe_bind_error
from gateway.relay.fd_poller import READ, poller
from gateway.relay.listening_sockets import NO_IPV6_ERRNOS, listen_tcp
from gateway.relay.sockets import reset, reset_on_process_exit, tune
from gateway.relay.unix_sockets import bind_unix

log = logging.getLogger(__name__)

BACKLOG = 4096
_UNIX_MODE, _OPEN_UNIX_MODE = 0o660, 0o666
_ACCEPTS_PER_TURN = 64
_ACCEPT_RETRY_DELAY = 0.1

AcceptHandler = Callable[[socket.socket], None]


class BindError(GatewayError):
    """A listener's address cannot be bound. The operator must free the address or configure another one."""


class Listener:
    """Listens on one address of a backend. Accepts clients from `start` until `stop` or `close`.

    Args:
        address: The address to listen on.
        sockets: Listening sockets that another process has bound. The listener takes ownership of them. If None, the
            listener binds `address`.
        free_bind: Whether to bind `address` even if no interface of the host has this address yet. See `listen_tcp`.

    Raises:
        BindError: The address cannot be bound.
    """

    def __init__(
        self, address: HostPort, sockets: list[socket.socket] | None = None, *, free_bind: bool = False
    ) -> None:
        self.address = address
        self._sockets = _bind(address, free_bind=free_bind) if sockets is None else sockets
        self._on_accept: AcceptHandler | None = None
        self._withdraw: Callable[[], None] | None = None
        self._file: os.stat_result | None = None
        self._open_to_all = False
        if address.is_unix and sockets is None:
            try:
                self._file = Path(address.host).lstat()
            except OSError as error:
                self.close()
                raise BindError(f"cannot listen on {address}: {describe_bind_error(error, unix=True)}") from error

    @property
    def sockets(self) -> list[socket.socket]:
        """The listening sockets, which the listener owns."""
        return self._sockets

    @property
    def is_tcp(self) -> bool:
        """Whether clients connect by TCP."""
        return all(sock.family in (socket.AF_INET, socket.AF_INET6) for sock in self._sockets)

    def delegate(self, withdraw: Callable[[], None]) -> None:
        """Stop accepting clients until the next `start`. Meanwhile, a link accepts them on duplicates of the sockets.

        Args:
            withdraw: Makes the link stop accepting. `stop` and `close` call it.
        """
        self.stop()
        self._withdraw = withdraw

    def set_mode(self, *, open_to_all: bool) -> None:
        """Set the file mode of a unix socket that this process bound.

        Logs errors instead of raising them. Does not change a file that has replaced the socket's file.

        Args:
            open_to_all: Whether every user of the host may connect. Use True only if admission checks the user.
        """
        if self._file is None or open_to_all == self._open_to_all:
            return
        try:
            _change_mode(self.address, self._file, _OPEN_UNIX_MODE if open_to_all else _UNIX_MODE)
        except OSError as error:
            extra = {"listener": str(self.address), "detail": error.strerror}
            log.error("cannot set the mode of a unix socket", extra=extra)
        else:
            self._open_to_all = open_to_all

    def start(self, on_accept: AcceptHandler) -> None:
        """Start to accept clients. If the listener has already started, replace the handler.

        Args:
            on_accept: Called with each accepted socket, which is non-blocking. The handler owns the socket. If the
                handler raises an exception, the listener resets the connection.
        """
        first = self._on_accept is None
        self._on_accept, self._withdraw = on_accept, None
        if first:
            for sock in self._sockets:
                self._register(sock)

    def stop(self) -> None:
        """Stop accepting, but keep the sockets bound, so that another backend can use them."""
        self._end_delegation()
        self._on_accept = None
        for sock in self._sockets:
            poller().remove(sock.fileno())

    def _end_delegation(self) -> None:
        withdraw, self._withdraw = self._withdraw, None
        if withdraw is not None:
            withdraw()

    def close(self) -> None:
        """Close the sockets, and remove the file of a unix socket that this process bound.

        The kernel then refuses new connections. If the file cannot be removed, log the error.
        """
        self._end_delegation()
        self._remove_file()
        for sock in self._sockets:
            if sock.fileno() >= 0 and self._on_accept is not None:
                poller().remove(sock.fileno())
            sock.close()
        self._on_accept = None
        self._sockets = []

    def _remove_file(self) -> None:
        """Remove the file of a unix socket, but not a file that has replaced it.

        Call this method before closing the socket. While the socket is open, no other file can get its inode number.
        """
        bound, self._file = self._file, None
        if bound is None:
            return
        path = Path(self.address.host)
        try:
            if os.path.samestat(path.lstat(), bound):
                path.unlink()
        except FileNotFoundError:
            return
        except OSError as error:
            extra = {"listener": str(self.address), "detail": error.strerror}
            log.error("cannot remove the file of a unix socket", extra=extra)

    def _register(self, sock: socket.socket) -> None:
        if sock.fileno() < 0 or self._on_accept is None:
            return
        try:
            poller().add(sock.fileno(), lambda _: self._accept(sock), READ)
        except OSError as error:
            # Try again later: epoll_ctl(2) fails if there is not enough memory, or if there are too many watches.
            self._pause(sock, error)

    def _accept(self, sock: socket.socket) -> None:
        """Accept waiting clients. Log all errors, because the poller removes a handler that raises an error."""
        for _ in range(_ACCEPTS_PER_TURN):
            if self._on_accept is None:
                return
            try:
                client, _ = sock.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except Exception as error:  # noqa: BLE001 - logged and retried
                # Pause, because accept(2) could fail again immediately. For example, if the process has no free
                # descriptors, the connection stays in the kernel's queue, and epoll reports it again.
                self._pause(sock, error)
                return
            try:
                client.setblocking(False)
                self._on_accept(client)
            except Exception:
                log.exception(
                    "cannot handle an accepted client: its connection is reset", extra={"listener": str(self.address)}
                )
                reset(client)

    def _pause(self, sock: socket.socket, error: Exception) -> None:
        detail = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        log.error("cannot accept clients", extra={"listener": str(self.address), "detail": detail})
        poller().remove(sock.fileno())
        asyncio.get_running_loop().call_later(_ACCEPT_RETRY_DELAY, self._register, sock)


def prepare(sock: socket.socket) -> None:
    """Make a listening socket non-blocking, and set the options that accepted sockets inherit."""
    tune(sock)
    reset_on_process_exit(sock)


def _bind(address: HostPort, *, free_bind: bool) -> list[socket.socket]:
    if address.is_unix:
        return [_bind_unix(Path(address.host))]
    hosts = ["127.0.0.1", "::1"] if address.host == "localhost" else [address.host]
    bound: list[socket.socket] = []
    for host in hosts:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            bound.append(listen_tcp(family, (host, address.port), BACKLOG, free_bind=free_bind))
            prepare(bound[-1])
        except OSError as error:
            if bound and error.errno in NO_IPV6_ERRNOS:
                continue  # the host does not support IPv6: listen only on 127.0.0.1
            for sock in bound:
                sock.close()
            if bound:
                raise BindError(f"cannot listen on [{host}]:{address.port}: {describe_bind_error(error)}") from error
            raise BindError(f"cannot listen on {address}: {describe_bind_error(error)}") from error
    return bound


def _bind_unix(path: Path) -> socket.socket:
    try:
        sock = bind_unix(path, _UNIX_MODE)
    except OSError as error:
        raise BindError(f"cannot listen on {path}: {describe_bind_error(error, unix=True)}") from error
    sock.listen(BACKLOG)
    return sock


def _change_mode(address: HostPort, bound: os.stat_result, mode: int) -> None:
    """Change the mode of a socket's file, but not of a file or symlink that has replaced it.

    Raises:
        OSError: The file does not exist, or is not the socket that was bound.
    """
    descriptor = os.open(address.host, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISSOCK(found.st_mode) or not os.path.samestat(found, bound):
            raise FileExistsError(
                errno.EEXIST, "another file has replaced the socket: restart the gateway to bind the socket again"
            )
        # Change the mode through /proc: fchmod(2) rejects O_PATH descriptors (see open(2)), and chmod(2) on the path
        # would follow a symlink.
        Path(f"/proc/self/fd/{descriptor}").chmod(mode)
    finally:
        os.close(descriptor)
