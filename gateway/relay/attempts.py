"""Dials that are given up: repeated at once where that helps, and reported to the caller, which may count them."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from math import inf
from typing import TypeVar

from gateway.errors import DialError, LinkLostError, MovedOnError, Reason

_Dialled = TypeVar("_Dialled")


async def retry_dial(
    dial: Callable[[float], Awaitable[_Dialled]], given_up: Callable[[], None] = lambda: None, within: float = inf
) -> _Dialled:
    """Dial, and dial again at once after a `MovedOnError`.

    Args:
        dial: Dials once, within as many seconds as it is given.
        given_up: Called for each dial that was given up and may still connect: the connection is closed then, which
            some servers count against us.
        within: Seconds for all attempts together; each also ends at the link's own deadline.

    Raises:
        DialError, LinkLostError: As `dial`; a `MovedOnError` once the time is used up.
    """
    deadline = time.monotonic() + within
    left = within
    while True:
        try:
            return await dial(left)
        except MovedOnError:
            given_up()
            left = deadline - time.monotonic()
            if left <= 0:
                raise
        except LinkLostError as error:
            if error.dialled:
                given_up()
            raise
        except DialError as error:
            if error.reason is Reason.TIMEOUT:
                given_up()
            raise
        except asyncio.CancelledError:
            given_up()
            raise
