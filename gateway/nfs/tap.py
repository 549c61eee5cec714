"""Latency of NFS in real traffic: from a call to its reply, matched by XID (RFC 5531, sections 8 and 11).

Looks at the heads of records as they pass by, and copies nothing else. Where the bytes make no sense, because TLS
hides them or because it lost its place, it looks no more.
"""

from collections.abc import Callable, Iterator

_LAST = 0x80000000
_HEAD = 12
"""A fragment's mark and, at the beginning of a record, its XID and whether it is a call or a reply."""
_CALL, _REPLY = 0, 1
_MARK = 4
_MOST_PENDING = 1024
_LONGEST = 64 << 20


class Cursor:
    """Where one direction stands between two records."""

    __slots__ = ("_first", "_head", "_left", "parseable")

    def __init__(self) -> None:
        self._left = 0
        self._head = b""
        self._first = True
        self.parseable = True
        """Whether what has passed was RPC."""

    def records(self, data: memoryview) -> Iterator[tuple[int, int]]:
        """XID and kind of the records that begin in `data`, the next bytes of the direction."""
        at, end = 0, len(data)
        while at < end and self.parseable:
            if self._left:
                step = min(self._left, end - at)
                self._left -= step
                at += step
                continue
            need = (_HEAD if self._first else _MARK) - len(self._head)
            taken = bytes(data[at : at + need])
            at += len(taken)
            self._head += taken
            if len(taken) < need:
                return
            mark = int.from_bytes(self._head[:_MARK], "big")
            length = mark & ~_LAST
            self._left = length - (_HEAD - _MARK if self._first else 0)
            kind = int.from_bytes(self._head[8:], "big")
            if not 0 <= self._left <= _LONGEST or kind not in (_CALL, _REPLY):
                self.parseable = False
                return
            if self._first:
                yield int.from_bytes(self._head[_MARK:8], "big"), kind
            self._first = bool(mark & _LAST)
            self._head = b""


class RpcTap:
    """Watches one connection.

    Args:
        observe: Told each latency in seconds.
    """

    __slots__ = ("_back", "_forth", "_observe", "_pending")
    finished = False
    """It measures until the connection ends."""

    def __init__(self, observe: Callable[[float], None]) -> None:
        self._observe = observe
        self._forth = Cursor()
        self._back = Cursor()
        self._pending: dict[int, float] = {}

    def on_request(self, data: memoryview, now: float) -> None:
        """The client sent `data` at the monotonic time `now`."""
        for xid, kind in self._forth.records(data):
            if kind != _CALL:
                continue  # an answer to a call of the server's
            if len(self._pending) >= _MOST_PENDING:
                self._pending.clear()  # calls that are never answered
            self._pending.setdefault(xid, now)

    def on_response(self, data: memoryview, now: float) -> None:
        """The server sent `data` at the monotonic time `now`."""
        for xid, kind in self._back.records(data):
            asked = self._pending.pop(xid, None) if kind == _REPLY else None
            if asked is not None:
                self._observe(now - asked)

    @property
    def tracker(self) -> "RpcTap":
        """See `gateway.measure.Tap`."""
        return self

    @property
    def parseable(self) -> bool:
        """See `gateway.measure.RequestTracker`."""
        return self._forth.parseable and self._back.parseable

    def oldest_pending(self) -> float | None:
        """See `gateway.measure.RequestTracker`."""
        return next(iter(self._pending.values()), None)
