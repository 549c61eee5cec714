"""Retries dials that lost their connection to failover, and reports abandoned dials to the caller."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from math import inf
from typing import TypeVar

from gateway.errors import DialError, LinkLostError, Reason, RedialError

_Connected = TypeVar("_Connected")


async def retry_dial(
    dial: Callable[[float], Awaitable[_Connected]],
    on_abandoned: Callable[[], None] = lambda: None,
    within: float = inf,
) -> _Connected:
    """Dial, and dial again immediately after each `RedialError`.

    Args:
        dial: Makes one attempt. Takes the time that remains, in seconds.
        on_abandoned: Called for each attempt that was abandoned and may still connect. The connection then closes
            without a login, which some servers count as an aborted handshake.
        within: Seconds for all attempts together. The link's own deadline also limits each attempt.

    Returns:
        What `dial` returns.

    Raises:
        DialError: `dial` raised it.
        LinkLostError: `dial` raised it. This includes a `RedialError` when no time remains.
    """
    deadline = time.monotonic() + within
    left = within
    while True:
        try:
            return await dial(left)
        except RedialError:
            on_abandoned()
            left = deadline - time.monotonic()
            if left <= 0:
                raise
        except LinkLostError as error:
            if error.dial_in_progress:
                on_abandoned()
            raise
        except DialError as error:
            if error.reason is Reason.TIMEOUT:
                on_abandoned()
            raise
        except asyncio.CancelledError:
            on_abandoned()
            raise
