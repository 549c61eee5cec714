"""How a site ends: no client is cut off that could still finish."""

import asyncio
import logging

from gateway.app.site import Site
from gateway.config.model import ShutdownSection

log = logging.getLogger(__name__)

_POLL = 0.05
_LEAST_IDLE = 0.05
_WORKERS_ANSWER = 0.3


async def wind_down(site: Site, shutdown: ShutdownSection, at_once: asyncio.Event) -> None:
    """Serve a while longer; then no new clients; then the open ones end, or are ended. Tunnels close after that.

    Args:
        site: What is running.
        shutdown: How long each step may take.
        at_once: Ends every wait.
    """
    log.info("stopping", extra={"delay": shutdown.delay, "drain": shutdown.drain, "clients": site.active})
    await _pause(shutdown.delay, at_once)
    site.stop_accepting()
    if site.workers.units:
        await _pause(_WORKERS_ANSWER, at_once)  # what they took in last counts too
    loop = asyncio.get_running_loop()
    deadline = loop.time() + shutdown.drain
    while site.active and (left := deadline - loop.time()) > 0 and not at_once.is_set():
        site.abort_idle(enough_silence(left, shutdown.drain))
        await _pause(_POLL, at_once)
    if site.active:
        log.warning("ending the clients that are left", extra={"clients": site.active})
    site.abort_all()


async def _pause(seconds: float, at_once: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(seconds):
            await at_once.wait()
    except TimeoutError:
        return


def enough_silence(left: float, drain: float) -> float:
    """How long a client must have said nothing to be ended, with so many seconds of the drain left.

    Those that have been silent longest lose least. A connection that is in the middle of something speaks again soon,
    so a shorter silence has to do as time runs out, early enough for every connection of a busy pool to be met
    between two of its transactions.
    """
    return max(drain / 2 * (left / drain) ** 3, _LEAST_IDLE)
