"""Creates anonymous network namespaces. The kernel removes a namespace when no process or socket uses it.

A thread can be in a different network namespace from the rest of its process (network_namespaces(7)). A socket stays
in the namespace in which it was created. Therefore a thread in the namespace creates the sockets, and the event loop
uses them like any other sockets.
"""

import ctypes
import errno
import os
import socket
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from gateway.errors import FailureReason, TunnelError

_CLONE_NEWNET = 0x40000000
_WORKERS = 8
_T = TypeVar("_T")


class NetworkNamespace:
    """A network namespace that initially has only a loopback device.

    Raises:
        TunnelError: The gateway lacks the capabilities to create a network namespace; fatal.
    """

    def __init__(self) -> None:
        self.fd = -1
        # Create sockets in a separate thread, because DNS queries can block the threads of `_workers` for seconds.
        self._socket_thread = ThreadPoolExecutor(1, "vpn-socket", self._enter)
        self._workers = ThreadPoolExecutor(_WORKERS, "vpn", self._enter)
        try:
            self.fd = ThreadPoolExecutor(1, "vpn-new").submit(_unshare).result()
        except OSError as error:
            self.close()
            raise TunnelError(
                FailureReason.PERMISSION,
                f"cannot create a network namespace ({error.strerror}): CAP_SYS_ADMIN and CAP_NET_ADMIN are required;"
                " `isolation: device` requires only CAP_NET_ADMIN",
                fatal=True,
            ) from error

    def _enter(self) -> None:
        _set_namespace(self.fd)

    def create_socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """Create a socket in the namespace. Blocks, but only for microseconds. The caller must close the socket.

        Args:
            family: The address family, as for `socket.socket`.
            kind: The socket type, as for `socket.socket`.
            protocol: The protocol number, as for `socket.socket`.

        Raises:
            OSError: The socket cannot be created, or the namespace is closed (ENETDOWN).
        """
        try:
            return self._socket_thread.submit(socket.socket, family, kind, protocol).result()
        except RuntimeError as error:  # the executor was shut down
            raise OSError(errno.ENETDOWN, os.strerror(errno.ENETDOWN)) from error

    def submit(self, job: Callable[[], _T]) -> "Future[_T]":
        """Run a blocking function in a thread that is in the namespace, and return the future of its result.

        Args:
            job: The function. Child processes that the function starts are in the namespace too.

        Raises:
            OSError: The namespace is closed (ENETDOWN).
        """
        try:
            return self._workers.submit(job)
        except RuntimeError as error:
            raise OSError(errno.ENETDOWN, os.strerror(errno.ENETDOWN)) from error

    def close(self) -> None:
        """Release the namespace. When its last socket is closed, the kernel removes the namespace and its devices."""
        self._socket_thread.shutdown(wait=False, cancel_futures=True)
        self._workers.shutdown(wait=False, cancel_futures=True)
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _unshare() -> int:
    """Move this thread to a new network namespace, and return a file descriptor that refers to the namespace."""
    _check(_libc().unshare(_CLONE_NEWNET))
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _set_namespace(fd: int) -> None:
    _check(_libc().setns(fd, _CLONE_NEWNET))


def _libc() -> ctypes.CDLL:
    # Call libc directly, because `os.unshare` and `os.setns` require Python 3.12.
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
