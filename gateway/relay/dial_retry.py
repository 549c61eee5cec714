"""Repeats a dial if its SSH connection stops responding.

Also notifies the caller when a dial is abandoned, because the target might have accepted the connection.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from math import inf
from typing import TypeVar

from gateway.errors import DialError, FailureReason, LinkLostError, RedialRequiredError

_Connected = TypeVar("_Connected")


async def retry_dial(
    dial: Callable[[float], Awaitable[_Connected]],
    on_abandoned: Callable[[], None] = lambda: None,
    within: float = inf,
) -> _Connected:
    """Call `dial`, and repeat the call immediately after each `RedialRequiredError`.

    Args:
        dial: Makes one attempt. Its argument is the remaining time, in seconds.
        on_abandoned: Called when an attempt is abandoned, if the target might have accepted the connection. Some
            servers count a connection that closes without a login as an aborted handshake.
        within: Time limit in seconds for all attempts together. The link also limits the duration of each attempt.

    Returns:
        The result of the first call of `dial` that succeeds.

    Raises:
        DialError: `dial` raised this error.
        LinkLostError: `dial` raised this error.
        RedialRequiredError: `dial` raised this error, and no time remains for another attempt.
    """
    deadline = time.monotonic() + within
    left = within
    while True:
        try:
            return await dial(left)
        except RedialRequiredError:
            on_abandoned()
            left = deadline - time.monotonic()
            if left <= 0:
                raise
        except LinkLostError as error:
            if error.dial_in_progress:
                on_abandoned()
            raise
        except DialError as error:
            if error.reason is FailureReason.TIMEOUT:
                on_abandoned()
            raise
        except asyncio.CancelledError:
            on_abandoned()
            raise
