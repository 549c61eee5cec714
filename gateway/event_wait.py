"""Waits for an event with a time limit."""

import asyncio


async def wait_at_most(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event for at most `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
