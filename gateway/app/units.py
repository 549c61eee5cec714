"""Starts, stops and retires the units of a site."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection

from gateway.forwarding.forward import Forward
from gateway.health.monitor import Check
from gateway.supervision.supervisor import Supervisor
from gateway.supervision.uplink import Uplink

_REPLACE_POLL = 0.05
_DRAIN_POLL = 0.2

Retiring = Uplink | Forward


class Units:
    """The units of a site, from start to stop.

    Args:
        supervisor: Runs the units.
        group: Owns the tasks that wait until a unit has drained.
        busy: Returns whether a unit still has clients.
    """

    def __init__(self, supervisor: Supervisor, group: asyncio.TaskGroup, busy: Callable[[Retiring], bool]) -> None:
        self._supervisor = supervisor
        self._group = group
        self._busy = busy
        self._names: dict[object, str] = {}
        self._started = 0
        self._retiring: set[Retiring] = set()
        self._stop_early: set[Retiring] = set()
        """The retiring units that must stop before their successor can start."""

    def start(self, name: str, unit: Retiring | Check) -> None:
        """Run `unit`. A number in its name distinguishes it from a predecessor that is still draining."""
        self._started += 1
        self._names[unit] = f"{name} #{self._started}"
        self._supervisor.start(self._names[unit], unit)

    def stop_soon(self, unit: Check) -> None:
        """Stop `unit`, without waiting until it has stopped."""
        self._group.create_task(self._stop(unit))

    def retire(self, units: Collection[Retiring], drain: float) -> None:
        """Stop each unit once it has no clients, or after `drain` seconds."""
        self._retiring.update(units)  # before the first task runs, because one unit may use another
        for unit in units:
            self._group.create_task(self._retire(unit, drain))

    def retiring_forwards(self) -> list[Forward]:
        """Return the forwards that drain."""
        return [unit for unit in self._retiring if isinstance(unit, Forward)]

    def retiring_uplinks(self) -> list[Uplink]:
        """Return the uplinks that drain."""
        return [unit for unit in self._retiring if isinstance(unit, Uplink)]

    def stop_early(self, units: Collection[Uplink]) -> Callable[[], Awaitable[None]]:
        """Stop retiring uplinks even if they have clients; return a function that waits until they have stopped."""
        self._stop_early.update(units)

        async def wait_stopped() -> None:
            while any(each in self._retiring for each in units):  # noqa: ASYNC110 - see _retire
                await asyncio.sleep(_REPLACE_POLL)

        return wait_stopped

    async def _stop(self, unit: Retiring | Check) -> None:
        name = self._names.pop(unit, None)
        if name is not None:
            await self._supervisor.stop(name)

    async def _retire(self, unit: Retiring, drain: float) -> None:
        deadline = time.monotonic() + drain
        # Clients end in many places, and this runs only while a unit drains: polling is the simplest.
        while time.monotonic() < deadline and unit not in self._stop_early and self._busy(unit):  # noqa: ASYNC110
            await asyncio.sleep(min(_DRAIN_POLL, drain))
        await self._stop(unit)
        self._retiring.discard(unit)
        self._stop_early.discard(unit)
