"""Tests of Swarm services, and of the gateway as a service. The status gives a reason for each unmanaged service."""

import random
from pathlib import Path
from typing import Any

import pytest

from gateway.contracts.secret import Secret
from gateway.docker.attachment_obstacle import AttachmentObstacle
from gateway.docker.desired_state import DesiredState
from gateway.docker.engine_snapshot_collector import EngineSnapshotCollector
from gateway.docker.errors import EngineError, EngineErrorKind
from gateway.docker.grants import SWARM_SERVICE
from gateway.docker.options import DockerOptions, NetworkOptions, SwarmPeerOptions
from gateway.docker.plan import ActionKind, AttachmentState, Plan
from gateway.docker.planning import plan
from gateway.docker.reconciler import Reconciler
from gateway.docker.snapshot import (
    TASK_LABEL,
    Container,
    EngineSnapshot,
    NetworkEndpoint,
    NetworkInfo,
    SwarmMembership,
    SwarmService,
)
from tests.support.fake_engine import FakeEngine

MESH = NetworkInfo("m1", "mesh", "overlay", "swarm", attachable=True)
LOCAL = NetworkInfo("l1", "local", "bridge", "local", attachable=False)
NODE_LOCAL = NetworkInfo("c1", "conf", "bridge", "swarm", attachable=False)
LEADER, MANAGER = SwarmMembership(active=True, manager=True, leader=True), SwarmMembership(active=True, manager=True)
MARK = frozenset({"gw-owner-site-a"})
OPT_IN = {"gateway.enable": "true"}


def service(networks: dict[str, frozenset[str]] | None = None, **labels: str) -> SwarmService:
    found = {f"gateway.{key}": text for key, text in labels.items()}
    spec = {"TaskTemplate": {"Networks": [{"Target": each} for each in networks or {}]}}
    return SwarmService("s1", "jobs", 7, found, networks or {}, spec)


def planned(found: SwarmService, *networks: NetworkInfo, swarm: SwarmMembership = LEADER, **options: Any) -> Plan:
    made = DockerOptions(**{"networks": {each.name: NetworkOptions() for each in networks}, **options})
    return plan(
        DesiredState("site-a", made, ("orders",)), EngineSnapshot((), networks, (found,), swarm=swarm), frozenset()
    )


def standing(found: Plan) -> list[tuple[str, str, AttachmentState, AttachmentObstacle | None]]:
    return [(each.container, each.network, each.state, each.reason) for each in found.attachments]


def test_an_impossible_network_does_not_block_the_other_networks_of_a_service() -> None:
    found = planned(service(enable="true"), LOCAL, MESH, NODE_LOCAL, services=True)
    (action,) = [each for each in found.actions if each.verb is ActionKind.UPDATE_SERVICE]
    assert [each["Target"] for each in action.body["TaskTemplate"]["Networks"]] == ["m1", "c1"]
    assert standing(found) == [
        ("service jobs", "local", AttachmentState.BLOCKED, AttachmentObstacle.LOCAL_NETWORK),
        ("service jobs", "mesh", AttachmentState.PENDING, None),
        ("service jobs", "conf", AttachmentState.PENDING, None),
    ]
    assert "on one node only" in found.attachments[0].message


def test_a_labeled_service_is_shown_even_if_it_is_not_managed() -> None:
    off = planned(service(enable="true"), MESH)
    assert (off.actions, standing(off)) == (
        (),
        [("service jobs", "mesh", AttachmentState.BLOCKED, AttachmentObstacle.SERVICES_OFF)],
    )
    assert "docker.services is false" in off.attachments[0].message
    # The service's specification already contains the network: first without the gateway's owner alias, then with it.
    for there in (frozenset[str](), MARK):
        on = planned(service({"m1": there}, enable="true"), MESH)
        assert (on.actions, standing(on)) == ((), [("service jobs", "mesh", AttachmentState.ATTACHED, None)])
    assert planned(service({"m1": MARK}), MESH).actions == ()
    other = planned(service(enable="true"), MESH, swarm=MANAGER, services=True)
    assert (other.actions, standing(other)) == ((), [("service jobs", "mesh", AttachmentState.PENDING, None)])
    assert "leader" in other.attachments[0].message
    assert standing(planned(service(), MESH)) == []


async def test_unreadable_services_are_an_error_only_if_services_are_configured(tmp_path: Path) -> None:
    class Filtered(FakeEngine):
        async def get(self, path: str, **params: Any) -> Any:
            if path == "services":
                raise EngineError(EngineErrorKind.FORBIDDEN, "Forbidden")
            return await super().get(path, **params)

    engine = Filtered(random.Random(1))
    engine.swarm = True
    web = engine.add_container("web", OPT_IN)
    for asked in (False, True):
        options = DockerOptions(networks={"apps": NetworkOptions()}, services=asked)
        desired = DesiredState("site-a", options, ("orders",))
        reconciler = Reconciler(options, lambda desired=desired: desired, lambda _: None, tmp_path)  # type: ignore[misc]
        if asked:
            with pytest.raises(EngineError, match="Forbidden"):
                await reconciler.apply_once(engine)  # type: ignore[arg-type]
        else:
            found, _ = await reconciler.apply_once(engine)  # type: ignore[arg-type]
            assert "apps" in web.endpoints
            assert any("GET /services" in line for line in found.warnings)


def of_own(*networks: NetworkInfo, services: tuple[SwarmService, ...] = ()) -> Plan:
    """Return the plan for a gateway that is a task of the service `jobs`."""
    endpoints = {each.name: NetworkEndpoint(each.id, f"e-{each.id}", ("10.0.0.2",), None) for each in networks}
    labels = {TASK_LABEL: "t1", SWARM_SERVICE: "jobs"}
    own = Container("g1", "jobs.node.x", "running", labels, "bridge", endpoints)
    made = DockerOptions(networks={"mesh": NetworkOptions()}, repair="disruptive")
    seen = EngineSnapshot((own,), (MESH,), services, swarm=MANAGER, own=own.id)
    return plan(DesiredState("site-a", made, ("orders", "jobs")), seen, frozenset())


def test_a_gateway_that_is_a_service_has_the_names_that_its_service_gives_it() -> None:
    for services in ((), (service({"m1": frozenset({"Orders"})}),)):
        found = of_own(MESH, services=services)
        assert (found.actions, standing(found)) == ((), [("jobs.node.x", "mesh", AttachmentState.ATTACHED, None)])
    lacks = of_own(MESH, services=(service({"m1": frozenset({"other"})}),))
    assert (lacks.actions, standing(lacks)) == ((), [("jobs.node.x", "mesh", AttachmentState.DRIFTED, None)])
    assert "lacks the aliases orders on network mesh" in lacks.attachments[0].message
    off = of_own()
    assert (off.actions, standing(off)) == (
        (),
        [("jobs.node.x", "mesh", AttachmentState.BLOCKED, AttachmentObstacle.SWARM_TASK)],
    )
    assert "the aliases orders, jobs" in off.attachments[0].message


def test_a_gateway_that_is_a_task_is_warned_of_names_too() -> None:
    own = Container(
        "g1", "gateway.node.x", "running", {TASK_LABEL: "t1", SWARM_SERVICE: "gateway"}, "bridge",
        {
            "mesh": NetworkEndpoint("m1", "e1", ("10.0.0.2",), None),
            "local": NetworkEndpoint("l1", "e2", ("10.0.1.2",)),
        },
    )  # fmt: skip
    db = Container("d1", "orders", "running", {}, "local", {"local": NetworkEndpoint("l1", "e3", ("10.0.1.3",))})
    guest = Container("x1", "x", "running", {}, "mesh", {"mesh": NetworkEndpoint("m1", "e4")}, hostname="orders")
    made = DockerOptions(networks={"mesh": NetworkOptions(internal=False)})
    seen = EngineSnapshot((own, db, guest), (MESH, LOCAL), swarm=MANAGER, own=own.id)
    found = plan(DesiredState("site-a", made, ("orders",)), seen, frozenset())
    assert [(each.container, each.name) for each in found.name_conflicts] == [("gateway.node.x", "orders")]
    assert any(each.startswith("x: its host name is that of backend orders") for each in found.warnings)


async def test_the_aliases_of_a_task_are_not_known() -> None:
    """Docker Engine 26.1.5 does not list the aliases of a task."""
    engine = FakeEngine(random.Random(1))
    network = engine.add_network("mesh")
    task = engine.add_container("jobs.1.x", {TASK_LABEL: "t1"})
    engine.join(task, network, [], foreign=True)
    observer = EngineSnapshotCollector(DockerOptions(networks={"mesh": NetworkOptions()}), set)
    (seen,) = (await observer.snapshot(engine)).containers  # type: ignore[arg-type]
    assert seen.endpoints["mesh"].aliases is None


def test_agents_share_an_alias_on_common_networks() -> None:
    own = Container("g1", "gateway", "running", {}, "bridge", {})
    peers = SwarmPeerOptions(Secret("x"))
    made = DockerOptions(networks={"mesh": NetworkOptions(), "local": NetworkOptions()}, peers=peers)
    thief = Container("t1", "thief", "running", {**OPT_IN, "gateway.aliases": "gw-peers"}, "bridge", {})
    found = plan(
        DesiredState("site-a", made, ("orders",)),
        EngineSnapshot((own, thief), (MESH, LOCAL), swarm=SwarmMembership(active=True), own=own.id),
        frozenset(),
    )
    aliases = {each.network: each.aliases for each in found.actions if each.container == "gateway"}
    assert aliases == {
        "mesh": ("orders", "gw-peers", "gw-owner-site-a"),
        "local": ("orders", "gw-owner-site-a"),
    }
    blocked = [(each.network, each.reason) for each in found.attachments if each.container == "thief" and each.reason]
    assert blocked == [("mesh", AttachmentObstacle.ALIAS_CONFLICT)]
