"""Reserves a few connections beyond a backend's limits, for clients that might send a cancel request. Does no I/O."""

from collections.abc import Hashable

_MAX_CLIENTS = 32
_MAX_PER_ADDRESS = _MAX_CLIENTS // 2
"""Maximum number of clients from one address, so that idle clients from one address cannot occupy all reserved
connections."""


class CancelRequestReserve:
    """The clients that one backend accepted beyond its limits, because they might send a cancel request.

    A hashable key identifies each client. At first, the key is the client's task. After the client is connected to a
    target, the key is the `ended` future of its relay.
    """

    def __init__(self) -> None:
        self._addresses: dict[Hashable, str | None] = {}

    def __len__(self) -> int:
        return len(self._addresses)

    def has_room(self, address: str | None) -> bool:
        """Return whether a client from `address` can be added. `address` is None for a client on a unix socket."""
        from_address = sum(each == address for each in self._addresses.values())
        return len(self) < _MAX_CLIENTS and from_address < _MAX_PER_ADDRESS

    def add(self, key: Hashable, address: str | None) -> None:
        """Add a client from `address`, which is None for a client on a unix socket."""
        self._addresses[key] = address

    def rekey(self, old: Hashable, new: Hashable) -> bool:
        """Change a client's key from `old` to `new`. Return False if no client has the key `old`."""
        if old not in self._addresses:
            return False
        self._addresses[new] = self._addresses.pop(old)
        return True

    def remove(self, key: Hashable) -> None:
        """Remove the client with the key `key`. Do nothing if no client has this key."""
        self._addresses.pop(key, None)
