"""The tasks that look after an open link: they end with it, and it ends with them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from gateway.errors import ReachError
from gateway.vpn.link import VpnLink


@contextlib.asynccontextmanager
async def watching(link: VpnLink, *jobs: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run `jobs` until the block ends; one that fails ends the link, and an error nobody foresaw is raised."""
    tasks = [asyncio.create_task(job) for job in jobs]

    def ended(task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            link.lose(str(error))

    for task in tasks:
        task.add_done_callback(ended)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled() and not isinstance(task.exception(), ReachError | None):
                task.result()
