"""Measures the latency of NFS traffic: the time from an RPC call to the reply with the same XID (RFC 5531).

The measurement reads only the headers of RPC records (RFC 5531, sections 9 and 11). It stops at bytes that are not
RPC, for example because the connection uses TLS.
"""

from collections.abc import Callable, Iterator

_LAST_FRAGMENT = 0x80000000
_FIRST_HEADER = 12
"""Total size, in bytes, of the fragment header, the XID and the message type at the start of a record."""
_CALL, _REPLY = 0, 1
_FRAGMENT_HEADER = 4
_MAX_PENDING = 1024
_MAX_FRAGMENT = 64 << 20


class RpcRecordScanner:
    """Finds the RPC records in one direction of a connection, by their record marks (RFC 5531, section 11)."""

    __slots__ = ("_first", "_header", "_remaining", "is_rpc")

    def __init__(self) -> None:
        self._remaining = 0
        """Number of bytes still missing from the current fragment."""
        self._header = b""
        self._first = True
        """Whether the next fragment is the first fragment of an RPC record."""
        self.is_rpc = True
        """Whether all bytes so far conform to RPC."""

    def records(self, data: memoryview) -> Iterator[tuple[int, int]]:
        """Yield the XID and the message type of each record as soon as the record's header is complete.

        Args:
            data: The next bytes of the connection. A record can begin in earlier bytes, and end in later bytes.
        """
        position, end = 0, len(data)
        while position < end and self.is_rpc:
            if self._remaining:
                step = min(self._remaining, end - position)
                self._remaining -= step
                position += step
                continue
            missing = (_FIRST_HEADER if self._first else _FRAGMENT_HEADER) - len(self._header)
            piece = bytes(data[position : position + missing])
            position += len(piece)
            self._header += piece
            if len(piece) < missing:
                return
            mark = int.from_bytes(self._header[:_FRAGMENT_HEADER], "big")
            length = mark & ~_LAST_FRAGMENT
            self._remaining = length - (_FIRST_HEADER - _FRAGMENT_HEADER if self._first else 0)
            kind = int.from_bytes(self._header[8:], "big")
            if not 0 <= self._remaining <= _MAX_FRAGMENT or kind not in (_CALL, _REPLY):
                self.is_rpc = False
                return
            if self._first:
                yield int.from_bytes(self._header[_FRAGMENT_HEADER:8], "big"), kind
            self._first = bool(mark & _LAST_FRAGMENT)
            self._header = b""


class RpcLatencyTap:
    """Measures the latency of the RPC calls on one connection.

    Implements `gateway.connection_tap.Tap` and `gateway.connection_tap.RpcRequestTracker`.

    Args:
        observe: Called with the latency of each call, in seconds.
    """

    __slots__ = ("_observe", "_pending", "_requests", "_responses")
    finished = False
    """See `gateway.connection_tap.Tap`. This tap is never finished: it measures until the connection closes."""

    def __init__(self, observe: Callable[[float], None]) -> None:
        self._observe = observe
        self._requests = RpcRecordScanner()
        self._responses = RpcRecordScanner()
        self._pending: dict[int, float] = {}
        """Monotonic time of each call that has no reply yet, by XID. The oldest call is the first."""

    def on_request(self, data: memoryview, now: float) -> None:
        """Observe `data` from the client, received at the monotonic time `now`. See `gateway.connection_tap.Tap`."""
        for xid, kind in self._requests.records(data):
            self.on_message(xid, kind, now, from_backend=False)

    def on_response(self, data: memoryview, now: float) -> None:
        """Observe `data` from the backend, received at the monotonic time `now`. See `gateway.connection_tap.Tap`."""
        for xid, kind in self._responses.records(data):
            self.on_message(xid, kind, now, from_backend=True)

    def on_message(self, xid: int, rpc_type: int, now: float, *, from_backend: bool) -> None:
        """See `gateway.connection_tap.RpcRequestTracker`. Ignore calls by the server and replies by the client."""
        if rpc_type not in (_CALL, _REPLY):
            (self._responses if from_backend else self._requests).is_rpc = False
        elif from_backend:
            called_at = self._pending.pop(xid, None) if rpc_type == _REPLY else None
            if called_at is not None:
                self._observe(now - called_at)
        elif rpc_type == _CALL:
            if len(self._pending) >= _MAX_PENDING:
                # Discard the pending calls: the server has replied to none of them, and probably never will.
                self._pending.clear()
            self._pending.setdefault(xid, now)

    @property
    def tracker(self) -> "RpcLatencyTap":
        """The tap itself. See `gateway.connection_tap.Tap`."""
        return self

    @property
    def parseable(self) -> bool:
        """Whether all bytes so far are RPC. See `gateway.connection_tap.RpcRequestTracker`."""
        return self._requests.is_rpc and self._responses.is_rpc

    def oldest_pending(self) -> float | None:
        """Return the monotonic time of the oldest call without a reply; None if every call has a reply."""
        return next(iter(self._pending.values()), None)
