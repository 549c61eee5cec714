"""A model of a MySQL server that counts aborted logins by source address."""

from collections.abc import Sequence


class CountingServer:
    """A server that several paths reach. It blocks an address with too many aborted logins.

    Args:
        addresses: The source address of each path. Paths behind NAT have the same address.
        limit: The server's `max_connect_errors`.
    """

    def __init__(self, addresses: Sequence[int], limit: int) -> None:
        self.addresses = addresses
        self.limit = limit
        self._counts = dict.fromkeys(addresses, 0)
        self.blocked = False
        """Whether the server has blocked one of the addresses."""

    def count(self, path: int) -> int:
        """Return the number of aborted logins from the address of a path since the last login from it."""
        return self._counts[self.addresses[path]]

    def abort(self, path: int) -> None:
        """Count a login that was aborted over a path."""
        self._counts[self.addresses[path]] += 1
        self.blocked |= self.count(path) >= self.limit

    def log_in(self, path: int) -> None:
        """Reset the count of a path's address."""
        self._counts[self.addresses[path]] = 0
