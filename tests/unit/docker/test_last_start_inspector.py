from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.docker import last_start_inspector
from gateway.docker.engine_flavor import DOCKER
from gateway.docker.inspection_cache import InspectionCache
from gateway.docker.last_start_inspector import with_last_starts
from gateway.docker.snapshot import Container

CONTAINERS = (
    Container("1", "owner", "running", {}, "bridge", {}),
    Container("2", "web", "running", {}, "container:1", {}),
)
EARLY = 1.0
"""A monotonic time at which the host has been up for a shorter time than the maximum age of a cached last start."""


class Engine:
    """An engine that records the inspected containers."""

    def __init__(self) -> None:
        self.inspected: list[str] = []
        self.client = cast("Any", SimpleNamespace(flavor=DOCKER, get=self._get))

    async def _get(self, path: str, **_: object) -> Any:
        self.inspected.append(path)
        return {"State": {"StartedAt": "2026-07-25T17:20:00Z", "Running": True}}


async def test_containers_are_inspected_immediately_after_the_hosts_start() -> None:
    cache, engine = InspectionCache(), Engine()
    for expire, count in ((False, 2), (False, 2), (True, 4)):
        if expire:
            cache.expire_starts()
        cache.begin((), ())
        found, complete = await with_last_starts(engine.client, cache, CONTAINERS, lambda _: False, EARLY)
        assert all(each.last_start is not None for each in found)
        assert complete
        assert len(engine.inspected) == count


async def test_the_result_is_incomplete_if_the_limit_prevents_a_first_inspection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(last_start_inspector, "_MAX_INSPECTIONS", 1)
    cache, engine = InspectionCache(), Engine()
    completes = []
    for _ in range(2):
        cache.begin((), ())
        _, complete = await with_last_starts(engine.client, cache, CONTAINERS, lambda _: False, EARLY)
        completes.append(complete)
    assert completes == [False, True]
    assert len(engine.inspected) == 2
