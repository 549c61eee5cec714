"""Reads the events of an engine, to record the signals that other clients of the engine send to containers."""

import asyncio
import contextlib
import math
import time
from collections.abc import Collection, Mapping
from typing import Any

from gateway.docker.engine_client import EngineClient
from gateway.docker.engine_flavor import DOCKER
from gateway.docker.inspection_conversion import epoch, signal_number
from gateway.docker.start_attempts import StartAttempts

_KEPT = 200
"""If a response contains fewer past events than this number, no past event is missing. This number is lower than 256,
although Docker stores the latest 256 events (moby, `daemon/events`): events that occur after the request count as
stored events, but are not in the response."""


def record_event(event: Mapping[str, Any], attempts: StartAttempts, requested: Collection[str]) -> None:
    """Record a signal that another client of the engine sent to a container.

    If the event is the start or removal of a container, remove the container's recorded signals.

    Args:
        event: The event.
        attempts: Stores the signals.
        requested: IDs of the containers that the gateway is starting. Signals to these containers are not recorded,
            because the engine sends them when the gateway restarts the containers.
    """
    actor, action = event.get("Actor", {}), event.get("Action")
    container = str(actor.get("ID", ""))
    if action in ("start", "destroy"):
        attempts.forget_signals(container)
    if action == "kill" and container not in requested:
        number = signal_number(str(actor.get("Attributes", {}).get("signal")))
        attempts.record_signal(container, number, event.get("timeNano", 0) / 1e9)


async def record_past_events(
    engine: EngineClient, attempts: StartAttempts, requested: Collection[str], within: float
) -> tuple[float, float]:
    """Record the signals in the past events that the engine still stores. For Podman, read no events.

    The signals show which containers another client is stopping. The gateway must not restart these containers.

    Args:
        engine: The engine.
        attempts: See `record_event`.
        requested: See `record_event`.
        within: The maximum time to read events, in seconds. Events that are not read by then are not recorded.

    Returns:
        Two times. The first is the engine's time before the read, in seconds since the epoch. The second is the
        monotonic time before which events can be missing; `-inf` if no event is missing, and for Podman.

    Raises:
        EngineError: The request failed.
    """
    began = time.monotonic()
    now = epoch(str((await engine.get("info")).get("SystemTime"))) or time.time()
    if engine.flavor is not DOCKER:
        return now, -math.inf
    times: list[float] = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within):
            async for event in engine.events(0.0, (), now):
                times.append(event.get("timeNano", 0) / 1e9)
                if event.get("Type") == "container":
                    record_event(event, attempts, requested)
            return now, began - max(0.0, now - times[0]) if len(times) >= _KEPT else -math.inf
    return now, began
