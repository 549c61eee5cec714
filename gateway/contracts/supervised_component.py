"""Defines the interface of components: long-running parts of the service that the supervisor runs and restarts."""

from collections.abc import Callable
from typing import Protocol


class SupervisedComponent(Protocol):
    """Defines the interface of components. If a component fails, the supervisor restarts it."""

    async def run(self, ready: Callable[[], None]) -> None:
        """Run until cancelled.

        Args:
            ready: The component calls this function when it is ready. Only the first call has an effect.
        """
