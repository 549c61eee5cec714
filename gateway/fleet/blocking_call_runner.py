"""Runs a blocking call, such as a read from a network file system, in a thread with a deadline."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class BlockingCallRunner(Generic[_T]):
    """Runs one blocking function at a time in a thread, with a deadline.

    A function that exceeds the deadline continues to run. Until this function returns, `run` starts no other thread.
    """

    def __init__(self) -> None:
        self._pending: asyncio.Future[_T] | None = None

    async def run(self, function: Callable[[], _T], within: float) -> _T:
        """Call `function` in a thread, and return its result.

        If the function of an earlier call is still running, do not call `function`. Instead, wait for the earlier
        function, and return its result.

        Args:
            function: The function to call.
            within: Maximum seconds to wait for the result.

        Raises:
            TimeoutError: The function has not returned in time. It continues to run.
            Exception: The exception that the function raised.
        """
        if self._pending is None or self._pending.done():
            self._pending = asyncio.get_running_loop().run_in_executor(None, function)
            self._pending.add_done_callback(lambda done: done.cancelled() or done.exception())
        async with asyncio.timeout(within):
            return await asyncio.shield(self._pending)
