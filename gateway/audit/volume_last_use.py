"""Finds the last use of each volume in the engine's event history. Docker keeps only the last few hundred events."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from gateway.docker.engine_client import EngineClient
from gateway.docker.errors import EngineError

_MAX_SECONDS = 10.0
"""Timeout in seconds for reading events. Some engines keep the stream open after the end time of the request
(`until`)."""


async def last_uses(engine: EngineClient, names: Mapping[str, str]) -> tuple[dict[str, str], bool]:
    """Find the last use of each volume in the engine's events.

    Args:
        engine: The engine.
        names: The name of each existing container, by container ID.

    Returns:
        The result of `collect`, and True. If the events cannot be read, an empty dictionary and False.
    """
    try:
        async with asyncio.timeout(_MAX_SECONDS):
            return await collect(engine.events(0, ("volume", "container"), until=time.time()), names), True
    except (EngineError, TimeoutError):
        return {}, False


async def collect(events: AsyncIterator[Mapping[str, Any]], names: Mapping[str, str]) -> dict[str, str]:
    """Return a dictionary that maps the name of each volume to a description of the volume's last use.

    Args:
        events: Events of volumes and containers, oldest first.
        names: The name of each existing container, by container ID.
    """
    known = dict(names)
    mounted: dict[str, tuple[str, float]] = {}
    async for each in events:
        actor = each.get("Actor") or {}
        attributes = actor.get("Attributes") or {}
        if each.get("Type") == "container":
            known.setdefault(str(actor.get("ID")), str(attributes.get("name", "")))
        elif each.get("Action") in ("mount", "unmount"):
            mounted[str(actor.get("ID"))] = (str(attributes.get("container", "")), float(each.get("time") or 0))
    return {
        volume: f"last used by {known.get(container) or container[:12]}, "
        f"{time.strftime('%Y-%m-%d %H:%M', time.localtime(at))}"
        for volume, (container, at) in mounted.items()
    }
