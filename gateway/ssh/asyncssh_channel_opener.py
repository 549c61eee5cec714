"""Opens channels on an SSH connection through asyncssh."""

import asyncio
from functools import partial
from typing import Any, cast

import asyncssh

from gateway.connection_tap import Tap
from gateway.contracts.config_types import HostPort
from gateway.contracts.states import CloseReason
from gateway.metric_types import Histogram
from gateway.ssh.asyncssh_internals import disable_auto_adjust
from gateway.ssh.asyncssh_relay import AsyncsshRelay
from gateway.ssh.send_queue import SendQueue

_MAX_PACKET = 32 * 1024
"""Maximum size, in bytes, of the channel data packets that the gateway accepts. CHANNEL_OPEN contains this value."""
_Opened = tuple["asyncssh.SSHTCPChannel[bytes]", "asyncssh.SSHTCPSession[bytes]"]


class AsyncsshChannelOpener:
    """Opens asyncssh channels; implements `gateway.ssh.channel_interfaces.ChannelOpener`.

    Args:
        conn: The SSH connection.
        queue: Determines the order in which the relays of the connection send. None if asyncssh's own transport sends
            the data.
    """

    def __init__(self, conn: asyncssh.SSHClientConnection, queue: SendQueue | None = None) -> None:
        self._conn = conn
        self._queue = queue
        disable_auto_adjust(conn)
        self._opening: set[asyncio.Task[_Opened]] = set()
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def opening_count(self) -> int:
        """See `gateway.ssh.channel_interfaces.ChannelOpener`."""
        return len(self._opening)

    async def open(
        self,
        to: HostPort,
        latency: Histogram,
        timeout: float,  # noqa: ASYNC109 - `ChannelOpener` defines it
        tap: Tap | None = None,
    ) -> AsyncsshRelay:
        """See `gateway.ssh.channel_interfaces.ChannelOpener`."""
        relay = AsyncsshRelay(latency, self._queue, tap)
        # Open the channel in a separate task, because asyncssh leaks a channel whose opening is cancelled
        # (asyncssh #823). If the caller stops waiting, `_abort_late` aborts the channel once it is open.
        opening: asyncio.Task[_Opened] = asyncio.ensure_future(self._open_channel(relay, to))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)
        failure = self._failure
        try:
            both: set[asyncio.Future[Any]] = {opening, failure}
            await asyncio.wait(both, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            # If the task `opening` is already done, asyncio calls the callback in the next loop iteration.
            opening.add_done_callback(partial(_abort_late, relay))
            raise
        if opening.done():
            opening.result()
            return relay
        opening.add_done_callback(partial(_abort_late, relay))
        if failure.done():
            failure.result()
        raise TimeoutError

    def fail_opens(self, error: Exception) -> None:
        """See `gateway.ssh.channel_interfaces.ChannelOpener`."""
        failure, self._failure = self._failure, asyncio.get_running_loop().create_future()
        failure.set_exception(error)
        failure.exception()  # mark the exception as retrieved, so that asyncio does not log it

    async def _open_channel(self, relay: AsyncsshRelay, to: HostPort) -> _Opened:
        try:
            if to.is_unix:
                opened: Any = await self._conn.create_unix_connection(
                    cast("Any", lambda: relay), to.host, window=relay.window.size, max_pktsize=_MAX_PACKET
                )
                return cast("_Opened", opened)
            return await self._conn.create_connection(
                lambda: relay, to.host, to.port, "127.0.0.1", 0, window=relay.window.size, max_pktsize=_MAX_PACKET
            )
        except BaseException:
            relay.window.close()
            raise


def _abort_late(relay: AsyncsshRelay, opening: asyncio.Task[_Opened]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        relay.abort(CloseReason.ABORTED)
