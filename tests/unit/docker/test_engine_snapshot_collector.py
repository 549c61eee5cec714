"""Tests `EngineSnapshot.engine_time`, the engine's time at the end of a snapshot."""

import asyncio
import random
from typing import Any

import pytest

from gateway.docker.engine_snapshot_collector import EngineSnapshotCollector
from gateway.docker.options import DockerOptions
from tests.support.fake_engine import FakeEngine

pytestmark = pytest.mark.timeout(60)


class SlowEngine(FakeEngine):
    """An engine that reports its current time, and then takes 0.2 s to list its containers."""

    async def get(self, path: str, **params: Any) -> Any:
        if path == "containers/json":
            await asyncio.sleep(0.2)
        found = await super().get(path, **params)
        return {**found, "SystemTime": "1970-01-01T00:01:40.5Z"} if path == "info" else found


async def test_the_clock_is_not_earlier_than_the_end_of_the_snapshot() -> None:
    """If a container starts during the snapshot, its start must not seem to be in the future."""
    engine: Any = SlowEngine(random.Random(1))
    observed = await EngineSnapshotCollector(DockerOptions(), known=set).snapshot(engine)
    assert observed.engine_time >= 100.7
