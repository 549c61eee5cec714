"""Tests the sharing of lookups between concurrent callers."""

import asyncio
import gc
from typing import Any

import pytest

from gateway.relay.coalesced_lookups import CoalescedLookups


async def test_concurrent_callers_share_one_lookup() -> None:
    started, release = [], asyncio.Event()

    async def look_up(key: str) -> str:
        started.append(key)
        await release.wait()
        return key.upper()

    lookups = CoalescedLookups(look_up)
    first, second, third = (asyncio.create_task(lookups.result(key)) for key in ("a", "a", "b"))
    while len(started) < 2:
        await asyncio.sleep(0)
    first.cancel()  # does not cancel the lookup that the second task waits for
    await asyncio.wait({first})
    release.set()
    assert (await second, await third, first.cancelled()) == ("A", "B", True)
    assert started == ["a", "b"]
    assert await lookups.result("a") == "A"
    assert started == ["a", "b", "a"]


async def test_a_failed_lookup_is_repeated_and_logs_nothing_if_all_callers_are_cancelled() -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    release, results = asyncio.Event(), [OSError("no such host"), None]

    async def look_up(_: str) -> None:
        await release.wait()
        if error := results.pop(0):
            raise error

    lookups = CoalescedLookups(look_up)
    caller = asyncio.create_task(lookups.result("a"))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait({caller})
    release.set()
    while len(results) > 1:
        await asyncio.sleep(0)
    await lookups.result("b")
    del caller  # its exception refers to the lookup
    gc.collect()
    assert reported == []
    results.append(OSError("no such host"))
    with pytest.raises(OSError, match="no such host"):
        await lookups.result("a")
