"""Tests of plans and of the reconciler, with an engine in memory.

The reconciler must reach the desired state, and must not change endpoints that other programs created.
"""

import asyncio
import ipaddress
import random
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from gateway.contracts.config_types import Duration
from gateway.docker import inspection_cache
from gateway.docker import plan_executor as plan_executor_module
from gateway.docker import reconciler as reconciler_module
from gateway.docker.attachment_obstacle import AttachmentObstacle
from gateway.docker.consumer_registry import Consumer, ConsumerRegistry, client_networks
from gateway.docker.desired_state import DesiredState
from gateway.docker.errors import EngineError, EngineErrorKind
from gateway.docker.grants import PROJECT
from gateway.docker.network_disconnect_limiter import NetworkDisconnectLimiter
from gateway.docker.options import AttachRule, DockerOptions, NetworkOptions
from gateway.docker.ownership_record import OwnershipRecord
from gateway.docker.per_project_network_names import network_of
from gateway.docker.plan import ActionKind, AttachmentState, Plan, PlannedAction
from gateway.docker.planning import plan
from gateway.docker.planning.networks import choose_subnet
from gateway.docker.reconciler import Reconciler
from gateway.docker.snapshot import (
    ENCRYPTED,
    MTU,
    Container,
    EngineSnapshot,
    NetworkEndpoint,
    NetworkInfo,
    SwarmMembership,
    SwarmService,
)
from tests.support.fake_engine import FakeContainer, FakeEngine

BRIDGE = NetworkInfo("n1", "apps", "bridge", "local", attachable=False, internal=True)
OPT_IN = {"gateway.enable": "true"}


def desired(**more: Any) -> DesiredState:
    options = DockerOptions(**{"networks": {"apps": NetworkOptions()}, **more})
    return DesiredState("site-a", options, ("orders", "media"))


def container(name: str = "web", **more: Any) -> Container:
    plain: dict[str, Any] = {"state": "running", "labels": OPT_IN, "network_mode": "bridge", "endpoints": {}}
    return Container(id=f"id-{name}", name=name, **{**plain, **more})


def endpoint(*aliases: str) -> NetworkEndpoint:
    return NetworkEndpoint("n1", "e1", ("10.0.0.2",), frozenset(aliases))


def made(plan_: Plan) -> list[tuple[ActionKind, str, str]]:
    return [(action.verb, action.network, action.container) for action in plan_.actions]


def standing(plan_: Plan) -> list[tuple[str, AttachmentState, AttachmentObstacle | None]]:
    return [(each.container, each.state, each.reason) for each in plan_.attachments]


NOTHING: frozenset[tuple[str, str]] = frozenset()


def unwanted(engine: FakeEngine, count: int, state_dir: Path) -> list[FakeContainer]:
    """Return containers that the gateway attached to `apps`, and that no longer have the label `gateway.enable`."""
    network = engine.add_network("apps")
    there = [engine.add_container(f"c{at}", {}) for at in range(count)]
    for each in there:
        engine.join(each, network, ["gw-owner-site-a"], foreign=False)
    OwnershipRecord(state_dir).adopt({(each.id, "apps") for each in there})
    return there


def test_a_missing_network_is_created_and_containers_that_opted_in_are_attached_by_id() -> None:
    labels = {**OPT_IN, "gateway.aliases": "web,www"}
    found = plan(desired(), EngineSnapshot((container(labels=labels), container("other", labels={}))), NOTHING)
    assert made(found) == [(ActionKind.CREATE_NETWORK, "apps", ""), (ActionKind.CONNECT, "apps", "web")]
    assert found.actions[0].body["IPAM"] == {"Config": [{"Subnet": "10.201.0.0/22", "IPRange": "10.201.2.0/23"}]}
    assert found.actions[1].aliases == ("web", "www", "gw-owner-site-a")
    assert standing(found) == [("web", AttachmentState.PENDING, None)]


def test_the_container_of_the_gateway_has_every_backend_as_an_alias() -> None:
    own = container("gateway-1", labels={})
    found = plan(desired(), EngineSnapshot((own,), (BRIDGE,), own=own.id), NOTHING)
    assert found.actions[0].aliases == ("orders", "media", "gw-owner-site-a")


def test_a_matching_state_needs_no_action() -> None:
    there = container(endpoints={"apps": endpoint("gw-owner-site-a")})
    found = plan(desired(), EngineSnapshot((there,), (BRIDGE,)), frozenset({(there.id, "apps")}))
    assert (made(found), standing(found)) == ([], [("web", AttachmentState.ATTACHED, None)])


def test_only_own_attachments_are_detached() -> None:
    ours = container("ours", labels={}, endpoints={"apps": endpoint("gw-owner-site-a")})
    only_mark = container("mark", labels={}, endpoints={"apps": endpoint("gw-owner-site-a")})
    only_recorded = container("recorded", labels={}, endpoints={"apps": endpoint()})
    ownership = frozenset({(ours.id, "apps"), (only_recorded.id, "apps")})
    found = plan(desired(), EngineSnapshot((ours, only_mark, only_recorded), (BRIDGE,)), ownership)
    assert made(found) == [(ActionKind.DISCONNECT, "apps", "ours")]


async def test_a_mistake_detaches_a_limited_number_of_containers(tmp_path: Path) -> None:
    engine = FakeEngine(random.Random(1))
    unwanted(engine, 25, tmp_path)
    reconciler = Reconciler(desired().options, desired, lambda _: None, tmp_path)
    found = await reconciler.dry_run(engine)  # type: ignore[arg-type]
    assert (len(found.actions), found.postponed) == (10, 15)
    assert engine.writes == []


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"network_mode": "container:abc"}, AttachmentObstacle.SHARED_NETWORK),
        ({"network_mode": "host"}, AttachmentObstacle.HOST_NETWORK),
        ({"network_mode": "none"}, AttachmentObstacle.NO_NETWORK),
        ({"labels": {**OPT_IN, "com.docker.swarm.task.id": "x"}}, AttachmentObstacle.SWARM_TASK),
        ({"labels": {**OPT_IN, "gateway.aliases": "orders"}}, AttachmentObstacle.ALIAS_CONFLICT),
    ],
)
def test_blocked_containers_have_a_reason(more: dict[str, Any], reason: AttachmentObstacle) -> None:
    found = plan(desired(), EngineSnapshot((container(**more),), (BRIDGE,)), NOTHING)
    assert (made(found), standing(found)) == ([], [("web", AttachmentState.BLOCKED, reason)])
    assert found.attachments[0].message


def test_networks_that_cannot_be_joined_have_a_reason() -> None:
    overlay = {"networks": {"apps": NetworkOptions(driver="overlay")}}
    alone = plan(desired(**overlay), EngineSnapshot((container(),)), NOTHING)
    assert standing(alone) == [("web", AttachmentState.BLOCKED, AttachmentObstacle.NOT_MANAGER)]
    closed = NetworkInfo("n1", "apps", "overlay", "swarm", attachable=False)
    swarm = SwarmMembership(active=True, manager=True, leader=True)
    found = plan(desired(**overlay), EngineSnapshot((container(),), (closed,), swarm=swarm), NOTHING)
    assert standing(found) == [("web", AttachmentState.BLOCKED, AttachmentObstacle.NOT_ATTACHABLE)]
    missing = plan(desired(networks={"apps": NetworkOptions(create=False)}), EngineSnapshot((container(),)), NOTHING)
    assert standing(missing) == [("web", AttachmentState.BLOCKED, AttachmentObstacle.UNKNOWN_NETWORK)]


def test_a_worker_connects_to_an_overlay_that_it_does_not_see_by_its_name() -> None:
    found = plan(desired(), EngineSnapshot((container(),), swarm=SwarmMembership(active=True)), NOTHING)
    assert made(found) == [(ActionKind.CONNECT, "apps", "web")]
    assert found.actions[0].network_id == "apps"


def test_a_foreign_container_keeps_the_name_of_a_backend() -> None:
    other = container("db", labels={}, endpoints={"apps": endpoint("www")})
    for alias in ("db", "www"):
        wish = container(labels={**OPT_IN, "gateway.aliases": alias})
        found = plan(desired(), EngineSnapshot((wish, other), (BRIDGE,)), NOTHING)
        assert standing(found) == [("web", AttachmentState.BLOCKED, AttachmentObstacle.ALIAS_CONFLICT)]
    named = {**OPT_IN, "gateway.aliases": "www", PROJECT: "shop"}
    twin = container("web-2", labels=named, endpoints={"apps": endpoint("www", "gw-owner-site-a")})
    wish = container(labels=named)
    assert made(plan(desired(), EngineSnapshot((wish, twin), (BRIDGE,)), NOTHING)) == [
        (ActionKind.CONNECT, "apps", "web")
    ]


def test_wrong_aliases_are_repaired_if_no_client_is_affected() -> None:
    there = container(labels={**OPT_IN, "gateway.aliases": "www"}, endpoints={"apps": endpoint("gw-owner-site-a")})
    seen, ownership = EngineSnapshot((there,), (BRIDGE,)), frozenset({(there.id, "apps")})
    assert made(plan(desired(), seen, ownership)) == [(ActionKind.REATTACH, "apps", "web")]
    busy = DesiredState("site-a", desired().options, ("orders",), frozenset({there.id}))
    assert standing(plan(busy, seen, ownership)) == [("web", AttachmentState.DRIFTED, None)]
    assert made(plan(busy, seen, ownership)) == []
    assert made(plan(desired(repair="never"), seen, ownership)) == []
    assert made(plan(desired(), seen, NOTHING)) == []  # No record shows that the gateway created the endpoint.


def test_labels_select_backends_and_never_define_them() -> None:
    two = {"networks": {"a": NetworkOptions(backends=("orders",)), "b": NetworkOptions(backends=("media",))}}

    def networks(**labels: str) -> list[str]:
        asked = {**OPT_IN, **{f"gateway.{key}": text for key, text in labels.items()}}
        there = tuple(NetworkInfo(each, each, "bridge", "local", attachable=False) for each in ("a", "b"))
        seen = EngineSnapshot((container(labels=asked),), there)
        return [action.network for action in plan(desired(**two), seen, NOTHING).actions]

    assert networks(backends="orders") == ["a"]
    assert networks(backends="orders,media") == ["a", "b"]
    assert networks(network="b") == ["b"]
    assert networks(network="bridge") == []
    assert networks(backends="payroll") == []
    assert networks(instance="site-b") == []
    warned = plan(desired(), EngineSnapshot((container(labels={**OPT_IN, "gateway.host": "x"}),), (BRIDGE,)), NOTHING)
    assert "web: unknown label gateway.host" in warned.warnings


def test_rules_of_the_configuration_need_no_labels() -> None:
    rules = (AttachRule(names=("web-*",), labels=("tier=front",), aliases=("front",)),)
    seen = EngineSnapshot(
        (
            container("web-1", labels={"tier": "front"}),
            container("web-2", labels={}),
            container("db", labels={"tier": "front"}),
        ),
        (BRIDGE,),
    )
    found = plan(desired(attach=rules), seen, NOTHING)
    assert made(found) == [(ActionKind.CONNECT, "apps", "web-1")]
    assert found.actions[0].aliases == ("front", "gw-owner-site-a")


def test_an_own_network_is_removed_when_it_is_unused() -> None:
    labels = {"gateway.managed-by": "gateway", "gateway.instance": "site-a", "gateway.spec-hash": "x"}
    old = NetworkInfo("old", "old", "bridge", "local", attachable=False, labels=labels)
    foreign = NetworkInfo("f", "foreign", "bridge", "local", attachable=False)
    others = NetworkInfo(
        "o", "others", "bridge", "local", attachable=False, labels={**labels, "gateway.instance": "b"}
    )
    found = plan(desired(), EngineSnapshot((), (BRIDGE, old, foreign, others)), NOTHING)
    assert made(found) == [(ActionKind.REMOVE_NETWORK, "old", "")]
    on_it = container(labels={}, endpoints={"old": NetworkEndpoint("old", "e")})
    assert made(plan(desired(), EngineSnapshot((on_it,), (BRIDGE, old)), NOTHING)) == []


def test_containers_cannot_claim_the_name_of_a_backend() -> None:
    loud = container(labels={**OPT_IN, "gateway.aliases": "ORDERS"})
    assert standing(plan(desired(), EngineSnapshot((loud,), (BRIDGE,)), NOTHING)) == [
        ("web", AttachmentState.BLOCKED, AttachmentObstacle.ALIAS_CONFLICT)
    ]
    namesake = container("orders")
    assert standing(plan(desired(), EngineSnapshot((namesake,), (BRIDGE,)), NOTHING)) == [
        ("orders", AttachmentState.BLOCKED, AttachmentObstacle.ALIAS_CONFLICT)
    ]
    own = container("gateway-1", labels={})
    other = container("stranger", labels={}, endpoints={"apps": endpoint("orders", "gw-owner-other")})
    found = plan(desired(), EngineSnapshot((own, other), (BRIDGE,), own=own.id), NOTHING)
    assert found.actions[0].aliases == ("media", "gw-owner-site-a")


def test_the_gateway_never_detaches_itself_and_keeps_its_address() -> None:
    aliases = ("orders", "media", "gw-owner-site-a")
    there = container("gateway-1", labels={}, endpoints={"apps": endpoint(*aliases)})
    ownership = frozenset({(there.id, "apps")})
    unknown = plan(desired(), EngineSnapshot((there,), (BRIDGE,)), ownership)
    assert made(unknown) == []
    assert "docker.container" in unknown.warnings[0]
    assert made(plan(desired(), EngineSnapshot((there,), (BRIDGE,), own=there.id), ownership)) == []
    # If a backend is added or removed, the aliases of the gateway's container must change. The gateway attaches its
    # container again only while no client is connected.
    for backends in (("orders", "media", "more"), ("orders",)):
        wanted = DesiredState("site-a", desired().options, backends)
        assert made(plan(wanted, EngineSnapshot((there,), (BRIDGE,), own=there.id), ownership)) == [
            (ActionKind.REATTACH, "apps", "gateway-1")
        ]
        serving = DesiredState("site-a", desired().options, backends, serving=True)
        assert made(plan(serving, EngineSnapshot((there,), (BRIDGE,), own=there.id), ownership)) == []
    labels = {"gateway.managed-by": "gateway", "gateway.instance": "site-a"}
    ours = replace(BRIDGE, labels=labels)
    again = plan(
        DesiredState("site-a", desired().options, ("orders",)),
        EngineSnapshot((there,), (ours,), own=there.id),
        ownership,
    )
    assert again.actions[0].addresses == ("10.0.0.2",)


def test_an_endpoint_on_a_removed_network_is_recreated() -> None:
    stale = container(endpoints={"apps": NetworkEndpoint("gone", "e1", (), frozenset({"gw-owner-site-a"}))})
    found = plan(desired(), EngineSnapshot((stale,), (BRIDGE,)), frozenset({(stale.id, "apps")}))
    assert made(found) == [(ActionKind.REATTACH, "apps", "web")]
    assert found.actions[0].network_id == "n1"
    assert made(plan(desired(), EngineSnapshot((stale,), (BRIDGE,)), NOTHING)) == []


def test_labels_take_precedence_over_rules() -> None:
    rules = (AttachRule(names=("*",)),)
    for labels in ({"gateway.enable": "false"}, {"gateway.instance": "site-b"}, {**OPT_IN, "gateway.backends": "no"}):
        found = plan(desired(attach=rules), EngineSnapshot((container(labels=labels),), (BRIDGE,)), NOTHING)
        assert made(found) == []
    assert made(plan(desired(attach=rules), EngineSnapshot((container(labels={}),), (BRIDGE,)), NOTHING)) != []


MESH = NetworkInfo("m1", "mesh", "overlay", "swarm", attachable=True)
LEADER = SwarmMembership(active=True, manager=True, leader=True)


def service(networks: dict[str, frozenset[str]], **labels: str) -> SwarmService:
    reported = {f"gateway.{key}": text for key, text in labels.items()}
    return SwarmService("s1", "jobs", 7, reported, networks, {"Name": "jobs", "TaskTemplate": {"Networks": []}})


def services(found: SwarmService, *, swarm: SwarmMembership = LEADER) -> Plan:
    wanted = desired(networks={"mesh": NetworkOptions()}, services=True)
    return plan(wanted, EngineSnapshot((), (MESH,), (found,), swarm=swarm), NOTHING)


def test_the_leader_attaches_services_and_detaches_only_its_own_attachments() -> None:
    mark = frozenset({"gw-owner-site-a"})
    found = services(service({}, enable="true"))
    assert made(found) == [(ActionKind.UPDATE_SERVICE, "mesh", "service jobs")]
    assert found.actions[0].version == 7
    assert found.actions[0].body["TaskTemplate"]["Networks"] == [{"Target": "m1", "Aliases": ["gw-owner-site-a"]}]
    assert made(services(service({}, enable="true"), swarm=SwarmMembership(active=True, manager=True))) == []
    assert made(services(service({"m1": mark}, enable="true"))) == []
    let_go = services(service({"m1": mark, "x": frozenset({"y"})}))
    assert let_go.actions[0].body["TaskTemplate"]["Networks"] == [{"Target": "x", "Aliases": ["y"]}]
    assert made(services(service({"m1": frozenset()}))) == []
    clash = services(service({}, enable="true", aliases="orders"))
    assert (made(clash), clash.attachments[0].reason) == ([], AttachmentObstacle.ALIAS_CONFLICT)


def test_only_the_leader_creates_and_removes_overlays() -> None:
    labels = {"gateway.managed-by": "gateway", "gateway.instance": "site-a"}
    old = NetworkInfo("o", "old", "overlay", "swarm", attachable=True, labels=labels)
    for swarm, count in (
        (LEADER, 2),
        (SwarmMembership(active=True, manager=True), 0),
        (SwarmMembership(active=True), 0),
    ):
        found = plan(desired(), EngineSnapshot((), (old,), swarm=swarm), NOTHING)
        assert len(found.actions) == count


async def test_containers_that_the_engine_does_not_inspect_are_not_changed(tmp_path: Path) -> None:
    class HalfDeaf(FakeEngine):
        async def get(self, path: str, **params: Any) -> Any:
            if path.startswith("containers/") and path != "containers/json":
                raise EngineError(EngineErrorKind.TIMEOUT, "no response in time")
            return await super().get(path, **params)

    engine = HalfDeaf(random.Random(1))
    network = engine.add_network("apps")
    engine.join(engine.add_container("there", OPT_IN), network, ["gw-owner-site-a"], foreign=False)
    engine.add_container("web", OPT_IN)
    reconciler = Reconciler(desired().options, desired, lambda _: None, tmp_path)
    wake, _ = await reconciler.reconcile(engine)  # type: ignore[arg-type]
    assert engine.writes == []
    assert wake <= inspection_cache.RETRY, "the next snapshot must not wait for an event"


async def test_the_plan_warns_about_a_damaged_ownership_record(tmp_path: Path) -> None:
    (tmp_path / "docker.json").write_text("{")
    reconciler = Reconciler(desired().options, desired, lambda _: None, tmp_path)
    await reconciler.reconcile(FakeEngine(random.Random(1)))  # type: ignore[arg-type]
    assert [each for each in reconciler.plan.warnings if "ownership record" in each]


async def test_attachments_are_recorded_before_they_are_made(tmp_path: Path) -> None:
    engine = FakeEngine(random.Random(1))
    web = engine.add_container("web", OPT_IN)
    reconciler = Reconciler(desired().options, desired, lambda _: None, tmp_path)
    await reconciler.reconcile(engine)  # type: ignore[arg-type]
    await reconciler.reconcile(engine)  # type: ignore[arg-type]
    assert "apps" in web.endpoints
    assert OwnershipRecord(tmp_path).endpoints == {(web.id, "apps")}


async def test_a_stopped_container_is_not_a_consumer_and_watchers_are_notified() -> None:
    directory = ConsumerRegistry(lambda: None)
    reported: list[dict[str, Consumer]] = []
    directory.watchers.append(reported.append)
    there = container(endpoints={"apps": endpoint()})
    directory.update((there,), 1.0, None)
    assert directory.lookup("10.0.0.2") is not None
    began = time.monotonic()
    directory.forget(there.id)
    assert directory.lookup("10.0.0.2") is None
    assert reported[-1] == {}
    directory.update((there,), began, None)  # The snapshot is older than the exit of the container.
    assert directory.lookup("10.0.0.2") is None
    directory.update((there,), time.monotonic() + 1, None)
    assert directory.lookup("10.0.0.2") is not None


@pytest.mark.parametrize(
    ("options", "own", "known"),
    [
        ({}, None, True),
        ({"host": "tcp://127.0.0.1:2375"}, None, True),
        ({}, {"endpoints": {"apps": NetworkEndpoint("n1", "e2", ("10.0.0.9",))}}, True),
        ({}, {"network_mode": "host", "endpoints": {"host": NetworkEndpoint("h", "e")}}, True),
        ({}, {"endpoints": {"other": NetworkEndpoint("o", "e", ("10.9.0.1",))}}, False),
        ({"container": "gone"}, None, False),
        ({"host": "tcp://engine:2375"}, None, False),
        ({"host": "ssh://bastion/run/docker.sock"}, None, False),
        ({"host": "tcp://127.0.0.1:2375", "via": "bastion"}, None, False),
    ],
)
def test_only_addresses_that_can_be_a_client_source_belong_to_consumers(
    options: dict[str, Any], own: dict[str, Any] | None, known: bool
) -> None:
    there = container(endpoints={"apps": endpoint()})
    gateway = (container("gateway-1", labels={}, **own),) if own else ()
    observed = EngineSnapshot((there, *gateway), own=gateway[0].id if gateway else None)
    directory = ConsumerRegistry(lambda: None)
    directory.update(observed.containers, 1.0, client_networks(observed, DockerOptions(**options)))
    assert (directory.lookup("10.0.0.2") is not None) is known


def test_a_volume_and_a_network_of_the_same_name_are_retried_independently() -> None:
    assert (
        PlannedAction(ActionKind.CREATE_VOLUME, "media").key == PlannedAction(ActionKind.RECREATE_VOLUME, "media").key
    )
    assert (
        PlannedAction(ActionKind.CREATE_VOLUME, "media").key != PlannedAction(ActionKind.CREATE_NETWORK, "media").key
    )


def test_a_free_range_is_chosen() -> None:
    assert choose_subnet(["10.201.0.0/22", "10.201.5.0/24"]) == "10.201.8.0/22"
    assert choose_subnet(["10.0.0.0/8"]) is None


async def test_the_limit_of_changes_applies_over_many_rounds(tmp_path: Path) -> None:
    engine = FakeEngine(random.Random(1))
    unwanted(engine, 25, tmp_path)
    want = desired(max_detaches=3, resync=Duration(0.3))
    now = 1000.0
    reconciler = Reconciler(want.options, lambda: want, lambda _: None, tmp_path, monotonic=lambda: now)
    settled, _ = await reconciler.apply_once(engine)  # type: ignore[arg-type]
    assert (len(settled.actions), settled.postponed) == (3, 22)
    wake, made_now = await reconciler.reconcile(engine)  # type: ignore[arg-type]
    assert (made_now, 0 < wake < 0.31) == ([], True)
    now += 0.35
    _, made_now = await reconciler.reconcile(engine)  # type: ignore[arg-type]
    assert len(made_now) == 3


def test_actions_on_several_containers_are_held_together_and_oversized_ones_run_alone() -> None:
    def service(name: str, count: int) -> PlannedAction:
        return PlannedAction(ActionKind.UPDATE_SERVICE, "apps", container=name, container_id=name, detaches=count)

    limiter = NetworkDisconnectLimiter(3, 10.0)
    one, two, five = service("one", 1), service("two", 2), service("five", 5)
    assert limiter.admit([two, five, one], 0) == ([two, one], [five])
    limiter.record(2, 0)
    assert limiter.admit([two, one], 1) == ([one], [two])
    assert (limiter.remaining(1), limiter.wait_time(1)) == (1, 9)
    join = PlannedAction(ActionKind.CONNECT, "apps", container="web", container_id="web")
    assert limiter.admit([five, one, join], 10) == ([five, join], [one])


async def test_an_endpoint_that_cannot_be_detached_does_not_block_others(tmp_path: Path) -> None:
    class Stuck(FakeEngine):
        async def post(self, path: str, body: Any = None, **params: Any) -> Any:
            if path.endswith("/disconnect") and body["Container"] in stuck:
                raise EngineError(EngineErrorKind.FORBIDDEN, "scripted")
            return await super().post(path, body, **params)

    engine = Stuck(random.Random(1))
    there = unwanted(engine, 9, tmp_path)
    stuck = {each.id for each in there[:4]}
    want = desired(max_detaches=3, resync=Duration(0.4))
    now = 1000.0
    reconciler = Reconciler(want.options, lambda: want, lambda _: None, tmp_path, monotonic=lambda: now)
    settled, refused = await reconciler.apply_once(engine)  # type: ignore[arg-type]
    assert (len(settled.actions), len(refused), settled.postponed) == (3, 4, 2)
    now += 0.45
    settled, refused = await reconciler.apply_once(engine)  # type: ignore[arg-type]
    assert {each.id for each in there if each.endpoints} == stuck
    assert (len(refused), settled.postponed) == (4, 0)


async def test_refused_actions_and_their_dependents_are_not_reported_as_done(tmp_path: Path) -> None:
    class Refusing(FakeEngine):
        async def post(self, path: str, body: Any = None, **params: Any) -> Any:
            if path == "networks/create":
                raise EngineError(EngineErrorKind.FORBIDDEN, "Pool overlaps with other one")
            return await super().post(path, body, **params)

    engine = Refusing(random.Random(1))
    engine.add_container("web", OPT_IN)
    reconciler = Reconciler(desired().options, desired, lambda _: None, tmp_path)
    settled, refused = await reconciler.apply_once(engine)  # type: ignore[arg-type]
    assert settled.actions == ()
    assert refused == ["apps: Pool overlaps with other one"]
    assert engine.writes == []


def test_networks_created_together_have_different_ranges() -> None:
    found = plan(desired(networks={"a": NetworkOptions(), "b": NetworkOptions()}), EngineSnapshot(()), NOTHING)
    ranges = [action.body["IPAM"]["Config"][0]["Subnet"] for action in found.actions]
    assert ranges == ["10.201.0.0/22", "10.201.4.0/22"]


def test_missing_options_of_a_foreign_network_are_reported() -> None:
    asked = NetworkOptions(
        driver="overlay", internal=True, encrypted=True, mtu=1400, subnet=ipaddress.ip_network("10.9.0.0/24")
    )
    there = NetworkInfo("n1", "apps", "bridge", "local", attachable=False, subnets=("10.8.0.0/24",))

    def differences(network: NetworkInfo) -> list[str]:
        found = plan(desired(networks={"apps": asked}), EngineSnapshot((), (network,)), NOTHING).warnings
        return [line for line in found if line.startswith("network apps was not created by this gateway, and ")]

    for line, word in zip(differences(there), ("its driver is", "internal", "its subnet", "its MTU"), strict=True):
        assert word in line
    overlay = replace(there, driver="overlay", internal=True, subnets=("10.9.0.0/24",), options={MTU: "1400"})
    (line,) = differences(overlay)
    assert "it is not encrypted" in line
    assert differences(replace(overlay, options={MTU: "1400", ENCRYPTED: ""})) == []


class Fleet(RuleBasedStateMachine):
    """Check that the reconciler reaches the desired state after any sequence of changes and engine failures."""

    NAMES = ("a", "b", "c", "d", "e")

    def __init__(self) -> None:
        super().__init__()
        self.rng = random.Random(4)
        self.engine = FakeEngine(self.rng)
        self.folder = tempfile.TemporaryDirectory()
        self.options = DockerOptions(networks={"apps": NetworkOptions(), "more": NetworkOptions(backends=("media",))})
        self.busy: frozenset[str] = frozenset()
        self.restart_gateway()

    def teardown(self) -> None:
        self.folder.cleanup()

    def wanted(self) -> DesiredState:
        return DesiredState("site-a", self.options, ("orders", "media"), self.busy)

    def reconcile(self) -> None:
        try:
            asyncio.run(self.reconciler.reconcile(self.engine))  # type: ignore[arg-type]
        except EngineError:
            assert self.engine.failing

    def pick(self, at: int) -> FakeContainer | None:
        alive = list(self.engine.containers.values())
        return alive[at % len(alive)] if alive else None

    @rule(
        name=st.sampled_from(NAMES),
        labels=st.sampled_from([
            {}, OPT_IN, *({**OPT_IN, f"gateway.{key}": text} for key, text in (
                ("backends", "media"), ("on-stop", "detach"), ("aliases", "www"), ("aliases", "a"))),
            {**OPT_IN, PROJECT: "shop"}]),
        mode=st.sampled_from(["bridge", "bridge", "bridge", "host", "container:x"]),
    )  # fmt: skip
    def recreate(self, name: str, labels: dict[str, str], mode: str) -> None:
        for each in [each for each in self.engine.containers.values() if each.name == name]:
            del self.engine.containers[each.id]
        self.engine.add_container(name, labels, mode)

    @rule(at=st.integers(0, 4), state=st.sampled_from(["exited", "dead", "created"]))
    def stop(self, at: int, state: str) -> None:
        if (found := self.pick(at)) is not None:
            found.state = state

    @rule(at=st.integers(0, 4))
    def start(self, at: int) -> None:
        if (found := self.pick(at)) is not None:
            self.engine.restart(found)

    @rule(at=st.integers(0, 4))
    def vanish(self, at: int) -> None:
        if (found := self.pick(at)) is not None:
            del self.engine.containers[found.id]

    @rule(at=st.integers(0, 4), name=st.sampled_from(["apps", "more"]), alias=st.sampled_from(["www", "x", "orders"]))
    def other_client_attaches(self, at: int, name: str, alias: str) -> None:
        found = self.pick(at)
        network = next((each for each in self.engine.networks.values() if each.name == name), None)
        if found is not None and network is not None and name not in found.endpoints and found.mode == "bridge":
            self.engine.join(found, network, [alias], foreign=True)

    @rule(at=st.integers(0, 4), name=st.sampled_from(["apps", "more", "apps-shop"]))
    def other_client_detaches(self, at: int, name: str) -> None:
        if (found := self.pick(at)) is not None:
            found.endpoints.pop(name, None)

    @rule(name=st.sampled_from(["apps", "more", "apps-shop", "elsewhere"]))
    def other_client_creates_a_network(self, name: str) -> None:
        if all(each.name != name for each in self.engine.networks.values()):
            self.engine.add_network(name)

    @rule(full=st.booleans())
    def a_network_is_full(self, full: bool) -> None:
        for network in self.engine.networks.values():
            network.full = full

    @rule(at=st.integers(0, 4))
    def one_is_busy(self, at: int) -> None:
        found = self.pick(at)
        self.busy = frozenset({found.id}) if found is not None else frozenset()

    @rule(which=st.sampled_from(["both", "one", "none", "projects"]))
    def reconfigure(self, which: str) -> None:
        networks = {"apps": NetworkOptions(), "more": NetworkOptions(backends=("media",))}
        keep = {"both": ("apps", "more"), "one": ("apps",), "none": (), "projects": ("apps", "more")}[which]
        if which == "projects":
            networks["apps"] = NetworkOptions(per="project")
        self.options = DockerOptions(networks={name: networks[name] for name in keep})
        self.restart_gateway()

    @rule()
    def restart_gateway(self) -> None:
        self.reconciler = Reconciler(self.options, self.wanted, lambda _: None, Path(self.folder.name))

    @rule(share=st.sampled_from([0.05, 0.3]), cycles=st.integers(1, 6))
    def work_while_the_engine_fails(self, share: float, cycles: int) -> None:
        self.engine.failing = share
        for _ in range(cycles):
            self.reconcile()
        self.engine.failing = 0.0

    @rule()
    def settle(self) -> None:
        """Check that the reconciler soon reaches the desired state, and then makes no changes in the engine."""
        for _ in range(12):
            self.reconciler._observer.inspections._locked.clear()
            failures = self.reconciler._failures
            failures._failed = {key: (backoff, 0.0, error) for key, (backoff, _, error) in failures._failed.items()}
            before = len(self.engine.writes)
            self.reconcile()
            if len(self.engine.writes) == before:
                break
        by_state = {
            state: {
                (each.network, each.container) for each in self.reconciler.plan.attachments if each.state is state
            }
            for state in AttachmentState
        }
        for each in self.engine.containers.values():
            for configured, options in self.options.networks.items():
                name = network_of(configured, options, each.name, each.labels)
                key = (name, each.name)
                if each.labels.get("gateway.enable") == "true" and each.state == "running":
                    assert (name in each.endpoints) or key in by_state[AttachmentState.BLOCKED], (
                        each,
                        self.reconciler.plan,
                    )
        if not by_state[AttachmentState.BLOCKED]:
            before = len(self.engine.writes)
            self.reconcile()
            assert len(self.engine.writes) == before

    @invariant()
    def nothing_foreign_is_touched(self) -> None:
        assert self.engine.foreign_touched == []


@pytest.mark.timeout(600)
def test_any_sequence_of_docker_events_converges(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (reconciler_module, plan_executor_module):
        monkeypatch.setattr(module.log, "disabled", True)
    run_state_machine_as_test(
        Fleet,
        settings=settings(
            max_examples=100, stateful_step_count=100, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


class CountedEndpoints(dict[str, NetworkEndpoint]):
    """A dictionary of endpoints that counts the calls of `get` on all instances."""

    asked = 0

    def get(self, key: str, default: Any = None) -> Any:
        CountedEndpoints.asked += 1
        return super().get(key, default)


def test_the_cost_of_aliases_is_not_quadratic_in_containers() -> None:
    there = [
        container(
            f"c{at}", endpoints=CountedEndpoints(apps=NetworkEndpoint("n1", f"e{at}", ("10.0.0.2",), frozenset()))
        )
        for at in range(50)
    ]
    asked = []
    for count in (1, 500):
        CountedEndpoints.asked = 0
        labels = {**OPT_IN, "gateway.aliases": ",".join(f"n{at}" for at in range(count))}
        found = plan(desired(), EngineSnapshot((*there, container(labels=labels)), (BRIDGE,)), NOTHING)
        assert (ActionKind.CONNECT, "apps", "web") in made(found)
        asked.append(CountedEndpoints.asked)
    assert asked[0] == asked[1]


@pytest.mark.parametrize("key", ["backends", "network"])
def test_label_mistakes_of_one_container_are_bounded_and_printable(key: str) -> None:
    labels = {**OPT_IN, f"gateway.{key}": ",".join(f"n{at}" for at in range(500)), "gateway.x\n\x1b[31m": "y"}
    found = plan(
        desired(), EngineSnapshot((container(labels=labels), container("z", labels={"gateway.enabled": ""}))), NOTHING
    )
    reported = [each for each in found.warnings if each in found.label_errors]
    assert len(reported) < 30
    assert any("more errors" in each for each in reported)
    assert all(each.isprintable() for each in reported)
    assert any(each.startswith("z: unknown label gateway.enabled") for each in reported)


def test_another_running_gateway_of_the_same_name_is_reported_and_never_detached() -> None:
    own, other = (
        container(name, labels={}, endpoints={"apps": endpoint("orders", "media", "gw-owner-site-a")})
        for name in ("gateway", "second")
    )
    ownership = frozenset({(own.id, "apps"), (other.id, "apps")})
    found = plan(desired(), EngineSnapshot((own, other), (BRIDGE,), own=own.id), ownership)
    assert made(found) == []
    assert any("container second is a gateway with the same instance name" in each for each in found.warnings)
    stopped = replace(other, state="exited")
    found = plan(desired(), EngineSnapshot((own, stopped), (BRIDGE,), own=own.id), ownership)
    assert made(found) == [(ActionKind.DISCONNECT, "apps", "second")]
    assert not any("same name" in each for each in found.warnings)


@pytest.mark.parametrize(
    "text",
    [
        '{"endpoints": [], "addresses": {"apps": ["nonsense"]}}',
        '{"endpoints": [], "addresses": {"apps": "10.0.0.1"}}',
        "[" * 100_000,
    ],
)
def test_an_invalid_ownership_record_is_reported_and_ignored(tmp_path: Path, text: str) -> None:
    (tmp_path / "docker.json").write_text(text)
    ownership = OwnershipRecord(tmp_path)
    assert ownership.problems
    own = container("gateway", labels={})
    network = replace(BRIDGE, subnets=("10.0.0.0/24",), ip_ranges=("10.0.0.128/25",))
    found = plan(
        replace(desired(), claimed=ownership.addresses), EngineSnapshot((own,), (network,), own=own.id), NOTHING
    )
    assert made(found) == [(ActionKind.CONNECT, "apps", "gateway")]


def test_the_names_of_an_endpoint_are_computed_once() -> None:
    """The planning code reads `names` once per alias. Computing `names` at each read would block the event loop."""
    endpoint = NetworkEndpoint("n1", "e1", ("10.0.0.2",), frozenset({"Web", "web-1"}))
    assert endpoint.names == {"web", "web-1"}
    assert endpoint.names is endpoint.names
