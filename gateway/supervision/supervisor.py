"""Runs units, restarts those that crash, and never lets one take another down."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.cancellation import is_being_cancelled
from gateway.contracts import Unit
from gateway.supervision.backoff import RESTART, Backoff

log = logging.getLogger(__name__)


class Supervisor:
    """Owns the task of every unit; use as `async with supervise() as supervisor`.

    Args:
        group: The task group that the units live in.
    """

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, name: str, unit: Unit) -> asyncio.Event:
        """Run `unit` until `stop(name)`; the event is set once it is ready."""
        if name in self._tasks:
            raise ValueError(f"a unit named {name!r} runs already")
        ready = asyncio.Event()
        self._tasks[name] = self._group.create_task(self._keep(name, unit, ready), name=name)
        return ready

    async def stop(self, name: str) -> None:
        """Cancel the unit and wait until it has cleaned up; no error when it is stopped already."""
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def stop_all(self) -> None:
        """Cancel every unit and wait for them together."""
        while self._tasks:  # one may be started by what another does at its end
            await asyncio.gather(*(self.stop(name) for name in list(self._tasks)))

    async def _keep(self, name: str, unit: Unit, ready: asyncio.Event) -> None:
        backoff = Backoff(RESTART)
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            try:
                await unit.run(ready.set)
            except asyncio.CancelledError:
                if is_being_cancelled():
                    raise
                # Something that it waited for was cancelled: it would be gone for ever, and nobody would know.
                log.exception("unit crashed", extra={"unit": name})
            except Exception:
                log.exception("unit crashed", extra={"unit": name})
                if is_being_cancelled():
                    return  # it was being stopped, and failed at that
            else:
                log.warning("unit ended by itself", extra={"unit": name})
            backoff.succeeded(loop.time() - started)
            await asyncio.sleep(backoff.next())


@asynccontextmanager
async def supervise() -> AsyncIterator[Supervisor]:
    """A supervisor whose units end with the block."""
    async with asyncio.TaskGroup() as group:
        supervisor = Supervisor(group)
        try:
            yield supervisor
        finally:
            await supervisor.stop_all()
