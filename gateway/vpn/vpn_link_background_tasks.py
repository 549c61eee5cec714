"""Runs the background tasks of a VPN link, and reports the link as lost if a task fails."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from gateway.errors import TargetPathError
from gateway.vpn.link import VpnLink


@contextlib.asynccontextmanager
async def background_tasks(link: VpnLink, *jobs: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run background tasks until the `async with` block exits. If a task fails, report the link as lost.

    Args:
        link: The link.
        jobs: The coroutines to run as tasks.

    Raises:
        Exception: A task failed with an exception that is not a `TargetPathError`. This function raises the
            exception when the block exits.
    """
    tasks = [asyncio.create_task(job) for job in jobs]

    def on_done(task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            link.mark_lost(str(error))

    for task in tasks:
        task.add_done_callback(on_done)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled() and not isinstance(task.exception(), TargetPathError | None):
                task.result()
