"""Runs components, and restarts each component that crashes. The other components continue to run."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.backoff import RESTART, Backoff
from gateway.contracts.supervised_component import SupervisedComponent
from gateway.task_cancellation import is_being_cancelled

log = logging.getLogger(__name__)


class Supervisor:
    """Runs each component in a task, and restarts it after a crash. Use `supervise` to create a supervisor.

    Args:
        group: The task group that runs the components.
    """

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, name: str, component: SupervisedComponent) -> asyncio.Event:
        """Start a component, and restart it with backoff after each crash, until `stop` is called with its name.

        Args:
            name: A unique name, for `stop` and for the log.
            component: The component.

        Returns:
            An event that is set when the component has become ready for the first time.

        Raises:
            ValueError: A component with this name is already running.
        """
        if name in self._tasks:
            raise ValueError(f"a component named {name!r} is already running")
        ready = asyncio.Event()
        self._tasks[name] = self._group.create_task(self._run_component(name, component, ready), name=name)
        return ready

    async def stop(self, name: str) -> None:
        """Cancel a component, and wait until its cleanup is complete. Do nothing if the component is not running."""
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def stop_all(self) -> None:
        """Cancel all components concurrently, and wait until their cleanup is complete."""
        while self._tasks:  # repeat, because the cleanup of a component can start another component
            await asyncio.gather(*(self.stop(name) for name in list(self._tasks)))

    async def _run_component(self, name: str, component: SupervisedComponent, ready: asyncio.Event) -> None:
        backoff = Backoff(RESTART)
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            try:
                await component.run(ready.set)
            except asyncio.CancelledError:
                if is_being_cancelled():
                    raise
                # `stop` was not called, so the component itself raised this error. Treat the error as a crash:
                # otherwise, the component would end without a log message.
                log.exception("component crashed", extra={"component": name})
            except Exception:
                log.exception("component crashed", extra={"component": name})
                if is_being_cancelled():
                    return  # do not restart the component, because it was cancelled
            else:
                log.warning("component ended unexpectedly: restarting it", extra={"component": name})
            backoff.succeeded(loop.time() - started)
            await asyncio.sleep(backoff.next())


@asynccontextmanager
async def supervise() -> AsyncIterator[Supervisor]:
    """Yield a supervisor. On exit from the `async with` block, stop all components."""
    async with asyncio.TaskGroup() as group:
        supervisor = Supervisor(group)
        try:
            yield supervisor
        finally:
            await supervisor.stop_all()
