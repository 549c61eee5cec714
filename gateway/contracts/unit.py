"""The interface of a unit."""

from collections.abc import Callable
from typing import Protocol


class Unit(Protocol):
    """A long-running component that the supervisor starts and restarts."""

    async def run(self, ready: Callable[[], None]) -> None:
        """Run until cancelled.

        Args:
            ready: Called by the unit when it works. Only the first call has an effect.
        """
