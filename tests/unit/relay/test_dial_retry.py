"""Tests of `gateway.relay.dial_retry`: retries and abandoned dials."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from gateway.errors import DialError, FailureReason, LinkLostError, RedialRequiredError
from gateway.relay.dial_retry import retry_dial


def failing(*errors: BaseException) -> tuple[Callable[[float], Awaitable[str]], list[float]]:
    """Return a function that dials, and a list of the timeouts that the function received.

    Each call raises the next error of `errors`. After the last error, all calls succeed.
    """
    waiting, given = list(errors), []

    async def dial(within: float) -> str:
        given.append(within)
        if waiting:
            raise waiting.pop(0)
        return "connected"

    return dial, given


@pytest.mark.parametrize(
    ("error", "reported"),
    [
        (DialError(FailureReason.TIMEOUT, "late"), 1),
        (DialError(FailureReason.REFUSED, "no"), 0),
        (LinkLostError(dial_in_progress=True), 1),
        (LinkLostError(), 0),
        (asyncio.CancelledError(), 1),
    ],
)
async def test_reports_dials_that_may_still_connect(error: BaseException, reported: int) -> None:
    counted: list[int] = []
    dial, _ = failing(error)
    with pytest.raises(type(error)):
        await retry_dial(dial, lambda: counted.append(1))
    assert len(counted) == reported


async def test_redials_within_the_remaining_time() -> None:
    counted: list[int] = []
    dial, given = failing(RedialRequiredError(), RedialRequiredError())
    assert await retry_dial(dial, lambda: counted.append(1), 60.0) == "connected"
    assert len(counted) == 2
    assert given[0] == 60.0
    assert given[0] > given[1] > given[2] > 0


async def test_does_not_redial_when_no_time_remains() -> None:
    counted: list[int] = []
    dial, given = failing(RedialRequiredError())
    with pytest.raises(RedialRequiredError):
        await retry_dial(dial, lambda: counted.append(1), 0.0)
    assert (len(counted), len(given)) == (1, 1)
