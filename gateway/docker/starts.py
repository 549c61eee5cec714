"""Asks how the last start of containers ended, where that may concern the gateway."""

from collections.abc import Callable
from dataclasses import replace

from gateway.docker.engine import Engine
from gateway.docker.flavour import DOCKER
from gateway.docker.inspections import Inspections
from gateway.docker.model import RUNNING, Container

_FRESH, _FRESH_RUNNING = 2.0, 30.0
"""Seconds for which an inspection counts: events can cause several looks a second. A start has an event of its own; a
start that fails has none."""
_MOST = 50
"""Inspections in one look; those that were asked for longest ago come first."""


async def with_starts(
    engine: Engine,
    inspections: Inspections,
    containers: tuple[Container, ...],
    matters: Callable[[str], bool],
    now: float,
) -> tuple[Container, ...]:
    """Return the containers with their last starts.

    Args:
        engine: The engine.
        inspections: Those that are known.
        containers: All of them.
        matters: Returns whether a network is the gateway's.
        now: The monotonic time.

    Raises:
        EngineError: The engine did not answer, or a proxy before it refuses the request.
    """
    if engine.flavour is not DOCKER:
        return containers
    asked = {each.id: inspections.asked_at(each.id) for each in _asked(containers, matters)}
    running = {each.id for each in containers if each.state in RUNNING}
    stale = [key for key, at in asked.items() if at + (_FRESH_RUNNING if key in running else _FRESH) <= now]
    for key in sorted(stale, key=lambda key: asked[key])[:_MOST]:
        await inspections.ask(engine, key)
    return tuple(
        replace(each, last_start=inspections.last_start(each.id)) if each.id in asked else each for each in containers
    )


def _asked(containers: tuple[Container, ...], matters: Callable[[str], bool]) -> list[Container]:
    """Return those that may have failed to start, and those that share a network namespace."""
    joined = {each.joins for each in containers if each.joins and each.state in RUNNING}
    return [
        each
        for each in containers
        if (each.state in RUNNING and (each.joins or joined & {each.id, each.name}))
        or (each.state not in RUNNING and not each.exit_success and _may_have_failed(each, matters))
    ]


def _may_have_failed(container: Container, matters: Callable[[str], bool]) -> bool:
    return container.has_volumes or bool(container.joins) or any(map(matters, container.endpoints))
