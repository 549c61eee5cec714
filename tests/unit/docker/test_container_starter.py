"""Tests slow starts of containers, on an engine that locks each container during its start."""

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
from aiodocker.exceptions import DockerError

from gateway.backoff import BackoffPolicy
from gateway.docker import container_starter, inspection_cache, last_start_inspector, start_attempts
from gateway.docker.desired_state import DesiredState
from gateway.docker.errors import EngineError, EngineErrorKind, as_engine_error
from gateway.docker.options import DockerOptions, NetworkOptions
from gateway.docker.ownership_record import OwnershipRecord
from gateway.docker.reconciler import Reconciler
from gateway.docker.start_failure import ContainerRevival, StartFailureCause
from gateway.docker.unavailable_containers import RevivalStatus
from gateway.docker.volumes import VolumeMountAddress
from tests.support.fake_engine import FakeContainer, FakeEngine

pytestmark = pytest.mark.timeout(60)

OPTIONS = DockerOptions(networks={"apps": NetworkOptions()}, revive=True)
DESIRED = DesiredState(
    "site-a", OPTIONS, ("media",), usable=frozenset({"media"}),
    mount_addresses=(VolumeMountAddress("media", "127.0.0.1", 20490, 2049),),
)  # fmt: skip
OPT_IN = {"gateway.enable": "true"}
REFUSED = (
    "failed to mount local volume: mount :/media:/data, data: addr=127.0.0.1,port=20490,hard: connection refused"
)
BROKEN = "stat /var/lib/docker/overlay2/3f1d: no such file or directory"


class LockingEngine(FakeEngine):
    """Simulates an engine on which starts last until the test sets `proceed`.

    The engine does not respond to inspections of a container that is being started.
    """

    def __init__(self) -> None:
        super().__init__(random.Random(1))
        self.errors: dict[str, str] = {}
        self.locked: set[str] = set()
        self.started_at: dict[str, str] = {}
        self.requested: list[str] = []
        self.proceed = asyncio.Event()
        self.broken: set[str] = set()
        """IDs of containers with damaged files. The engine lists these containers, but cannot inspect them."""
        self.start_error: EngineError | None = None
        """The error that the engine returns for the next start. The engine then cancels this start."""

    def add_unavailable(self, name: str, labels: dict[str, str] | None = None) -> FakeContainer:
        container = self.add_container(name, labels or {})
        container.state = "exited"
        self.errors[container.id] = REFUSED
        return container

    async def get(self, path: str, **params: Any) -> Any:
        found = await super().get(path, **params)
        if path == "containers/json":
            for each in found:
                each["Mounts"] = [{"Type": "volume", "Name": "media"}]
        elif path.startswith("containers/"):
            key = path.split("/")[1]
            if key in self.broken:
                raise as_engine_error(DockerError(500, BROKEN))
            if key in self.locked:
                await asyncio.sleep(3600)
            found["State"] |= {
                "Error": self.errors.get(key, ""), "Running": found["State"]["Status"] in ("running", "paused"),
                "Paused": found["State"]["Status"] == "paused", "StartedAt": self.started_at.get(key, ""),
            }  # fmt: skip
            found["HostConfig"]["RestartPolicy"] = {"Name": "always"}
        return found

    async def post_start(self, path: str) -> None:
        key = path.split("/")[1]
        self.requested.append(self.containers[key].name)
        if self.start_error is not None:
            error, self.start_error, self.errors[key] = self.start_error, None, "context canceled"
            raise error
        self.locked.add(key)
        try:
            await self.proceed.wait()
        except asyncio.CancelledError:
            self.errors[key] = "context canceled"
            raise
        finally:
            self.locked.discard(key)
        self.errors[key] = ""
        self.containers[key].state = "running"


@pytest.fixture
async def engine() -> LockingEngine:
    return LockingEngine()


def reconciler(folder: Path) -> Reconciler:
    return Reconciler(OPTIONS, lambda: DESIRED, lambda _: None, folder)


async def reconcile(made: Reconciler, engine: LockingEngine, times: int = 3) -> None:
    for _ in range(times):
        await made.reconcile(engine)  # type: ignore[arg-type]
        await asyncio.sleep(0.05)


async def test_a_slow_start_delays_no_other_action_and_is_requested_once(
    engine: LockingEngine, tmp_path: Path
) -> None:
    web, other = engine.add_unavailable("web", OPT_IN), engine.add_container("other", OPT_IN)
    made = reconciler(tmp_path)
    async with asyncio.timeout(10):
        await reconcile(made, engine, 5)
        assert "apps" in other.endpoints
        assert engine.requested == ["web"]
        (unavailable,) = made.plan.unavailable
        assert unavailable.state is RevivalStatus.STARTING, "the state from before the start is shown"
        assert OwnershipRecord(tmp_path).starts == {web.id: ContainerRevival(StartFailureCause.VOLUME, "media")}
        engine.proceed.set()
        await reconcile(made, engine)
    assert (web.state, made.plan.unavailable, made.start_attempts.revived) == ("running", (), {"volume": 1})
    assert OwnershipRecord(tmp_path).starts == {}


async def test_a_slow_start_by_another_client_delays_no_other_action(engine: LockingEngine, tmp_path: Path) -> None:
    slow = [engine.add_container(f"slow-{number}", OPT_IN) for number in range(10)]
    for each in slow:
        each.state = "created"
        engine.locked.add(each.id)
    web = engine.add_container("web", OPT_IN)
    made = reconciler(tmp_path)
    async with asyncio.timeout(10):
        await reconcile(made, engine)
    assert "apps" in web.endpoints
    assert all(not each.endpoints for each in slow), "the engine would not answer a request about a locked container"
    engine.locked.clear()
    for each in slow:
        each.state = "running"
        made._observer.inspections.forget_start(each.id)  # as after the event `start`
    await reconcile(made, engine)
    assert all("apps" in each.endpoints for each in slow)


async def test_a_copy_from_a_running_container_delays_no_other_action(engine: LockingEngine, tmp_path: Path) -> None:
    """While `docker cp` reads a file of a container, the engine does not respond to inspections of the container."""
    owner = engine.add_container("owner", OPT_IN)
    dependant = engine.add_container("dependant", {}, f"container:{owner.id}")
    made = reconciler(tmp_path)
    await reconcile(made, engine)
    engine.locked = {owner.id, dependant.id}
    made._observer.inspections.expire_starts()
    web = engine.add_container("web", OPT_IN)
    async with asyncio.timeout(15):
        await reconcile(made, engine)
    assert "apps" in web.endpoints
    assert made.observed is not None
    assert {each.name for each in made.observed.containers if each.last_start is not None} == {"owner", "dependant"}


async def test_a_container_that_cannot_be_inspected_does_not_affect_the_others(
    engine: LockingEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection_cache, "RETRY", 0.0)
    stopped, running, web = (
        engine.add_unavailable("stopped"),
        engine.add_container("running", OPT_IN),
        engine.add_unavailable("web"),
    )
    engine.broken = {stopped.id, running.id}
    engine.proceed.set()
    made = reconciler(tmp_path)
    await reconcile(made, engine)
    assert web.state == "running"
    warned = [each for each in made.plan.warnings if BROKEN in each]
    assert [each.split()[1] for each in warned] == ["stopped", "running"]
    engine.broken = set()
    await reconcile(made, engine)
    assert (stopped.state, list(running.endpoints)) == ("running", ["apps"])
    assert not any(BROKEN in each for each in made.plan.warnings)


async def test_a_start_that_was_canceled_is_counted_and_repeated_by_the_next_process(
    engine: LockingEngine, tmp_path: Path
) -> None:
    web, made = engine.add_unavailable("web"), reconciler(tmp_path)
    await reconcile(made, engine)
    await made._executor.starter.cancel()
    assert engine.errors[web.id] == "context canceled"
    assert made.start_attempts.not_before(web.id) > 0
    assert made.start_attempts.revived == {}
    engine.proceed.set()
    again = reconciler(tmp_path)
    await reconcile(again, engine)
    assert (web.state, again.start_attempts.revived) == ("running", {"volume": 1})


@pytest.mark.parametrize(
    "error",
    [
        as_engine_error(DockerError(502, "Bad Gateway")),
        as_engine_error(DockerError(504, "Gateway Timeout")),
        EngineError(EngineErrorKind.FAILED, "error while mounting volume '/data': context canceled"),
    ],
    ids=["502", "504", "canceled"],
)
async def test_a_start_whose_answer_was_lost_is_repeated(
    engine: LockingEngine, tmp_path: Path, error: EngineError, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy between the gateway and the engine ends the request early. The engine then cancels the start."""
    monkeypatch.setattr(start_attempts, "_POLICY", BackoffPolicy(first=0.05, cap=0.1, floor=0.01))
    web, made = engine.add_unavailable("web"), reconciler(tmp_path)
    engine.start_error = error
    engine.proceed.set()
    async with asyncio.timeout(30):
        while web.state != "running":
            await reconcile(made, engine)
    assert (engine.requested, made.start_attempts.revived) == (["web", "web"], {"volume": 1})


async def test_a_container_that_changed_while_its_start_was_queued_is_not_started(
    engine: LockingEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container_starter, "_SLOT_TIME", 3600.0)
    names = [f"web-{number}" for number in range(5)]
    containers = [engine.add_unavailable(name) for name in names]
    made = reconciler(tmp_path)
    await reconcile(made, engine)
    assert engine.requested == names[:4]
    # A person starts the last container, and stops it again.
    engine.errors[containers[4].id] = ""
    engine.proceed.set()
    await reconcile(made, engine)
    assert [each.state for each in containers] == [*4 * ["running"], "exited"]
    assert made.plan.unavailable == ()


async def test_a_container_that_was_paused_while_its_restart_was_queued_is_not_restarted(
    engine: LockingEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container_starter, "_SLOT_TIME", 3600.0)
    owner = engine.add_container("owner", OPT_IN)
    names = [f"web-{number}" for number in range(5)]
    containers = [engine.add_container(name, {}, f"container:{owner.id}") for name in names]
    engine.started_at = {each.id: "2026-07-25T17:20:00Z" for each in containers}
    engine.started_at[owner.id] = "2026-07-25T17:21:00Z"
    made = reconciler(tmp_path)
    await reconcile(made, engine)
    assert engine.requested == names[:4]
    containers[4].state = "paused"
    engine.proceed.set()
    await reconcile(made, engine)
    assert engine.requested == names[:4]


async def test_a_start_that_fails_is_listed_before_the_others_are_inspected(
    engine: LockingEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(last_start_inspector, "_MAX_INSPECTIONS", 1)
    monkeypatch.setattr(last_start_inspector, "_MAX_AGE", 0.0)
    containers = [engine.add_unavailable(f"web-{number}") for number in range(5)]
    engine.errors = {each.id: "" for each in containers}
    made = reconciler(tmp_path)
    await reconcile(made, engine, 5)
    engine.errors[containers[4].id] = REFUSED
    # The gateway calls `expire_start` after the event `unmount` of the container's volume.
    made._observer.inspections.expire_start(containers[4].id)
    await made.reconcile(engine)  # type: ignore[arg-type]
    assert [each.container for each in made.plan.unavailable] == ["web-4"]
    await made._executor.starter.cancel()


async def test_snapshots_follow_soon_until_each_container_was_inspected(
    engine: LockingEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(last_start_inspector, "_MAX_INSPECTIONS", 4)
    containers = [engine.add_unavailable(f"web-{number}") for number in range(10)]
    for each in containers[:9]:
        engine.errors[each.id] = ""  # a person stopped it
    made = reconciler(tmp_path)
    for expected in (True, True, False):
        wake, _ = await made.reconcile(engine)  # type: ignore[arg-type]
        assert (wake <= 1.0) is expected
    assert [each.container for each in made.plan.unavailable] == ["web-9"]
    await made._executor.starter.cancel()


async def test_slow_starts_do_not_delay_the_others_for_long(
    engine: LockingEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container_starter, "_SLOT_TIME", 0.1)
    names = [f"web-{number}" for number in range(10)]
    containers = [engine.add_unavailable(name) for name in names]
    made = reconciler(tmp_path)
    async with asyncio.timeout(30):
        while len(engine.requested) < len(names):
            await reconcile(made, engine)
        while made._executor.starter._gate._value < 4:
            await asyncio.sleep(0.05)
        engine.proceed.set()
        while made.plan.unavailable:
            await reconcile(made, engine)
    assert made._executor.starter._gate._value == 4, "each attempt releases its slot once"
    assert sorted(engine.requested) == names
    assert {each.state for each in containers} == {"running"}
