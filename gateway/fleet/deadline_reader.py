"""Runs a blocking read of a file in a thread, with a deadline, because a network file system can hang."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class DeadlineReader(Generic[_T]):
    """Runs a blocking function in a thread, with a deadline. While it hangs, further calls wait for it."""

    def __init__(self) -> None:
        self._reading: asyncio.Future[_T] | None = None

    async def run(self, read: Callable[[], _T], within: float) -> _T:
        """Return the result of `read`, or of the call that still runs.

        Args:
            read: The function.
            within: Seconds to wait. The call continues after this time.

        Raises:
            TimeoutError: The call has not finished in time.
            Exception: The exception of the function.
        """
        if self._reading is None or self._reading.done():
            self._reading = asyncio.get_running_loop().run_in_executor(None, read)
            self._reading.add_done_callback(lambda done: done.cancelled() or done.exception())
        async with asyncio.timeout(within):
            return await asyncio.shield(self._reading)
