"""Room beyond a backend's limits, for clients that come to cancel something. Pure."""

from collections.abc import Hashable

_MOST = 32
_MOST_OF_ONE = _MOST // 2
"""Of one address, so that a client that says nothing takes it from itself only."""


class Reserve:
    """The clients beyond the limits of one backend, from their arrival to their end."""

    def __init__(self) -> None:
        self._addresses: dict[Hashable, str | None] = {}

    def __len__(self) -> int:
        return len(self._addresses)

    def has_room(self, address: str | None) -> bool:
        """Whether one more client may come from `address`; None: from a unix socket."""
        of_one = sum(each == address for each in self._addresses.values())
        return len(self) < _MOST and of_one < _MOST_OF_ONE

    def enter(self, holder: Hashable, address: str | None) -> None:
        """A client that `holder` stands for has come."""
        self._addresses[holder] = address

    def pass_on(self, holder: Hashable, heir: Hashable) -> bool:
        """Let `heir` stand for the client from now on; False: `holder` stood for none."""
        if holder not in self._addresses:
            return False
        self._addresses[heir] = self._addresses.pop(holder)
        return True

    def leave(self, holder: Hashable) -> None:
        """The client has gone, or there was none."""
        self._addresses.pop(holder, None)
