"""Watches a client that waits to be joined; reads nothing."""

import asyncio

from gateway.contracts import Stream
from gateway.relay.readiness import GONE, READ, readiness


class Vigil:
    """Cancels the current task when its client resets while it waits.

    Args:
        client: Whom to watch, until a relay takes the descriptor over.
    """

    def __init__(self, client: Stream) -> None:
        self.gone = False
        self._client = client
        self._watching = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Watch from now on: the wait may be long."""
        if not self._watching:
            self._watching = True
            self._task = asyncio.current_task()
            readiness().add(self._client.fileno(), self._noticed, GONE)

    def end(self) -> None:
        """Stop watching a client that was never joined."""
        if self._watching and not self.gone:
            readiness().remove(self._client.fileno())

    async def readable(self, within: float) -> bool:
        """Wait until the client has said something, or has ended or reset; False: not within so many seconds."""
        fd = self._client.fileno()
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def noticed(event: int) -> None:
            del event
            readiness().remove(fd)
            if not ready.done():
                ready.set_result(None)

        readiness().add(fd, noticed, READ)
        try:
            async with asyncio.timeout(within):
                await ready
        except TimeoutError:
            return False
        finally:
            readiness().remove(fd)
            if self._watching:
                readiness().add(fd, self._noticed, GONE)
        return True

    def _noticed(self, event: int) -> None:
        del event
        readiness().remove(self._client.fileno())
        self.gone = True
        if self._task is not None:
            self._task.cancel()
