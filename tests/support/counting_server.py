"""A model of a MySQL server that counts aborted logins by source address."""

from collections.abc import Sequence


class CountingServer:
    """A server that several ways reach. It blocks an address with too many aborted logins.

    Args:
        addresses: The source address of each way. Ways behind NAT have the same address.
        limit: The server's `max_connect_errors`.
    """

    def __init__(self, addresses: Sequence[int], limit: int) -> None:
        self.addresses = addresses
        self.limit = limit
        self._counts = dict.fromkeys(addresses, 0)
        self.blocked = False
        """Whether the server has blocked one of the addresses."""

    def count(self, way: int) -> int:
        """Return the number of aborted logins from the address of a way since the last login from it."""
        return self._counts[self.addresses[way]]

    def abort(self, way: int) -> None:
        """Count a login that was aborted through a way."""
        self._counts[self.addresses[way]] += 1
        self.blocked |= self.count(way) >= self.limit

    def log_in(self, way: int) -> None:
        """Reset the count of a way's address."""
        self._counts[self.addresses[way]] = 0
