"""The lives of a site's units: started under names of their own, stopped, or retired once nobody uses them."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection

from gateway.forwarding.forward import Forward
from gateway.health.monitor import Check
from gateway.supervision.supervisor import Supervisor
from gateway.supervision.uplink import Uplink

_ROOM = 0.05
_DRAINED_POLL = 0.2

Retiring = Uplink | Forward


class Units:
    """Starts and stops what a configuration asks for.

    Args:
        supervisor: Runs the units.
        group: Owns the tasks that wait for something to drain.
        busy: Whether somebody still uses a unit.
    """

    def __init__(self, supervisor: Supervisor, group: asyncio.TaskGroup, busy: Callable[[Retiring], bool]) -> None:
        self._supervisor = supervisor
        self._group = group
        self._busy = busy
        self._names: dict[object, str] = {}
        self._started = 0
        self._retiring: set[Retiring] = set()
        self._making_room: set[Retiring] = set()
        """Those of `_retiring` whose successor cannot be opened beside them."""

    def start(self, name: str, unit: Retiring | Check) -> None:
        """Run `unit`; the number in its name tells it from the one it replaces, which may still be draining."""
        self._started += 1
        self._names[unit] = f"{name} #{self._started}"
        self._supervisor.start(self._names[unit], unit)

    def stop_soon(self, unit: Check) -> None:
        """Stop `unit`, without waiting until it has cleaned up."""
        self._group.create_task(self._stop(unit))

    def retire(self, units: Collection[Retiring], drain: float) -> None:
        """Stop each once its clients are gone, or after `drain` seconds."""
        self._retiring.update(units)  # all of them first: one may go through another
        for unit in units:
            self._group.create_task(self._retire(unit, drain))

    def retiring_forwards(self) -> list[Forward]:
        """Those that drain."""
        return [unit for unit in self._retiring if isinstance(unit, Forward)]

    def retiring_uplinks(self) -> list[Uplink]:
        """Those that drain."""
        return [unit for unit in self._retiring if isinstance(unit, Uplink)]

    def make_room(self, units: Collection[Uplink]) -> Callable[[], Awaitable[None]]:
        """Let the clients of `units` not keep them any longer; what is returned waits until they are gone."""
        self._making_room.update(units)

        async def gone() -> None:
            while any(each in self._retiring for each in units):  # noqa: ASYNC110 - see _retire
                await asyncio.sleep(_ROOM)

        return gone

    async def _stop(self, unit: Retiring | Check) -> None:
        name = self._names.pop(unit, None)
        if name is not None:
            await self._supervisor.stop(name)

    async def _retire(self, unit: Retiring, drain: float) -> None:
        deadline = time.monotonic() + drain
        # Clients end in many places, and this runs only while something drains: a poll is the simplest.
        while time.monotonic() < deadline and unit not in self._making_room and self._busy(unit):  # noqa: ASYNC110
            await asyncio.sleep(min(_DRAINED_POLL, drain))
        await self._stop(unit)
        self._retiring.discard(unit)
        self._making_room.discard(unit)
