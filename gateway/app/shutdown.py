"""Shuts a site down without interrupting clients that are about to finish."""

import asyncio
import logging

from gateway.app.site import Site
from gateway.config.model import ShutdownSection

log = logging.getLogger(__name__)

_POLL = 0.05
_MIN_IDLE = 0.05
_WORKER_REPORT_WAIT = 0.3


async def shut_down(site: Site, options: ShutdownSection, immediately: asyncio.Event) -> None:
    """Serve clients for `delay`, then accept no new clients, and drain the open connections for up to `drain`.

    Connections that remain at the end are reset. Tunnels stay open.

    Args:
        site: The running site.
        options: The seconds that each step may take.
        immediately: Ends every wait once it is set.
    """
    log.info("stopping", extra={"delay": options.delay, "drain": options.drain, "clients": site.active})
    await _wait(options.delay, immediately)
    site.stop_accepting()
    if site.workers.units:
        # The next reports include the clients that the workers accepted last.
        await _wait(_WORKER_REPORT_WAIT, immediately)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + options.drain
    while site.active and (left := deadline - loop.time()) > 0 and not immediately.is_set():
        site.abort_idle(idle_threshold(left, options.drain))
        await _wait(_POLL, immediately)
    if site.active:
        log.warning("resetting the remaining clients", extra={"clients": site.active})
    site.abort_all()


async def _wait(seconds: float, immediately: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(seconds):
            await immediately.wait()
    except TimeoutError:
        return


def idle_threshold(left: float, drain: float) -> float:
    """Return for how many seconds a connection must have been silent to be reset.

    The connection that has been silent longest is the least likely to be in use, so it is reset first. The threshold
    falls as the drain's time runs out. It falls early enough to find each connection of a busy pool between two
    transactions.

    Args:
        left: Seconds of the drain that are left.
        drain: Seconds of the whole drain.
    """
    return max(drain / 2 * (left / drain) ** 3, _MIN_IDLE)
