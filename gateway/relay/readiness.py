"""An event loop whose selector runs relay callbacks itself.

A relay reacts to readiness with one or two system calls. Sent through asyncio's handles and queues, that costs
more than the calls. So the selector calls the relays' handlers inside `select()`, and returns to asyncio
only when asyncio has work: a ready file of its own, a timer, or something that a handler scheduled.

On any other loop (`readiness()` finds out) the same interface is served by `add_reader` and `add_writer`.
"""

import asyncio
import contextlib
import logging
import math
import select
import selectors
import time
from collections.abc import Callable
from typing import Protocol

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
ERROR = select.EPOLLERR
GONE = select.EPOLLHUP | ERROR
EDGE = select.EPOLLET
"""Reports a condition when it begins, and not for as long as it lasts (epoll(7))."""

Handler = Callable[[int], None]
"""Called with a mask of READ, WRITE and GONE."""

log = logging.getLogger(__name__)
_MAX_EVENTS = 128


class Readiness(Protocol):
    """Registration of file descriptors with handlers; level triggered."""

    def add(self, fd: int, handler: Handler, mask: int) -> None:
        """Call `handler` whenever `fd` is ready for what `mask` says, or gone; takes over from another handler."""

    def modify(self, fd: int, mask: int) -> None:
        """Wait for something else from now on."""

    def remove(self, fd: int) -> None:
        """Forget `fd`; its handler is not called again. No error when it is forgotten already."""

    def at_turn_end(self, act: Callable[[], None]) -> None:
        """Call `act` once the handlers that are due now have run: to send together what they gathered."""


class RelaySelector(selectors.EpollSelector):
    """An epoll selector with a fast path for relays; see the module."""

    _selector: select.epoll  # what EpollSelector calls its epoll object, since Python 3.4

    def __init__(self) -> None:
        super().__init__()
        self._handlers: dict[int, Handler] = {}
        self.scheduled = False
        self._turn_end: list[Callable[[], None]] = []

    def at_turn_end(self, act: Callable[[], None]) -> None:
        """See `Readiness`."""
        self._turn_end.append(act)

    def _end_turn(self) -> None:
        acts, self._turn_end = self._turn_end, []
        for act in acts:
            try:
                act()
            except Exception:
                log.exception("what was gathered in a turn could not be sent")

    def add(self, fd: int, handler: Handler, mask: int) -> None:
        """See `Readiness`."""
        try:
            self._selector.register(fd, mask)
        except FileExistsError:
            self._selector.modify(fd, mask)
        self._handlers[fd] = handler

    def modify_mask(self, fd: int, mask: int) -> None:
        """See `Readiness.modify`; named apart from the selector's own `modify`."""
        self._selector.modify(fd, mask)

    def remove(self, fd: int) -> None:
        """See `Readiness`."""
        if self._handlers.pop(fd, None) is None:
            return
        with contextlib.suppress(OSError):  # closed already: the kernel forgot it then
            self._selector.unregister(fd)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Run relay handlers until asyncio has something to do or `timeout` seconds have passed."""
        deadline = math.inf if timeout is None else time.monotonic() + max(timeout, 0.0)
        wait = -1.0 if timeout is None else max(timeout, 0.0)
        poll = self._selector.poll
        handler_of = self._handlers.get
        ready: list[tuple[selectors.SelectorKey, int]] = []
        while True:
            if self._turn_end:
                self._end_turn()
            # Rounded up, so that a timer is never waited for in a busy loop.
            for fd, event in poll(wait if wait < 0 else math.ceil(wait * 1e3) * 1e-3, _MAX_EVENTS):
                handler = handler_of(fd)
                if handler is None:
                    self._note_asyncio(ready, fd, event)
                    continue
                try:
                    handler(event)
                except Exception:
                    # One relay's defect must not end the loop that all others live on.
                    log.exception("a relay's handler failed; its descriptor is dropped")
                    if self._handlers.get(fd) is handler:
                        self.remove(fd)
            if self._turn_end:
                self._end_turn()
            if ready or self.scheduled:
                self.scheduled = False
                return ready
            if timeout is not None:
                wait = deadline - time.monotonic()
                if wait <= 0:
                    return ready

    def _note_asyncio(self, ready: list[tuple[selectors.SelectorKey, int]], fd: int, event: int) -> None:
        key = self.get_map().get(fd)
        if key is None:
            return
        mask = 0
        if event & ~select.EPOLLIN:
            mask |= selectors.EVENT_WRITE
        if event & ~select.EPOLLOUT:
            mask |= selectors.EVENT_READ
        ready.append((key, mask & key.events))


class RelayLoop(asyncio.SelectorEventLoop):
    """The event loop of the service: a `RelaySelector` that learns when asyncio gets work."""

    def __init__(self) -> None:
        self.relays = RelaySelector()
        self.on_close: list[Callable[[], None]] = []
        """What to call before the loop closes, while descriptors can still be removed from it."""
        super().__init__(self.relays)

    def close(self) -> None:
        """Close the loop, after what `on_close` asks for."""
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


class _SelectorReadiness:
    """`Readiness` on the loop's own selector."""

    def __init__(self, selector: RelaySelector) -> None:
        self.add = selector.add
        self.modify = selector.modify_mask
        self.remove = selector.remove
        self.at_turn_end = selector.at_turn_end


class _LoopReadiness:
    """`Readiness` on any loop that has `add_reader`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._known: dict[int, tuple[Handler, int]] = {}

    def add(self, fd: int, handler: Handler, mask: int) -> None:
        if fd in self._known:
            self.modify(fd, 0)
        self._known[fd] = (handler, 0)
        self.modify(fd, mask)

    def modify(self, fd: int, mask: int) -> None:
        handler, old = self._known[fd]
        self._known[fd] = (handler, mask)
        if mask & READ and not old & READ:
            self._loop.add_reader(fd, handler, READ)
        elif old & READ and not mask & READ:
            self._loop.remove_reader(fd)
        if mask & WRITE and not old & WRITE:
            self._loop.add_writer(fd, handler, WRITE)
        elif old & WRITE and not mask & WRITE:
            self._loop.remove_writer(fd)

    def remove(self, fd: int) -> None:
        if fd in self._known:
            self.modify(fd, 0)
            del self._known[fd]

    def at_turn_end(self, act: Callable[[], None]) -> None:
        self._loop.call_soon(act)


def readiness() -> Readiness:
    """The readiness of the running loop: the selector's own where it is a `RelayLoop`."""
    loop = asyncio.get_running_loop()
    known: Readiness | None = getattr(loop, "_gateway_readiness", None)
    if known is None:
        known = _SelectorReadiness(loop.relays) if isinstance(loop, RelayLoop) else _LoopReadiness(loop)
        loop._gateway_readiness = known  # type: ignore[attr-defined] # noqa: SLF001
    return known
