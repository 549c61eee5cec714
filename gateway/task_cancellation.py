"""Determines whether the running task itself was cancelled, or only a task or future that it awaits."""

import asyncio


def is_being_cancelled() -> bool:
    """Return whether the running task itself was cancelled.

    If this is False in a handler of `CancelledError`, only the awaited task or future was cancelled.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
