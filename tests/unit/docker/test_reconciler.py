"""Events of the engine, in the form of the Docker Engine API (version 1.45): which lead to a new snapshot."""

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.docker.engine_flavor import DOCKER
from gateway.docker.model import LastStart
from gateway.docker.options import DockerOptions, NetworkOptions
from gateway.docker.plan import ActionKind, DesiredState, PlannedAction
from gateway.docker.reconciler import Reconciler

ID = "4fbe0cb2a5ad8b1f3d1b1bd0ea23d9a1d4c7e7a53b2e9be0a8a1c9a5d3e1f2b4"

OTHER = ID[::-1]
AT = 1785000000
"""The time of each event, in seconds since the epoch."""


def event(kind: str, action: str, **attributes: str) -> dict[str, Any]:
    actor = {"ID": ID, "Attributes": attributes}
    return {"Type": kind, "Action": action, "Actor": actor, "scope": "local", "time": AT, "timeNano": AT * 10**9}


class Recorder:
    """Records the identifiers that the reconciler forgets."""

    def __init__(self) -> None:
        self.forgotten: list[str] = []

    def forget(self, number: str) -> None:
        self.forgotten.append(number)

    forget_start = forget


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
    ],
)
async def test_an_event_is_handled_by_its_kind(
    tmp_path: Path, happened: dict[str, Any], changes: bool, ended: list[str], started: list[str]
) -> None:
    async def events(since: float, kinds: tuple[str, ...]) -> AsyncIterator[dict[str, Any]]:
        del since, kinds
        yield happened

    options = DockerOptions(networks={"apps": NetworkOptions()})
    made: Any = Reconciler(options, lambda: DesiredState("site-a", options, ()), lambda _: None, tmp_path)
    made.directory, made._observer = Recorder(), Recorder()
    made.revivals.record_signal(OTHER, 15, 1.0)
    await made._watch(SimpleNamespace(events=events, flavor=DOCKER), 0.0)
    assert made._dirty.is_set() is changes
    assert made.directory.forgotten == ended
    assert made._observer.forgotten == started
    assert made.revivals.signals == {OTHER: {15: 1.0}} | ({ID: {9: AT}} if happened["Action"] == "kill" else {})


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
        PlannedAction(ActionKind.RESTART, "", container_id=ID, last_start=LastStart(at=AT + seconds))
        for seconds in (-60.0, 60.0)
    )
    start, hang_up, kill = (
        event("container", "start"),
        event("container", "kill", signal="1"),
        event("container", "kill", signal="15"),
    )

    made._executor.starter.requested.add(ID)
    happened.append(kill)
    await made._watch(engine, 0.0)
    assert made.desired().signals == {}, "the gateway's own restart sends this signal"

    made._executor.starter.requested.clear()
    happened.append(hang_up)
    await made._watch(engine, 0.0)
    assert made.revivals.permits(restart), "programs continue after this signal"

    happened.append(kill)
    await made._watch(engine, 0.0)
    assert made.desired().signals == {ID: {1: AT, 15: AT}}
    assert not made.revivals.permits(restart), "the restart was planned before the signal"
    assert made.revivals.permits(later), "the event of a later start was lost"

    happened.append(start)
    await made._watch(engine, 0.0)
    assert made.desired().signals == {}
    assert made.revivals.permits(restart)
