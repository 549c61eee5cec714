"""Runs blocking reads of files in a thread, with a deadline, because a network file system can hang."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class DeadlineReader(Generic[_T]):
    """Runs a blocking function in a thread, with a deadline.

    After a timeout, the function continues to run. Until it returns, further calls wait for it instead of starting
    another thread.
    """

    def __init__(self) -> None:
        self._reading: asyncio.Future[_T] | None = None

    async def run(self, read: Callable[[], _T], within: float) -> _T:
        """Call `read` in a thread, and return its result.

        If an earlier function still runs, do not call `read`, but wait for the result of the earlier function.

        Args:
            read: The function.
            within: Seconds to wait for the result.

        Raises:
            TimeoutError: The function has not returned in time. It continues to run.
            Exception: The function raised this exception.
        """
        if self._reading is None or self._reading.done():
            self._reading = asyncio.get_running_loop().run_in_executor(None, read)
            self._reading.add_done_callback(lambda done: done.cancelled() or done.exception())
        async with asyncio.timeout(within):
            return await asyncio.shield(self._reading)
