"""Connection slots beyond a backend's limits, for clients that may send a cancel request. Pure."""

from collections.abc import Hashable

_MAX_CLIENTS = 32
_MAX_PER_ADDRESS = _MAX_CLIENTS // 2
"""Maximum number of clients from one address, so that one address that sends nothing cannot use up the reserve."""


class CancelReserve:
    """Clients beyond the limits of one backend, from accept to close.

    Each client is identified by a hashable key: its task at first, its relay's `ended` future after it is joined.
    """

    def __init__(self) -> None:
        self._addresses: dict[Hashable, str | None] = {}

    def __len__(self) -> int:
        return len(self._addresses)

    def has_room(self, address: str | None) -> bool:
        """Return whether the reserve has room for a client from `address`; None: the client uses a unix socket."""
        from_address = sum(each == address for each in self._addresses.values())
        return len(self) < _MAX_CLIENTS and from_address < _MAX_PER_ADDRESS

    def add(self, key: Hashable, address: str | None) -> None:
        """Add a client from `address`."""
        self._addresses[key] = address

    def rekey(self, old: Hashable, new: Hashable) -> bool:
        """Change a client's key; return False if `old` is not in the reserve."""
        if old not in self._addresses:
            return False
        self._addresses[new] = self._addresses.pop(old)
        return True

    def remove(self, key: Hashable) -> None:
        """Remove a client. Do nothing if it is not in the reserve."""
        self._addresses.pop(key, None)
