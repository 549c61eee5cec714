"""The interface of components: the long-running tasks that the supervisor starts, restarts and stops."""

from collections.abc import Callable
from typing import Protocol


class Component(Protocol):
    """A long-running part of the service, such as an uplink or a check. The supervisor starts and restarts it."""

    async def run(self, ready: Callable[[], None]) -> None:
        """Run until cancelled.

        Args:
            ready: The component calls this function when it is ready. Only the first call has an effect.
        """
