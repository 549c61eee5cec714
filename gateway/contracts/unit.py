"""The interface of a unit."""

from collections.abc import Callable
from typing import Protocol


class Unit(Protocol):
    """A long-running component that the supervisor starts and restarts."""

    async def run(self, ready: Callable[[], None]) -> None:
        """Run until cancelled.

        Args:
            ready: Call it when the unit works. Only the first call has an effect.
        """
