"""Tests whether a lookup that hangs delays other lookups, and whether a name has at most one lookup at a time."""

import asyncio
import contextlib
import socket
import threading
from typing import Any

import pytest

from gateway.fleet.host_name_lookup import lookup

WITHIN = 20.0


async def test_hanging_lookups_delay_no_other_and_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    release, started = threading.Event(), []

    def getaddrinfo(host: str, *_: Any, **__: Any) -> list[Any]:
        if host == "good":
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", 0))]
        started.append(host)
        release.wait(WITHIN)
        raise socket.gaierror(-3, "Temporary failure")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    names = [f"slow-{number}" for number in range(100)]
    try:
        for _ in range(2):
            waits = [asyncio.create_task(lookup(name, port)) for name in names for port in (1, 2)]
            async with asyncio.timeout(WITHIN):
                assert await lookup("good", 9090) == [(socket.AF_INET, ("10.0.0.1", 9090))]
            for each in waits:
                # The canceled task only waits for the lookup. The lookup continues, and the next request for the same
                # name waits for this lookup.
                each.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        waits = [asyncio.create_task(lookup(names[0], 1))]
        async with asyncio.timeout(WITHIN):
            while len(started) < len(names):
                await asyncio.sleep(0.01)
    finally:
        release.set()
    with contextlib.suppress(socket.gaierror):
        async with asyncio.timeout(WITHIN):
            await waits[0]
            pytest.fail("the lookup has no error")
    assert sorted(started) == sorted(names)
    with pytest.raises(UnicodeError):
        monkeypatch.undo()
        await lookup("x" * 70 + ".test", 1)


async def test_a_lookup_without_a_thread_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(OSError, match="temporarily unavailable"):
        await lookup("good", 9090)
