"""Runs a blocking read of a file in a thread, with a deadline, because a network file system can hang."""

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
        """Return the result of `read`; or of an earlier call that still runs, in which case `read` is not called.

        Args:
            read: The function.
            within: Seconds to wait for the result.

        Raises:
            TimeoutError: The function has not returned in time. It continues to run.
            Exception: The exception of the function.
        """
        if self._reading is None or self._reading.done():
            self._reading = asyncio.get_running_loop().run_in_executor(None, read)
            self._reading.add_done_callback(lambda done: done.cancelled() or done.exception())
        async with asyncio.timeout(within):
            return await asyncio.shield(self._reading)
