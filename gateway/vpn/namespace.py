"""A network namespace without a name: it lives as long as somebody holds it, so nothing outlives a killed gateway.

A thread can be in another network namespace than its process (network_namespaces(7)). Sockets belong for ever to the
namespace in which they were made, so one thread that lives there makes them, and the event loop uses them.
"""

import ctypes
import errno
import os
import socket
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from gateway.errors import Reason, TunnelError

_CLONE_NEWNET = 0x40000000
_WORKERS = 8
_T = TypeVar("_T")


class Namespace:
    """One of our own, empty but for its loopback device.

    Raises:
        TunnelError: We may not make one.
    """

    def __init__(self) -> None:
        self.fd = -1
        # Making a socket takes microseconds, and must not wait for a name server.
        self._makers = ThreadPoolExecutor(1, "vpn-socket", self._enter)
        self._workers = ThreadPoolExecutor(_WORKERS, "vpn", self._enter)
        try:
            self.fd = ThreadPoolExecutor(1, "vpn-new").submit(_unshare).result()
        except OSError as error:
            self.close()
            raise TunnelError(
                Reason.PERMISSION,
                f"a network namespace cannot be made ({error.strerror}): it needs CAP_SYS_ADMIN and CAP_NET_ADMIN;"
                " with `isolation: device` NET_ADMIN is enough",
                fatal=True,
            ) from error

    def _enter(self) -> None:
        _set_namespace(self.fd)

    def make(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket in it, made at once."""
        try:
            return self._makers.submit(socket.socket, family, kind, protocol).result()
        except RuntimeError as error:  # closed meanwhile
            raise OSError(errno.ENETDOWN, os.strerror(errno.ENETDOWN)) from error

    def submit(self, job: Callable[[], _T]) -> "Future[_T]":
        """Run a blocking `job` in a thread that is in it; a child that it starts is in it too."""
        try:
            return self._workers.submit(job)
        except RuntimeError as error:
            raise OSError(errno.ENETDOWN, os.strerror(errno.ENETDOWN)) from error

    def close(self) -> None:
        """Let go of it: the kernel removes it with its devices once the last socket in it is closed."""
        self._makers.shutdown(wait=False, cancel_futures=True)
        self._workers.shutdown(wait=False, cancel_futures=True)
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _unshare() -> int:
    """Leave the process's namespace for a new one, in this thread only; gives a descriptor that holds it."""
    _checked(_libc().unshare(_CLONE_NEWNET))
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _set_namespace(fd: int) -> None:
    _checked(_libc().setns(fd, _CLONE_NEWNET))


def _libc() -> ctypes.CDLL:
    # os.unshare and os.setns came with Python 3.12.
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
