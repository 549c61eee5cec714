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

        If the function of an earlier call is still running, first wait until it has returned. Its result is ignored,
        because it can depend on settings that have changed.

        Args:
            function: The function to call.
            within: Maximum seconds to wait, including the wait for the function of an earlier call.

        Raises:
            TimeoutError: The function, or the function of an earlier call, has not returned in time. It continues to
                run.
            Exception: The exception that the function raised.
        """
        async with asyncio.timeout(within):
            while self._pending is not None and not self._pending.done():
                await asyncio.wait({self._pending})
            self._pending = asyncio.get_running_loop().run_in_executor(None, function)
            self._pending.add_done_callback(lambda done: done.cancelled() or done.exception())
            return await asyncio.shield(self._pending)
