"""Who was cancelled: the task itself, or something that it waits for."""

import asyncio


def asked_to_end() -> bool:
    """Whether the running task was cancelled; False where a `CancelledError` is that of something it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
