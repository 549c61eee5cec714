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


class Units:
    """Starts and stops what a configuration asks for.

    Args:
        supervisor: Runs the units.
        group: Owns the tasks that wait for something to drain.
        busy: Whether somebody still uses an uplink.
    """

    def __init__(self, supervisor: Supervisor, group: asyncio.TaskGroup, busy: Callable[[Uplink], bool]) -> None:
        self._supervisor = supervisor
        self._group = group
        self._busy = busy
        self._names: dict[object, str] = {}
        self._started = 0
        self._retiring_forwards: set[Forward] = set()
        self._retiring_uplinks: set[Uplink] = set()
        self._making_room: set[Uplink] = set()
        """Those of `_retiring_uplinks` whose successor cannot be opened beside them."""

    def start(self, name: str, unit: Uplink | Forward | Check) -> None:
        """Run `unit`; the number in its name tells it from the one it replaces, which may still be draining."""
        self._started += 1
        self._names[unit] = f"{name} #{self._started}"
        self._supervisor.start(self._names[unit], unit)

    def stop_soon(self, unit: Check) -> None:
        """Stop `unit`, without waiting until it has cleaned up."""
        self._group.create_task(self._stop(unit))

    def retire_forward(self, forward: Forward, drain: float) -> None:
        """Stop a forward once its clients are gone, or after `drain` seconds."""
        self._retiring_forwards.add(forward)
        self._group.create_task(self._retire_forward(forward, drain))

    def retire_uplinks(self, uplinks: Collection[Uplink], drain: float) -> None:
        """Stop each uplink once nothing uses it, or after `drain` seconds."""
        self._retiring_uplinks.update(uplinks)  # all of them first: one may go through another
        for uplink in uplinks:
            self._group.create_task(self._retire_uplink(uplink, drain))

    def retiring_forwards(self) -> list[Forward]:
        """Those that drain."""
        return list(self._retiring_forwards)

    def retiring_uplinks(self) -> list[Uplink]:
        """Those that drain."""
        return list(self._retiring_uplinks)

    def make_room(self, units: Collection[Uplink]) -> Callable[[], Awaitable[None]]:
        """Let the clients of `units` not keep them any longer; what is returned waits until they are gone."""
        self._making_room.update(units)

        async def gone() -> None:
            while any(each in self._retiring_uplinks for each in units):  # noqa: ASYNC110 - see _unused
                await asyncio.sleep(_ROOM)

        return gone

    async def _stop(self, unit: Uplink | Forward | Check) -> None:
        name = self._names.pop(unit, None)
        if name is not None:
            await self._supervisor.stop(name)

    async def _retire_forward(self, forward: Forward, drain: float) -> None:
        await _unused(lambda: forward.active > 0, drain)
        await self._stop(forward)
        self._retiring_forwards.discard(forward)

    async def _retire_uplink(self, uplink: Uplink, drain: float) -> None:
        await _unused(lambda: uplink not in self._making_room and self._busy(uplink), drain)
        await self._stop(uplink)
        self._retiring_uplinks.discard(uplink)
        self._making_room.discard(uplink)


async def _unused(busy: Callable[[], bool], within: float) -> None:
    """Wait until `busy` returns False, or `within` seconds have passed."""
    deadline = time.monotonic() + within
    # Clients end in many places, and this runs only while something drains: a poll is the simplest.
    while time.monotonic() < deadline and busy():  # noqa: ASYNC110 - see above
        await asyncio.sleep(min(_DRAINED_POLL, within))
