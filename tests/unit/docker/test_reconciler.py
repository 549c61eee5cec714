"""Tests which events of the engine lead to a new snapshot, and how the gateway records signals to containers.

The events have the format of the Docker Engine API, version 1.45.
"""

import math
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.docker.container_last_start import ContainerLastStart
from gateway.docker.container_signal_recorder import record_past_events
from gateway.docker.desired_state import DesiredState
from gateway.docker.engine_events import EngineEventHandler
from gateway.docker.engine_flavor import DOCKER
from gateway.docker.options import DockerOptions, NetworkOptions
from gateway.docker.plan import ActionKind, PlannedAction
from gateway.docker.reconciler import Reconciler
from gateway.docker.start_attempts import StartAttempts

ID = "4fbe0cb2a5ad8b1f3d1b1bd0ea23d9a1d4c7e7a53b2e9be0a8a1c9a5d3e1f2b4"

OTHER = ID[::-1]
AT = 1785000000
"""The time of each event, in seconds since the epoch."""


def event(kind: str, action: str, **attributes: str) -> dict[str, Any]:
    actor = {"ID": ID, "Attributes": attributes}
    return {"Type": kind, "Action": action, "Actor": actor, "scope": "local", "time": AT, "timeNano": AT * 10**9}


class Recorder:
    """Records the container IDs that the event handler passes to `forget`, `forget_start` and `expire_start`."""

    def __init__(self) -> None:
        self.forgotten: list[str] = []
        self.expired: list[str] = []

    def forget(self, number: str) -> None:
        self.forgotten.append(number)

    forget_start = forget

    def expire_start(self, number: str) -> None:
        self.expired.append(number)


@pytest.mark.parametrize(
    ("happened", "changes", "ended", "started"),
    [
        (event("container", "health_status: healthy"), False, [], []),
        (event("container", "exec_create: pg_isready"), False, [], []),
        (event("container", "start"), True, [], [ID]),
        (event("container", "die", exitCode="137"), True, [ID], []),
        (event("container", "kill", signal="9"), True, [ID], []),
        (event("network", "disconnect", container=ID), True, [ID], []),
        (event("network", "connect", container=ID), True, [], []),
        (event("volume", "create", driver="local"), True, [], []),
        (event("volume", "unmount", container=ID), True, [], []),
    ],
)
async def test_an_event_is_handled_by_its_kind(
    happened: dict[str, Any], changes: bool, ended: list[str], started: list[str]
) -> None:
    async def events(since: float, kinds: tuple[str, ...]) -> AsyncIterator[dict[str, Any]]:
        del since, kinds
        yield happened

    observer, directory, attempts = Recorder(), Recorder(), StartAttempts()
    made: Any = EngineEventHandler(cast("Any", observer), cast("Any", directory), attempts, set())
    attempts.record_signal(OTHER, 15, 1.0)
    await made.watch(SimpleNamespace(events=events, flavor=DOCKER), 0.0)
    assert made.changed.is_set() is changes
    assert directory.forgotten == ended
    assert observer.forgotten == started
    if happened["Type"] != "container":
        assert observer.expired == [happened["Actor"]["Attributes"].get("container", "")]
    assert attempts.signals == {OTHER: {15: 1.0}} | ({ID: {9: AT}} if happened["Action"] == "kill" else {})


def past_engine(past: list[dict[str, Any]]) -> Any:
    """Return an engine that reports the events in `past`, and whose current time is `AT`."""

    async def events(since: float, kinds: tuple[str, ...], until: float) -> AsyncIterator[dict[str, Any]]:
        for each in past:
            if since <= each["time"] <= until:
                yield each

    async def get(path: str) -> dict[str, str]:
        assert path == "info"
        return {"SystemTime": datetime.fromtimestamp(AT, UTC).isoformat()}

    return SimpleNamespace(events=events, get=get, flavor=DOCKER)


async def test_a_stop_that_began_before_the_gateway_connected_is_known() -> None:
    attempts, stop = StartAttempts(), event("container", "kill", signal="15")
    engine = past_engine([{**stop, "timeNano": (AT - 30) * 10**9}])
    assert await record_past_events(engine, attempts, (), 10.0) == (AT, -math.inf)
    assert attempts.signals == {ID: {15: AT - 30}}
    engine = past_engine([stop, event("container", "start")])
    await record_past_events(engine, attempts, (), 10.0)
    assert attempts.signals == {}


async def test_a_restart_waits_if_a_stop_possibly_began_before_the_events_that_the_engine_has_kept(
    tmp_path: Path,
) -> None:
    health = {**event("container", "exec_start: true"), "timeNano": (AT - 4) * 10**9}
    before = time.monotonic()
    _, since = await record_past_events(past_engine(256 * [health]), StartAttempts(), (), 10.0)
    assert before - 4 <= since <= time.monotonic() - 4
    options = DockerOptions()
    made: Any = Reconciler(options, lambda: DesiredState("site-a", options, ()), lambda _: None, tmp_path)
    start = ContainerLastStart(at=AT - 60, stop_timeout=-1.0)
    restart = PlannedAction(ActionKind.RESTART, "", container_id=ID, last_start=start)
    # `signals_since` starts at -inf, not at 0.0. With 0.0, the restart would wait if the host started less than 600 s
    # ago, because the monotonic clock starts at 0.
    assert made._schedule.not_before(restart) == 0.0
    made._schedule.signals_since = since
    for timeout, expected in ((10.0, 10.0), (-1.0, 600.0)):
        start = ContainerLastStart(at=AT - 60, stop_timeout=timeout)
        restart = PlannedAction(ActionKind.RESTART, "", container_id=ID, last_start=start)
        assert made._schedule.not_before(restart) == since + expected
        assert made._schedule.not_before(replace(restart, verb=ActionKind.START)) == 0.0


async def test_a_signal_by_another_client_counts_until_the_next_start(tmp_path: Path) -> None:
    happened: list[dict[str, Any]] = []

    async def events(since: float, kinds: tuple[str, ...]) -> AsyncIterator[dict[str, Any]]:
        del since, kinds
        while happened:
            yield happened.pop()

    options = DockerOptions(networks={"apps": NetworkOptions()})
    made: Any = Reconciler(options, lambda: DesiredState("site-a", options, ()), lambda _: None, tmp_path)
    engine = SimpleNamespace(events=events, flavor=DOCKER)
    restart, later = (
        PlannedAction(ActionKind.RESTART, "", container_id=ID, last_start=ContainerLastStart(at=AT + seconds))
        for seconds in (-60.0, 60.0)
    )
    start, hang_up, kill = (
        event("container", "start"),
        event("container", "kill", signal="1"),
        event("container", "kill", signal="15"),
    )

    made._executor.starter.requested.add(ID)
    happened.append(kill)
    await made._events.watch(engine, 0.0)
    assert made.desired().signals == {}, "the gateway's own restart sends this signal"

    made._executor.starter.requested.clear()
    happened.append(hang_up)
    await made._events.watch(engine, 0.0)
    assert made.start_attempts.permits(restart, 1000.0), "programs continue after this signal"

    happened.append(kill)
    await made._events.watch(engine, 0.0)
    assert made.desired().signals == {ID: {1: AT, 15: AT}}
    assert not made.start_attempts.permits(restart, 1000.0), "the restart was planned before the signal"
    assert made.start_attempts.permits(later, 1000.0), "the event of a later start was lost"

    happened.append(start)
    await made._events.watch(engine, 0.0)
    assert made.desired().signals == {}
    assert made.start_attempts.permits(restart, 1000.0)
