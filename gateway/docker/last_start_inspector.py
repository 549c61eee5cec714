"""Inspects the last start of containers that may have failed to start or may have lost their network."""

from collections.abc import Callable
from dataclasses import replace

from gateway.docker.engine_client import EngineClient
from gateway.docker.engine_flavor import DOCKER
from gateway.docker.inspection_cache import NEVER, InspectionCache
from gateway.docker.snapshot import RUNNING, Container

_MAX_AGE, _MAX_AGE_RUNNING = 2.0, 30.0
"""Seconds after which the gateway inspects the last start of a container again. `_MAX_AGE_RUNNING` applies to running
containers, `_MAX_AGE` to all others. `_MAX_AGE` is small, because a failed start may cause no event."""
_MAX_INSPECTIONS = 50
"""The maximum number of inspections in one snapshot. The container with the oldest inspection is inspected first."""
NEXT = 1.0
"""Seconds until the next snapshot if `with_last_starts` reached `_MAX_INSPECTIONS` before it inspected all necessary
containers."""


async def with_last_starts(
    engine: EngineClient,
    inspections: InspectionCache,
    containers: tuple[Container, ...],
    matters: Callable[[str], bool],
    now: float,
) -> tuple[tuple[Container, ...], bool]:
    """Return copies of the containers, and set `last_start` in some of the copies.

    Set `last_start` of each container that may have failed to start, or that shares a network namespace. One call
    makes at most `_MAX_INSPECTIONS` inspections. For Podman, return the containers unchanged.

    Args:
        engine: The engine.
        inspections: Caches the last starts.
        containers: All containers of the engine.
        matters: Returns whether the network with a given name belongs to the gateway.
        now: The monotonic time in seconds.

    Returns:
        All containers, and a bool. The bool is False if the limit prevented the inspection of a container whose last
            start is not cached or has expired.

    Raises:
        EngineError: A request failed, or a proxy in front of the engine refused it.
    """
    if engine.flavor is not DOCKER:
        return containers, True
    inspected = {each.id: inspections.start_inspected_at(each.id) for each in _candidates(containers, matters)}
    running = {each.id for each in containers if each.state in RUNNING}
    stale = [
        key
        for key, at in sorted(inspected.items(), key=lambda item: item[1])
        if at + (_MAX_AGE_RUNNING if key in running else _MAX_AGE) <= now and not inspections.is_locked(key)
    ]
    for key in stale[:_MAX_INSPECTIONS]:
        await inspections.inspect(engine, key)
    with_starts = tuple(
        replace(each, last_start=inspections.last_start(each.id)) if each.id in inspected else each
        for each in containers
    )
    return with_starts, all(inspected[key] != NEVER for key in stale[_MAX_INSPECTIONS:])


def _candidates(containers: tuple[Container, ...], matters: Callable[[str], bool]) -> list[Container]:
    """Return the containers that may have failed to start, and those that share a network namespace."""
    joined = {each.joins for each in containers if each.joins}
    return [
        each
        for each in containers
        if (each.state in RUNNING and (each.joins or joined & {each.id, each.name}))
        or (each.state not in RUNNING and not each.exit_success and _may_have_failed(each, matters))
    ]


def _may_have_failed(container: Container, matters: Callable[[str], bool]) -> bool:
    return container.has_volumes or bool(container.joins) or any(map(matters, container.endpoints))
