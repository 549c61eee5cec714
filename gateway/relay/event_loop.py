"""Defines the gateway's event loop. Its selector calls the handlers of relays directly.

A relay handles an event with one or two system calls. asyncio would first schedule a callback for the event, and this
scheduling takes longer than the system calls. The selector therefore calls the handlers inside `select()`. `select()`
returns to asyncio only when asyncio has work: a descriptor of asyncio is ready, a timer is due, or a callback is
scheduled.
"""

import asyncio
import contextlib
import logging
import math
import select
import selectors
import time
from collections.abc import Callable

EventHandler = Callable[[int], None]
"""Handles events of a descriptor. The argument is a bit mask of constants such as `gateway.relay.fd_poller.READ`."""

log = logging.getLogger(__name__)
_MAX_EVENTS = 128


class RelayEpollSelector(selectors.EpollSelector):
    """An epoll selector that runs the handlers of relays inside `select()`."""

    _selector: select.epoll  # `EpollSelector` sets this private attribute

    def __init__(self) -> None:
        super().__init__()
        self._handlers: dict[int, EventHandler] = {}
        self.scheduled = False
        self._at_end: list[Callable[[], None]] = []

    def at_iteration_end(self, callback: Callable[[], None]) -> None:
        """See `gateway.relay.fd_poller.FdPoller`."""
        self._at_end.append(callback)

    def _end_iteration(self) -> None:
        callbacks, self._at_end = self._at_end, []
        for callback in callbacks:
            try:
                callback()
            except Exception:
                log.exception("a callback at the end of a loop iteration failed")

    def add(self, fd: int, handler: EventHandler, mask: int) -> None:
        """See `gateway.relay.fd_poller.FdPoller`."""
        try:
            self._selector.register(fd, mask)
        except FileExistsError:
            self._selector.modify(fd, mask)
        self._handlers[fd] = handler

    def modify_mask(self, fd: int, mask: int) -> None:
        """See `gateway.relay.fd_poller.FdPoller.modify`.

        The names differ, because `EpollSelector` already has a method `modify`.
        """
        self._selector.modify(fd, mask)

    def remove(self, fd: int) -> None:
        """See `gateway.relay.fd_poller.FdPoller`."""
        if self._handlers.pop(fd, None) is None:
            return
        with contextlib.suppress(OSError):  # epoll has already removed a closed descriptor
            self._selector.unregister(fd)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Run relay handlers until asyncio has work. Return the events of descriptors that asyncio registered.

        Args:
            timeout: Maximum number of seconds to wait; None for no limit.
        """
        deadline = math.inf if timeout is None else time.monotonic() + max(timeout, 0.0)
        wait = -1.0 if timeout is None else max(timeout, 0.0)
        poll = self._selector.poll
        handler_of = self._handlers.get
        ready: list[tuple[selectors.SelectorKey, int]] = []
        while True:
            if self._at_end:
                self._end_iteration()
            # Round up to milliseconds. If the timeout were rounded down, the loop would spin until the timer is due.
            for fd, event in poll(wait if wait < 0 else math.ceil(wait * 1e3) * 1e-3, _MAX_EVENTS):
                handler = handler_of(fd)
                if handler is None:
                    self._add_asyncio_event(ready, fd, event)
                    continue
                try:
                    handler(event)
                except Exception:
                    # All relays share the event loop, so an error in one relay must not stop the loop.
                    log.exception("a relay handler failed: its descriptor is no longer polled")
                    if self._handlers.get(fd) is handler:
                        self.remove(fd)
            if self._at_end:
                self._end_iteration()
            if ready or self.scheduled:
                self.scheduled = False
                return ready
            if timeout is not None:
                wait = deadline - time.monotonic()
                if wait <= 0:
                    return ready

    def _add_asyncio_event(self, ready: list[tuple[selectors.SelectorKey, int]], fd: int, event: int) -> None:
        key = self.get_map().get(fd)
        if key is None:
            return
        mask = 0
        if event & ~select.EPOLLIN:
            mask |= selectors.EVENT_WRITE
        if event & ~select.EPOLLOUT:
            mask |= selectors.EVENT_READ
        ready.append((key, mask & key.events))


class RelayEventLoop(asyncio.SelectorEventLoop):
    """The gateway's asyncio event loop. It uses a `RelayEpollSelector`, which also runs the handlers of relays."""

    def __init__(self) -> None:
        self.relays = RelayEpollSelector()
        self.on_close: list[Callable[[], None]] = []
        """Callbacks that run before the loop closes, while the poller can still remove descriptors."""
        super().__init__(self.relays)

    def close(self) -> None:
        """Run the callbacks of `on_close`, then close the loop."""
        if not self.is_running():
            while self.on_close:
                self.on_close.pop()()
        super().close()

    def call_soon(self, *args, **kwargs):  # type: ignore[no-untyped-def, override] # noqa: ANN002, ANN003, ANN201, D102
        self.relays.scheduled = True
        return super().call_soon(*args, **kwargs)

    def call_at(self, *args, **kwargs):  # type: ignore[no-untyped-def, override] # noqa: ANN002, ANN003, ANN201, D102
        self.relays.scheduled = True
        return super().call_at(*args, **kwargs)
