"""The interface of a component."""

from collections.abc import Callable
from typing import Protocol


class Component(Protocol):
    """A long-running component that the supervisor starts and restarts."""

    async def run(self, ready: Callable[[], None]) -> None:
        """Run until cancelled.

        Args:
            ready: Called by the component when it works. Only the first call has an effect.
        """
