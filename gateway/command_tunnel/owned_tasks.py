"""Runs the background tasks of a tunnel of kind `command`, and cancels them when the tunnel closes."""

import asyncio
from collections.abc import Coroutine
from typing import Any


class OwnedTasks:
    """Runs background tasks, and cancels them on `close`."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, job: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine in a task, and return the task. The caller must await the task to get its exception."""
        task = asyncio.create_task(job)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return task

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # mark the exception as retrieved: otherwise, asyncio logs it

    async def close(self) -> None:
        """Cancel the tasks, and wait until they have ended."""
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks.copy())
