"""Runs units and restarts those that crash. A crash of one unit does not affect the others."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.backoff import RESTART, Backoff
from gateway.cancellation import is_being_cancelled
from gateway.contracts.unit import Unit

log = logging.getLogger(__name__)


class Supervisor:
    """Runs a task for each unit. Create a supervisor with `async with supervise() as supervisor`.

    Args:
        group: The task group that runs the units.
    """

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, name: str, unit: Unit) -> asyncio.Event:
        """Start a unit, and restart it after crashes, until `stop(name)` is called.

        Args:
            name: A unique name, for `stop` and for the log.
            unit: The unit.

        Returns:
            An event that is set once the unit is ready.

        Raises:
            ValueError: A unit with this name is running.
        """
        if name in self._tasks:
            raise ValueError(f"a unit named {name!r} is already running")
        ready = asyncio.Event()
        self._tasks[name] = self._group.create_task(self._run_unit(name, unit, ready), name=name)
        return ready

    async def stop(self, name: str) -> None:
        """Cancel a unit, and wait until its cleanup is complete. Do nothing if the unit is not running."""
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def stop_all(self) -> None:
        """Cancel all units concurrently and wait for them."""
        while self._tasks:  # the cleanup of a unit can start another unit
            await asyncio.gather(*(self.stop(name) for name in list(self._tasks)))

    async def _run_unit(self, name: str, unit: Unit, ready: asyncio.Event) -> None:
        backoff = Backoff(RESTART)
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            try:
                await unit.run(ready.set)
            except asyncio.CancelledError:
                if is_being_cancelled():
                    raise
                # The cancellation comes from inside the unit, not from `stop`. Restart the unit, because
                # otherwise it would stay down without an error.
                log.exception("unit crashed", extra={"unit": name})
            except Exception:
                log.exception("unit crashed", extra={"unit": name})
                if is_being_cancelled():
                    return  # the unit failed while it was being stopped
            else:
                log.warning("unit ended unexpectedly", extra={"unit": name})
            backoff.succeeded(loop.time() - started)
            await asyncio.sleep(backoff.next())


@asynccontextmanager
async def supervise() -> AsyncIterator[Supervisor]:
    """Yield a supervisor. When the block exits, its units are stopped."""
    async with asyncio.TaskGroup() as group:
        supervisor = Supervisor(group)
        try:
            yield supervisor
        finally:
            await supervisor.stop_all()
