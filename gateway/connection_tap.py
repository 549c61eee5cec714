"""Defines taps: objects that observe the bytes of a connection, for example to measure the latency of responses."""

from collections.abc import Callable
from typing import Protocol


class Tap(Protocol):
    """Defines the interface of objects that observe the bytes of one connection. The methods raise no errors."""

    @property
    def finished(self) -> bool:
        """Whether the tap needs no more bytes. The relay removes a finished tap when the backend next sends data."""

    @property
    def tracker(self) -> "RpcRequestTracker | None":
        """The object that matches responses to requests; None if a response always belongs to the latest request."""

    def on_request(self, data: memoryview, now: float, /) -> None:
        """Observe `data` from the client, received at the monotonic time `now`."""

    def on_response(self, data: memoryview, now: float, /) -> None:
        """Observe `data` from the backend, received at the monotonic time `now`."""


class RpcRequestTracker(Protocol):
    """Defines the interface for matching replies to calls on an ONC RPC connection, such as NFS."""

    @property
    def parseable(self) -> bool:
        """Whether all bytes so far are valid RPC. If False, the `RpcRequestTracker` matches no more replies."""

    def oldest_pending(self) -> float | None:
        """Return the monotonic time of the oldest request without a response; None if every request has one."""

    def on_message(self, xid: int, rpc_type: int, now: float, *, from_backend: bool) -> None:
        """Observe a message that the native engine has parsed. The native engine passes no bytes to the tap.

        Args:
            xid: The transaction ID (RFC 5531, section 9).
            rpc_type: The message type: 0 for a call, 1 for a reply, or -1 if the bytes are not a valid RPC message.
            now: The monotonic time at which the native engine received the message, in seconds.
            from_backend: True if the backend sent the message; False if the client sent it.
        """


TapFactory = Callable[[Callable[[float], None]], Tap]
"""A function that creates a tap for one connection. The function has one parameter: a callback, which the tap calls
with each response latency, in seconds."""


def waiting_since(tap: Tap | None, request_at: float) -> float | None:
    """Return the monotonic time at which a client began to wait for a response.

    Return None if the client does not wait, or if the time is not known.

    Args:
        tap: The tap of the connection; None if the connection has no tap.
        request_at: Monotonic time of the client's latest data; 0 if the backend has responded since then. Ignored
            if there is a `tap.tracker`, because the tracker stores the time of each request.
    """
    tracker = tap.tracker if tap is not None else None
    if tracker is not None:
        return tracker.oldest_pending() if tracker.parseable else None
    return request_at or None
