"""Limits the number of connections to the ops server. At the limit, selects the connection to close. Does no I/O."""

import resource
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

_MAX_CONNECTIONS = 64
_MIN_CONNECTIONS = 8
_DESCRIPTOR_SHARE = 8
"""The connection limit of a listener is RLIMIT_NOFILE / `_DESCRIPTOR_SHARE`, but at least `_MIN_CONNECTIONS` and at
most `_MAX_CONNECTIONS`."""

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class HttpConnectionLimits:
    """The limits on the connections of one listener. All times are in seconds.

    Args:
        connections: Maximum number of concurrent connections.
        per_address: Maximum number of concurrent connections from one client address.
        head: Maximum time to receive the headers of a request. The time starts with the first byte of the request.
            For the first request, it starts when the connection is accepted.
        idle: Maximum time between two requests on one connection.
        response: Maximum time from the end of the headers to the last byte of the response.
        request_bytes: Maximum size of one request in bytes, including its body.
    """

    connections: int
    per_address: int
    head: float = 5.0
    idle: float = 75.0
    response: float = 30.0
    request_bytes: int = 16 * 1024


def limits_for(descriptors: int, response: float = 30.0) -> HttpConnectionLimits:
    """Return the limits of a listener. The number of connections depends on the limit for file descriptors.

    Args:
        descriptors: RLIMIT_NOFILE of the process (getrlimit(2)).
        response: Maximum seconds from the end of a request's headers to the last byte of the response.
    """
    unlimited = descriptors == resource.RLIM_INFINITY
    share = _MAX_CONNECTIONS if unlimited else descriptors // _DESCRIPTOR_SHARE
    connections = max(_MIN_CONNECTIONS, min(_MAX_CONNECTIONS, share))
    return HttpConnectionLimits(connections=connections, per_address=connections // 2, response=response)


class HttpConnectionTable(Generic[Key]):
    """The open connections of one listener, in the order of their last use.

    Args:
        limits: The maximum numbers of connections.
    """

    def __init__(self, limits: HttpConnectionLimits) -> None:
        self._limits = limits
        self._idle: dict[Key, str | None] = {}
        """The connections that wait for the headers of a request, each with the client's address; None for a unix
        socket."""
        self._responding: dict[Key, str | None] = {}

    def __len__(self) -> int:
        return len(self._idle) + len(self._responding)

    def __contains__(self, key: Key) -> bool:
        return key in self._idle or key in self._responding

    def __iter__(self) -> Iterator[Key]:
        return iter([*self._idle, *self._responding])

    def add(self, key: Key, address: str | None) -> Key | None:
        """Add a connection. If a limit is already reached, first remove the connection that `oldest` returns.

        Args:
            key: The connection.
            address: The client's address; None for a unix socket.

        Returns:
            The removed connection, which the caller must close; None if no connection was removed.
        """
        evicted = None
        if address is not None and self._count(address) >= self._limits.per_address:
            evicted = self.oldest(address)
        elif len(self) >= self._limits.connections:
            evicted = self.oldest()
        if evicted is not None:
            self.remove(evicted)
        self._idle[key] = address
        return evicted

    def headers_received(self, key: Key) -> None:
        """Record that the headers of a request have arrived on a connection."""
        if key in self._idle:
            self._responding[key] = self._idle.pop(key)

    def response_sent(self, key: Key) -> None:
        """Record that the response on a connection is complete, and that the connection is now idle."""
        if key in self._responding:
            self._idle[key] = self._responding.pop(key)

    def remove(self, key: Key) -> None:
        """Remove a connection, if it is present."""
        self._idle.pop(key, None)
        self._responding.pop(key, None)

    def oldest(self, address: str | None = None) -> Key | None:
        """Return the least recently used connection; None if there is no connection.

        If there are idle connections, consider only these.

        Args:
            address: Consider only connections from this client address. None: consider all connections.
        """
        for group in (self._idle, self._responding):
            for key, peer in group.items():
                if address is None or peer == address:
                    return key
        return None

    def _count(self, address: str) -> int:
        return sum(peer == address for group in (self._idle, self._responding) for peer in group.values())
