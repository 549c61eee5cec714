"""Shuts the service down: gives clients time to finish, and then resets their connections."""

import asyncio
import logging

from gateway.app.running_components import RunningComponents
from gateway.config.sections import ShutdownSection
from gateway.event_wait import wait_at_most

log = logging.getLogger(__name__)

_POLL = 0.05
_MIN_IDLE = 0.05


async def shut_down(runtime: RunningComponents, options: ShutdownSection, immediately: asyncio.Event) -> None:
    """Serve clients for `options.delay` seconds, and then close the listeners.

    During the next `options.drain` seconds, wait until the open connections end, and reset idle connections. Finally,
    reset the remaining connections. The tunnels are not closed.

    Args:
        runtime: The running gateway.
        options: The maximum duration of each step of the shutdown, in seconds.
        immediately: Ends all waits of the shutdown when it is set.
    """
    log.info("stopping", extra={"delay": options.delay, "drain": options.drain, "clients": runtime.active})
    await wait_at_most(immediately, options.delay)
    runtime.stop_accepting()
    loop = asyncio.get_running_loop()
    deadline = loop.time() + options.drain
    while runtime.active and (left := deadline - loop.time()) > 0 and not immediately.is_set():
        runtime.abort_idle(idle_threshold(left, options.drain))
        await wait_at_most(immediately, _POLL)
    if runtime.active:
        log.warning("resetting the remaining client connections", extra={"clients": runtime.active})
    runtime.abort_all()


def idle_threshold(left: float, drain: float) -> float:
    """Return the idle time, in seconds, after which a connection is reset during a drain.

    The result decreases during the drain, so the connections that have been idle longest are reset first. They are
    probably not in use. Near the end of the drain, even a connection that only pauses briefly between two
    transactions is reset.

    Args:
        left: Seconds until the drain ends.
        drain: Duration of the entire drain, in seconds.
    """
    return max(drain / 2 * (left / drain) ** 3, _MIN_IDLE)
