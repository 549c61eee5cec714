"""Starts unavailable containers (see `gateway.docker.unavailable_containers`) in background tasks.

A start can take minutes, because the engine first mounts volumes. If the gateway closes the connection on which it
sent the request for a start, the engine cancels the start. The gateway takes all snapshots on one connection, and
closes this connection if a snapshot fails. Therefore, each start uses a separate connection.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

from gateway.docker.engine_client import EngineClient
from gateway.docker.errors import EngineError, EngineErrorKind
from gateway.docker.inspection_conversion import last_start
from gateway.docker.plan import REVIVALS, PlannedAction

_PARALLEL = 4
_SLOT_TIME = 5.0
"""Seconds after which a start no longer counts toward `_PARALLEL`, the maximum number of simultaneous starts. A start
can wait for a mount for an hour, and must not delay other starts for that time."""


class ContainerStarter:
    """Starts unavailable containers (see `UnavailableContainer`) in background tasks.

    Args:
        execute: Executes an action on a connection, and returns whether the action succeeded.
        failed: Called with the action and the error if the gateway cannot connect to the engine for a start, or
            cannot inspect the container before the start.
        ended: Called with the ID of a container after each attempt to start the container.
        permits: Returns whether an action is still allowed. Called immediately before each start, after any wait for
            other starts.
    """

    def __init__(
        self,
        execute: Callable[[EngineClient, PlannedAction], Awaitable[bool]],
        failed: Callable[[PlannedAction, EngineError], None],
        ended: Callable[[str], None],
        permits: Callable[[PlannedAction], bool],
    ) -> None:
        self._execute = execute
        self._failed = failed
        self._ended = ended
        self._permits = permits
        self._tasks: dict[str, asyncio.Task[bool]] = {}
        """For each container ID: the task that starts the container."""
        self._gate = asyncio.Semaphore(_PARALLEL)
        self.requested: set[str] = set()
        """IDs of the containers that the gateway has asked the engine to start, and that are not started yet."""

    def start(self, engine: EngineClient, action: PlannedAction) -> "asyncio.Task[bool]":
        """Return a task that starts or restarts a container on a separate connection.

        The result of the task is whether the container started.
        """
        task = self._tasks[action.container_id] = asyncio.ensure_future(self._run(engine, action))
        return task

    def is_starting(self, action: PlannedAction) -> bool:
        """Return whether an attempt to start the action's container is in progress."""
        task = self._tasks.get(action.container_id) if action.verb in REVIVALS else None
        return task is not None and not task.done()

    def reap(self) -> None:
        """Remove the completed tasks. If a task failed with an unexpected exception, raise this exception."""
        for key in [key for key, task in self._tasks.items() if task.done()]:
            self._tasks.pop(key).result()

    async def cancel(self) -> None:
        """Cancel all starts, and close their connections. The engine then aborts the starts."""
        tasks = list(self._tasks.values())
        self._tasks = {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, engine: EngineClient, action: PlannedAction) -> bool:
        try:
            await self._gate.acquire()
            with ExitStack() as slot:
                slot.callback(self._gate.release)
                timer = asyncio.get_running_loop().call_later(_SLOT_TIME, slot.close)
                slot.callback(timer.cancel)
                return await self._attempt(engine, action)
        finally:
            self._ended(action.container_id)

    async def _attempt(self, engine: EngineClient, action: PlannedAction) -> bool:
        try:
            async with engine.separate() as connection:
                if not await _is_due(connection, action) or not self._permits(action):
                    return False
                self.requested.add(action.container_id)
                try:
                    return await self._execute(connection, action)
                finally:
                    self.requested.discard(action.container_id)
        except EngineError as error:
            self._failed(action, error)
            return False


async def _is_due(engine: EngineClient, action: PlannedAction) -> bool:
    """Return whether the action still applies.

    It no longer applies if the container was started, stopped, changed or removed after the action was planned.

    Raises:
        EngineError: The inspection of the container failed.
    """
    try:
        found = await engine.get(f"containers/{action.container_id}/json")
    except EngineError as error:
        if error.kind is EngineErrorKind.NOT_FOUND:
            return False
        raise
    return last_start(found) == action.last_start
