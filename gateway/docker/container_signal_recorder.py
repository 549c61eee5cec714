"""Reads the events of an engine, to record the signals that other clients of the engine send to containers."""

import asyncio
import contextlib
import time
from collections.abc import Collection, Mapping
from typing import Any

from gateway.docker.engine_client import EngineClient
from gateway.docker.engine_flavor import DOCKER
from gateway.docker.inspection_cache import epoch, signal_number
from gateway.docker.start_attempts import StartAttempts

_KEPT = 200
"""If the engine returns fewer past events than this number, no event is missing. Docker keeps the last 256 events
(moby, `daemon/events`), but the response omits events that are newer than the request. A response with slightly fewer
than 256 events can therefore be incomplete."""


def record_event(event: Mapping[str, Any], attempts: StartAttempts, requested: Collection[str]) -> None:
    """Record an event if it is a container's start or removal, or a signal from another client of the engine.

    Args:
        event: The event.
        attempts: Stores the recorded signals.
        requested: IDs of the containers that the gateway is starting. Signals to these containers are not recorded,
            because the gateway itself causes them when it restarts a container.
    """
    actor, action = event.get("Actor", {}), event.get("Action")
    container = str(actor.get("ID", ""))
    if action in ("start", "destroy"):
        attempts.record_start(container)
    if action == "kill" and container not in requested:
        number = signal_number(str(actor.get("Attributes", {}).get("signal")))
        attempts.record_signal(container, number, event.get("timeNano", 0) / 1e9)


async def record_past_events(
    engine: EngineClient, attempts: StartAttempts, requested: Collection[str], within: float
) -> tuple[float, float]:
    """Read the past events that the engine still stores, and record them.

    The events show which containers another client has begun to stop. The gateway must not restart these containers.

    For Podman, read no events.

    Args:
        engine: The engine.
        attempts: See `record_event`.
        requested: See `record_event`.
        within: The maximum time to read events, in seconds. Events that are not read by then are not recorded.

    Returns:
        Two times. The first time is the engine's time before the events were read, in seconds since the epoch. The
        second time is monotonic: no event after the second time is missing. The second time is 0 if no event is
        missing at all, and always for Podman.

    Raises:
        EngineError: The request failed.
    """
    began = time.monotonic()
    clock = epoch(str((await engine.get("info")).get("SystemTime"))) or time.time()
    if engine.flavor is not DOCKER:
        return clock, 0.0
    times: list[float] = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within):
            async for event in engine.events(0.0, (), clock):
                times.append(event.get("timeNano", 0) / 1e9)
                if event.get("Type") == "container":
                    record_event(event, attempts, requested)
            return clock, began - max(0.0, clock - times[0]) if len(times) >= _KEPT else 0.0
    return clock, began
