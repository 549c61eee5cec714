"""Stops the dial over the last path that is left, if another path becomes usable or better in the meantime."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from gateway.errors import DialError, FailureReason
from gateway.forwarding.backend_route import BackendRoute
from gateway.forwarding.target_path import TargetPath

RECHECK_INTERVAL = 1.0
"""Interval, in seconds, at which a waiting or dialing client reads the paths of its route again."""
_MIN_REMAINING = 1.0
"""Minimum remaining time, in seconds, for the dials over the better paths."""


class BetterPathAvailableError(DialError):
    """A dial was stopped because another path is better.

    Args:
        target_path: The path of the stopped dial.
    """

    def __init__(self, target_path: TargetPath) -> None:
        super().__init__(FailureReason.TIMEOUT, f"{target_path.target}: no answer, and another path is usable now")
        self.target_path = target_path


@contextlib.asynccontextmanager
async def stop_if_another_path_is_better(
    route: BackendRoute, dialed: Sequence[TargetPath], minimum: float, deadline: float
) -> AsyncIterator[None]:
    """Let the body dial the last of `dialed`. Cancel the body when the client has a better path.

    Another path is better if it was not usable at the start of the dials, or if it has become the preferred path.

    Args:
        route: The route of the client.
        dialed: The usable paths, in the order in which the client dials them. The body dials the last one.
        minimum: Seconds after which the body can be cancelled.
        deadline: Time of the event loop until which the client waits. In the last second before this time, the body
            is not cancelled.

    Raises:
        BetterPathAvailableError: The body was cancelled because another path is better.
    """
    loop = asyncio.get_running_loop()
    preferred = dialed[0]
    timer: asyncio.TimerHandle

    def recheck() -> None:
        nonlocal preferred, timer
        if loop.time() > deadline - _MIN_REMAINING:
            return
        usable = [each for each in route.paths() if each.uplink.link is not None]
        before, preferred = preferred, usable[0] if usable else dialed[-1]
        if preferred not in (before, dialed[-1]) or not set(usable) <= set(dialed):
            limit.reschedule(loop.time())
        else:
            timer = loop.call_later(RECHECK_INTERVAL, recheck)

    timer = loop.call_later(minimum, recheck)
    try:
        async with asyncio.timeout(None) as limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        raise BetterPathAvailableError(dialed[-1]) from None
    finally:
        timer.cancel()
