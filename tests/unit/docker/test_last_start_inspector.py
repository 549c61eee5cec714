from types import SimpleNamespace
from typing import Any, cast

from gateway.docker.engine_flavor import DOCKER
from gateway.docker.inspection_cache import InspectionCache
from gateway.docker.last_start_inspector import with_last_starts
from gateway.docker.snapshot import Container


async def test_containers_are_inspected_immediately_after_the_hosts_start() -> None:
    inspected = []

    async def get(path: str, **_: object) -> Any:
        inspected.append(path)
        return {"State": {"StartedAt": "2026-07-25T17:20:00Z", "Running": True}}

    cache, engine = InspectionCache(), cast("Any", SimpleNamespace(flavor=DOCKER, get=get))
    containers = (
        Container("1", "owner", "running", {}, "bridge", {}),
        Container("2", "web", "running", {}, "container:1", {}),
    )
    for now in (0.5, 1.0):
        cache.begin((), ())
        found, complete = await with_last_starts(engine, cache, containers, lambda _: False, now)
        assert all(each.last_start is not None for each in found)
        assert complete
    assert len(inspected) == 2
