"""Defines pollers, which call handlers when file descriptors are readable or writable.

On a `RelayEventLoop`, a poller uses the selector of the loop. On any other event loop, it uses `add_reader` and
`add_writer`.
"""

import asyncio
import select
from collections.abc import Callable
from typing import Protocol

from gateway.relay.event_loop import EventHandler, RelayEpollSelector, RelayEventLoop
from gateway.relay.per_loop_instances import per_loop

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
ERROR = select.EPOLLERR
HANGUP = select.EPOLLHUP | ERROR
"""Event mask of a hang-up or an error. epoll always reports both, even if the mask does not contain them."""
EDGE = select.EPOLLET
"""Flag for edge-triggered events: epoll reports a condition only once, when the condition begins (epoll(7))."""


class FdPoller(Protocol):
    """Defines the interface of pollers, which call handlers when file descriptors are readable or writable."""

    def add(self, fd: int, handler: EventHandler, mask: int) -> None:
        """Register `fd`. If `fd` is already registered, replace its handler and mask.

        Args:
            fd: The file descriptor. The caller must call `remove` before it closes the descriptor.
            handler: Called with the events that occurred. It must not block.
            mask: READ, WRITE, EDGE or a combination. Hang-ups and errors are always reported.
        """

    def modify(self, fd: int, mask: int) -> None:
        """Replace the event mask of `fd`."""

    def remove(self, fd: int) -> None:
        """Remove `fd`. Its handler is not called again. Do nothing if `fd` is not registered."""

    def at_iteration_end(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, after all handlers of this loop iteration, for example to send queued data."""


class _SelectorPoller:
    """An `FdPoller` that uses a `RelayEpollSelector`."""

    def __init__(self, selector: RelayEpollSelector) -> None:
        self.add = selector.add
        self.modify = selector.modify_mask
        self.remove = selector.remove
        self.at_iteration_end = selector.at_iteration_end


class _FallbackPoller:
    """An `FdPoller` for event loops other than `RelayEventLoop`. It uses `add_reader` and `add_writer`.

    It ignores EDGE. It reports hang-ups and errors only if the mask contains READ or WRITE.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._registered: dict[int, tuple[EventHandler, int]] = {}

    def add(self, fd: int, handler: EventHandler, mask: int) -> None:
        if fd in self._registered:
            self.modify(fd, 0)
        self._registered[fd] = (handler, 0)
        self.modify(fd, mask)

    def modify(self, fd: int, mask: int) -> None:
        handler, old = self._registered[fd]
        self._registered[fd] = (handler, mask)
        if mask & READ and not old & READ:
            self._loop.add_reader(fd, handler, READ)
        elif old & READ and not mask & READ:
            self._loop.remove_reader(fd)
        if mask & WRITE and not old & WRITE:
            self._loop.add_writer(fd, handler, WRITE)
        elif old & WRITE and not mask & WRITE:
            self._loop.remove_writer(fd)

    def remove(self, fd: int) -> None:
        if fd in self._registered:
            self.modify(fd, 0)
            del self._registered[fd]

    def at_iteration_end(self, callback: Callable[[], None]) -> None:
        self._loop.call_soon(callback)


@per_loop
def poller(loop: asyncio.AbstractEventLoop) -> FdPoller:
    """Return the poller of the running loop. On a `RelayEventLoop`, the poller uses the loop's selector."""
    return _SelectorPoller(loop.relays) if isinstance(loop, RelayEventLoop) else _FallbackPoller(loop)
