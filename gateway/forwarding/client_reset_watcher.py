"""Detects that a waiting client has disconnected, without reading the client's data."""

import asyncio

from gateway.contracts.link import Stream
from gateway.relay.fd_poller import HANGUP, READ, poller


class ClientResetWatcher:
    """Watches the connection of a waiting client. If the client resets the connection, cancels the client's task.

    Args:
        client: The client's socket.
    """

    def __init__(self, client: Stream) -> None:
        self.disconnected = False
        self._client = client
        self._watching = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start watching. A reset by the client then cancels the calling task. Further calls do nothing."""
        if not self._watching:
            self._watching = True
            self._task = asyncio.current_task()
            poller().add(self._client.fileno(), self._on_hangup, HANGUP)

    def stop(self) -> None:
        """Stop watching.

        Do not call this method after a relay has started to poll the socket, because the call would also remove the
        relay's handler from the poller.
        """
        if self._watching and not self.disconnected:
            poller().remove(self._client.fileno())

    async def readable(self, within: float) -> bool:
        """Wait until the client has sent data, sent end-of-file, or reset the connection.

        Args:
            within: Seconds to wait.

        Returns:
            False if `within` seconds have passed without one of these events.
        """
        fd = self._client.fileno()
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def on_event(event: int) -> None:
            del event
            poller().remove(fd)
            if not ready.done():
                ready.set_result(None)

        poller().add(fd, on_event, READ)
        try:
            async with asyncio.timeout(within):
                await ready
        except TimeoutError:
            return False
        finally:
            poller().remove(fd)
            if self._watching:
                poller().add(fd, self._on_hangup, HANGUP)
        return True

    def _on_hangup(self, event: int) -> None:
        del event
        poller().remove(self._client.fileno())
        self.disconnected = True
        if self._task is not None:
            self._task.cancel()
