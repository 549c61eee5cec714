"""Starts and stops the components of the service: uplinks (tunnels), forwards (listeners of backends) and checks."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection

from gateway.forwarding.forward import Forward
from gateway.health.check import Check
from gateway.supervision.supervisor import Supervisor
from gateway.supervision.uplink import Uplink

_REPLACE_POLL = 0.05
_DRAIN_POLL = 0.2


class ComponentManager:
    """Starts uplinks, forwards and checks, and stops each of them immediately or after a drain.

    Args:
        supervisor: Runs the components.
        group: Runs the tasks that drain and stop components.
    """

    def __init__(self, supervisor: Supervisor, group: asyncio.TaskGroup) -> None:
        self._supervisor = supervisor
        self._group = group
        self._names: dict[object, str] = {}
        self._started = 0
        self._retiring_forwards: set[Forward] = set()
        self._retiring_uplinks: set[Uplink] = set()
        self._stop_early: set[Uplink] = set()
        """The draining uplinks that must stop now, because new uplinks wait until these have stopped."""

    def start(self, name: str, component: Uplink | Forward | Check) -> None:
        """Start `component`. Append a number to `name`, because an older component might still use this name."""
        self._started += 1
        self._names[component] = f"{name} #{self._started}"
        self._supervisor.start(self._names[component], component)

    def stop_soon(self, component: Check) -> None:
        """Start a task that stops `component`, and return without waiting for the task."""
        self._group.create_task(self._stop(component))

    def retire_forward(self, forward: Forward, drain: float) -> None:
        """Stop a forward as soon as it has no clients, at the latest after `drain` seconds."""
        self._retiring_forwards.add(forward)
        self._group.create_task(self._retire_forward(forward, drain))

    def retire_uplinks(self, uplinks: Collection[Uplink], drain: float, busy: Callable[[Uplink], bool]) -> None:
        """Stop each uplink as soon as it is not busy, at the latest after `drain` seconds.

        Args:
            uplinks: The uplinks.
            drain: Maximum time to wait, in seconds.
            busy: Returns whether an uplink is in use.
        """
        # A tunnel must not stop before the tunnels inside it. To find the inner tunnels, `busy` reads
        # `_retiring_uplinks`. Therefore, add all uplinks before the first task runs.
        self._retiring_uplinks.update(uplinks)
        for uplink in uplinks:
            self._group.create_task(self._retire_uplink(uplink, drain, busy))

    def retiring_forwards(self) -> list[Forward]:
        """Return the draining forwards."""
        return list(self._retiring_forwards)

    def retiring_uplinks(self) -> list[Uplink]:
        """Return the draining uplinks."""
        return list(self._retiring_uplinks)

    def stop_early(self, uplinks: Collection[Uplink]) -> Callable[[], Awaitable[None]]:
        """End the drain of uplinks: stop each of them immediately, even if it is in use.

        Returns:
            A function that waits until these uplinks have stopped.
        """
        self._stop_early.update(uplinks)

        async def wait_stopped() -> None:
            while any(each in self._retiring_uplinks for each in uplinks):  # noqa: ASYNC110 - polls on purpose
                await asyncio.sleep(_REPLACE_POLL)

        return wait_stopped

    async def _stop(self, component: Uplink | Forward | Check) -> None:
        name = self._names.pop(component, None)
        if name is not None:
            await self._supervisor.stop(name)

    async def _retire_forward(self, forward: Forward, drain: float) -> None:
        await _wait_unused(lambda: forward.active > 0, drain)
        await self._stop(forward)
        self._retiring_forwards.discard(forward)

    async def _retire_uplink(self, uplink: Uplink, drain: float, busy: Callable[[Uplink], bool]) -> None:
        await _wait_unused(lambda: uplink not in self._stop_early and busy(uplink), drain)
        await self._stop(uplink)
        self._retiring_uplinks.discard(uplink)
        self._stop_early.discard(uplink)


async def _wait_unused(busy: Callable[[], bool], within: float) -> None:
    deadline = time.monotonic() + within
    # Poll `busy` instead of waiting for an event. Otherwise, many places in the code would have to set the event.
    while time.monotonic() < deadline and busy():  # noqa: ASYNC110 - polls on purpose
        await asyncio.sleep(min(_DRAIN_POLL, within))
