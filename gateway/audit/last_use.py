"""Finds the last use of a volume in the engine's events. The engine keeps a few hundred events until it restarts."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from gateway.docker.engine import Engine
from gateway.docker.errors import EngineError

_MAX_SECONDS = 10.0
"""The timeout of reading events, in seconds, because an engine may not end the stream at the present time."""


async def last_uses(engine: Engine, names: Mapping[str, str]) -> tuple[dict[str, str], bool]:
    """Return a text about the last use of each volume, by the volume's name, and whether the events could be read.

    Args:
        engine: The engine.
        names: Names of the containers that exist, by their ID.
    """
    try:
        async with asyncio.timeout(_MAX_SECONDS):
            return await collect(engine.events(0, ("volume", "container"), until=time.time()), names), True
    except (EngineError, TimeoutError):
        return {}, False


async def collect(events: AsyncIterator[Mapping[str, Any]], names: Mapping[str, str]) -> dict[str, str]:
    """Return a text about the last use of each volume, by the volume's name.

    Args:
        events: Events of volumes and containers, in order of time.
        names: Names of the containers that exist, by their ID.
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
