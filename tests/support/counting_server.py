"""Simulates how a MySQL server counts aborted logins for each source address, and blocks source addresses."""

from collections.abc import Sequence


class CountingServer:
    """A simulated MySQL server, which the gateway reaches over several paths.

    Args:
        addresses: The source address of each path, as the server sees it. Paths behind the same NAT have the same
            address.
        limit: The number of consecutive aborted logins after which the server blocks an address
            (`max_connect_errors`).
    """

    def __init__(self, addresses: Sequence[int], limit: int) -> None:
        self.addresses = addresses
        self.limit = limit
        self._counts = dict.fromkeys(addresses, 0)
        self.blocked = False
        """Whether the server has blocked one of the addresses."""

    def count(self, path: int) -> int:
        """Return the number of aborted logins since the last successful login, for the address of a path."""
        return self._counts[self.addresses[path]]

    def abort(self, path: int) -> None:
        """Abort a login over a path."""
        self._counts[self.addresses[path]] += 1
        self.blocked |= self.count(path) >= self.limit

    def log_in(self, path: int) -> None:
        """Log in successfully over a path. The server then resets the count of the path's address."""
        self._counts[self.addresses[path]] = 0
