"""Functions for the cancellation of asyncio tasks."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

log = logging.getLogger(__name__)

_T = TypeVar("_T")


def is_being_cancelled() -> bool:
    """Return whether the running task itself was cancelled.

    If this is False in a handler of `CancelledError`, only the awaited task or future was cancelled.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def complete(work: Coroutine[Any, Any, _T], grace: float) -> _T:
    """Await `work`, and return its result. If the caller is cancelled, first give `work` some time to end.

    Args:
        work: The coroutine to run.
        grace: The seconds that `work` can still take after the cancellation of the caller. After this time, or after
            a second cancellation, `work` is cancelled.

    Raises:
        asyncio.CancelledError: The caller or `work` was cancelled. If the caller was cancelled, the result of `work`
            is lost, and its error is only logged.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task})
        return task.result()
    except asyncio.CancelledError:
        await asyncio.wait({task}, timeout=grace)
        if task.done() and not task.cancelled() and (error := task.exception()):
            log.error("an operation failed after its caller was cancelled", exc_info=error)
        raise
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
