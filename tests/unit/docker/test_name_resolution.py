"""Tests of name conflicts, mistakes in labels, shared network namespaces, network re-creation, and log lines."""

import logging
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.docker import labels
from gateway.docker.attachment_obstacle import AttachmentObstacle
from gateway.docker.desired_state import DesiredState
from gateway.docker.engine_snapshot_collector import EngineSnapshotCollector
from gateway.docker.grants import SERVICE
from gateway.docker.name_resolution import hostname_of, hosts_of
from gateway.docker.options import DockerOptions, NetworkOptions
from gateway.docker.plan import ActionKind, AttachmentState, Plan
from gateway.docker.plan_log_limiter import PlanLogLimiter
from gateway.docker.planning import plan
from gateway.docker.planning.gateway_container import as_running_gateway
from gateway.docker.reconciler import Reconciler
from gateway.docker.snapshot import (
    Container,
    EngineSnapshot,
    NetworkEndpoint,
    NetworkInfo,
    SwarmMembership,
    SwarmService,
)
from tests.support.fake_engine import FakeContainer, FakeEngine

MARK = "gw-owner-site-a"
APPS = NetworkInfo(
    "n1", "apps", "bridge", "local", attachable=False, internal=True, subnets=("10.0.0.0/24",),
    ip_ranges=("10.0.0.128/25",),
)  # fmt: skip
SHOP = NetworkInfo("n2", "shop_default", "bridge", "local", attachable=False)
OPT_IN = {"gateway.enable": "true"}


def desired(**more: Any) -> DesiredState:
    options = DockerOptions(**{"networks": {"apps": NetworkOptions()}, **more})
    return DesiredState("site-a", options, ("orders", "media"))


def endpoint(*aliases: str, network: str = "n1") -> NetworkEndpoint:
    return NetworkEndpoint(network, f"e-{network}", ("10.0.0.2",), frozenset(aliases))


def container(name: str, **more: Any) -> Container:
    plain: dict[str, Any] = {"state": "running", "labels": {}, "network_mode": "bridge", "endpoints": {}}
    return Container(id=f"id-{name}", name=name, **{**plain, **more})


GATEWAY = container(
    "gateway", endpoints={"apps": endpoint("orders", "media", MARK), "bridge": endpoint(network="n0")}
)
WEB = container("web", labels=OPT_IN, endpoints={"shop_default": endpoint("app", network="n2")})


def planned(*containers: Container, ours: tuple[str, ...] = ("gateway",), wanted: DesiredState | None = None) -> Plan:
    observed = EngineSnapshot((GATEWAY, *containers), (APPS, SHOP), own=GATEWAY.id)
    return plan(wanted or desired(), observed, frozenset((f"id-{name}", "apps") for name in ours))


def standing(found: Plan, name: str) -> tuple[AttachmentState, AttachmentObstacle | None]:
    return next((each.state, each.reason) for each in found.attachments if each.container == name)


@pytest.mark.parametrize(
    ("more", "other"),
    [
        (
            {"endpoints": {"shop_default": endpoint("Orders", network="n2")}},
            "container shop-1 on network shop_default",
        ),
        (
            {
                "labels": {SERVICE: "orders"},
                "endpoints": {"shop_default": NetworkEndpoint("n2", "")},
                "state": "exited",
            },
            "container shop-1 on network shop_default",
        ),
    ],
)
def test_a_service_of_the_project_with_the_name_of_a_backend_is_reported(more: dict[str, Any], other: str) -> None:
    found = planned(WEB, container("shop-1", **more))
    assert [(each.container, each.name, each.ours, each.other) for each in found.name_conflicts] == [
        ("web", "orders", "a backend", other)
    ]
    (warning,) = found.warnings
    assert warning.startswith(f"web: 'orders' is a backend on network apps, and {other}: it reaches only one of them")
    assert standing(found, "web") == (AttachmentState.PENDING, None)
    assert [each.verb for each in found.actions] == [ActionKind.CONNECT]


def test_a_container_with_the_name_of_a_backend_or_an_entry_in_its_hosts_file_is_reported() -> None:
    named = container("x", labels=OPT_IN, endpoints={"shop_default": endpoint("media", network="n2")})
    hosted = container("y", labels=OPT_IN, hosts=frozenset({"orders", "unrelated"}))
    found = planned(named, hosted)
    assert [(each.container, each.name) for each in found.name_conflicts] == [("x", "media"), ("y", "orders")]
    reported = hosts_of({
        "Id": "0123456789abcdef",
        "HostConfig": {"ExtraHosts": ["media:10.0.0.1", "other=::1"], "Links": ["/db:/web/database"]},
        "NetworkSettings": {"Networks": {"shop": {"Links": ["pg:postgres"]}, "none": {"Links": None}}},
    })  # fmt: skip
    assert reported == {"media", "other", "database", "postgres"}


def test_a_container_with_the_host_name_of_a_backend_is_blocked() -> None:
    """Docker's DNS server resolves the host name of a container for all containers on its networks."""
    assert hostname_of({"Id": "0123456789abcdef", "Config": {"Hostname": "Orders"}}) == "orders"
    assert hostname_of({"Id": "0123456789abcdef", "Config": {"Hostname": "0123456789ab"}}) == ""
    thief = replace(WEB, hostname="orders")
    assert standing(planned(thief), "web") == (AttachmentState.BLOCKED, AttachmentObstacle.ALIAS_CONFLICT)
    # If the container was attached before the backend was added to the configuration, the gateway detaches the
    # container, unless the container has connections through the gateway.
    there = replace(thief, endpoints={**WEB.endpoints, "apps": endpoint(MARK)})
    found = planned(there, ours=("gateway", "web"))
    assert standing(found, "web") == (AttachmentState.BLOCKED, AttachmentObstacle.ALIAS_CONFLICT)
    assert [(each.verb, each.container) for each in found.actions] == [(ActionKind.DISCONNECT, "web")]
    found = planned(there, ours=("gateway", "web"), wanted=replace(desired(), busy=frozenset({WEB.id})))
    assert (standing(found, "web"), found.actions) == (
        (AttachmentState.DRIFTED, AttachmentObstacle.ALIAS_CONFLICT),
        (),
    )
    guest = container("guest", hostname="orders", endpoints={"apps": endpoint()})
    found = planned(guest)
    assert standing(found, "gateway") == (AttachmentState.ATTACHED, None)  # The gateway stays on the network `apps`.
    assert found.warnings[0].startswith("guest: its host name is that of backend orders, so clients on network")


def test_one_container_with_one_name_on_two_networks_is_not_ambiguous() -> None:
    both = {"apps": endpoint("www"), "shop_default": endpoint("www", network="n2")}
    peer = container("peer", endpoints=both)
    gateway_there = replace(
        GATEWAY, endpoints={**GATEWAY.endpoints, "shop_default": endpoint("orders", network="n2")}
    )
    observed = EngineSnapshot((gateway_there, WEB, peer), (APPS, SHOP), own=GATEWAY.id)
    assert plan(desired(), observed, frozenset()).name_conflicts == ()
    # A container is allowed to request its Compose service name as an alias, even if replicas request the same name.
    asking = replace(WEB, labels={**OPT_IN, "gateway.aliases": "app"})
    replica = container("web-2", endpoints={"apps": endpoint("app", MARK), **WEB.endpoints})
    assert planned(asking).name_conflicts == planned(asking, replica).name_conflicts == ()
    stranger = container("other", endpoints={"shop_default": endpoint("www", network="n2")})
    asking = replace(asking, labels={**OPT_IN, "gateway.aliases": "www"})
    assert [each.ours for each in planned(asking, stranger).name_conflicts] == ["a requested alias"]
    # On Docker's default bridge, Docker's DNS server resolves no names.
    bridged = replace(WEB, endpoints={"bridge": endpoint(network="b")})
    assert (
        planned(bridged, container("orders-1", endpoints={"bridge": endpoint("orders", network="b")})).name_conflicts
        == ()
    )


def test_a_service_of_another_project_on_a_shared_network_is_reported() -> None:
    theirs = container("b-api-1", endpoints={"apps": endpoint("api")})
    own = container("a-api-1", endpoints={"shop_default": endpoint("api", network="n2")})
    (shadow,) = planned(WEB, theirs, own).name_conflicts
    assert str(shadow) == (
        "'api' is container b-api-1 on network apps, and container a-api-1 on network shop_default"
    )


def test_the_gateway_is_warned_for_itself_and_never_refused() -> None:
    own = replace(GATEWAY, endpoints={"shop_default": endpoint(network="n2")})
    clash = container("orders-1", endpoints={"shop_default": endpoint("orders", network="n2")})
    observed = EngineSnapshot((own, clash), (APPS, SHOP), own=own.id)
    found = plan(desired(on_name_conflict="refuse"), observed, frozenset())
    assert [each.container for each in found.name_conflicts] == ["gateway"]
    assert (standing(found, "gateway"), len(found.warnings)) == ((AttachmentState.PENDING, None), 1)


CLASH = container("shop-1", endpoints={"shop_default": endpoint("orders", network="n2")})


def test_refuse_does_not_attach_containers_with_ambiguous_names() -> None:
    found = planned(WEB, CLASH, wanted=desired(on_name_conflict="refuse"))
    assert standing(found, "web") == (AttachmentState.BLOCKED, AttachmentObstacle.NAME_CONFLICT)
    assert (found.actions, found.warnings) == ((), ())
    assert "docker.networks.apps.backends" in next(each.message for each in found.attachments if each.message)


def clashing(names: dict[str, str], attached: set[str]) -> Plan:
    """Plan for containers, each on its own network with a container that has the name of another one as its alias.

    Args:
        names: For each container, from the oldest to the newest: the alias on its own network.
        attached: The containers that the gateway has attached.
    """
    containers = []
    for number, (name, alias) in enumerate(names.items()):
        own = {f"of-{name}": endpoint(network=f"n-{name}")}
        joined = {"apps": endpoint(MARK)} if name in attached else {}
        containers.append(container(name, labels=OPT_IN, created=number, endpoints={**own, **joined}))
        beside = {f"of-{name}": endpoint(alias, network=f"n-{name}")}
        containers.append(container(f"beside-{name}", endpoints=beside))
    wanted = desired(on_name_conflict="refuse")
    return planned(*containers, ours=("gateway", *attached), wanted=wanted)


@pytest.mark.parametrize(
    ("names", "attached", "first", "last"),
    [
        ({"one": "two", "two": "one"}, (), {"one"}, {"one"}),
        ({"one": "two", "two": "one"}, ("one",), {"one"}, {"one"}),
        ({"one": "two", "two": "one"}, ("two",), {"two"}, {"two"}),
        ({"one": "two", "two": "one"}, ("one", "two"), set(), {"one"}),
        ({"one": "two", "two": "x"}, (), {"one"}, {"one"}),
        ({"one": "two", "two": "x"}, ("two",), {"two"}, {"two"}),
        ({"one": "two", "two": "x"}, ("one", "two"), {"two"}, {"two"}),
        ({"one": "two", "two": "three", "three": "one"}, (), {"one"}, {"one"}),
        ({"one": "two", "two": "three", "three": "one"}, ("one", "two", "three"), set(), {"one"}),
        ({"one": "x", "two": "x"}, (), {"one", "two"}, {"one", "two"}),
    ],
)
def test_containers_that_exclude_each_other_are_not_attached_and_detached_for_ever(
    names: dict[str, str], attached: tuple[str, ...], first: set[str], last: set[str]
) -> None:
    on, rounds = set(attached), []
    while actions := clashing(names, on).actions:
        for action in actions:
            (on.add if action.verb is ActionKind.CONNECT else on.remove)(action.container)
        rounds.append(set(on))
        assert len(rounds) < 5
    assert (rounds[0] if rounds else on, on) == (first, last)
    blocked = {each.container for each in clashing(names, on).attachments if each.reason is not None}
    assert blocked == names.keys() - on


@pytest.mark.parametrize(
    ("ours", "more", "busy", "expected"),
    [
        (("web",), {}, False, (AttachmentState.BLOCKED, [ActionKind.DISCONNECT])),
        (("web",), {}, True, (AttachmentState.DRIFTED, [])),
        (("web",), {"repair": "never"}, False, (AttachmentState.DRIFTED, [])),
        (("web",), {"repair": "disruptive"}, True, (AttachmentState.BLOCKED, [ActionKind.DISCONNECT])),
        ((), {}, False, (AttachmentState.DRIFTED, [])),
    ],
)
def test_refuse_detaches_only_own_attachments_as_repair_permits(
    ours: tuple[str, ...], more: dict[str, Any], busy: bool, expected: tuple[AttachmentState, list[ActionKind]]
) -> None:
    there = replace(WEB, endpoints={**WEB.endpoints, "apps": endpoint(MARK)})
    wanted = desired(on_name_conflict="refuse", **more)
    wanted = replace(wanted, busy=frozenset({there.id} if busy else ()))
    found = planned(there, CLASH, ours=("gateway", *ours), wanted=wanted)
    state, reason = standing(found, "web")
    assert ((state, [each.verb for each in found.actions]), reason) == (expected, AttachmentObstacle.NAME_CONFLICT)


@pytest.mark.parametrize("policy", ["warn", "refuse"])
def test_an_ambiguous_swarm_service_is_reported_or_refused(policy: str) -> None:
    overlays = tuple(replace(each, driver="overlay", scope="swarm", attachable=True) for each in (APPS, SHOP))
    app = SwarmService("s1", "app", 1, OPT_IN, {"n2": frozenset()})
    other = SwarmService("s2", "shop", 1, {}, {"n2": frozenset({"orders"})})
    leader = SwarmMembership(active=True, manager=True, leader=True)
    observed = EngineSnapshot((GATEWAY,), overlays, (app, other), swarm=leader, own=GATEWAY.id)
    found = plan(desired(services=True, on_name_conflict=policy), observed, frozenset())
    assert [each.other for each in found.name_conflicts] == ["service shop on network shop_default"]
    if policy == "warn":
        assert [each.verb for each in found.actions] == [ActionKind.UPDATE_SERVICE]
    else:
        assert (standing(found, "service app"), found.actions) == (
            (AttachmentState.BLOCKED, AttachmentObstacle.NAME_CONFLICT),
            (),
        )


# Tests of mistakes in labels.


@pytest.mark.parametrize(
    ("found", "reported"),
    [
        ({"gateway.enabled": "true"}, ["unknown label gateway.enabled: did you mean gateway.enable?"]),
        ({"gateway.enable": "ture"}, ["gateway.enable: 'ture' is neither true nor false"]),
        ({"gateway.enable": "false"}, []),
        ({"gateway.Backend": "orders"}, ["unknown label gateway.Backend: did you mean gateway.backends?"]),
        ({"gateway.on_stop": "keep"}, ["unknown label gateway.on_stop: did you mean gateway.on-stop?"]),
        ({"gateway.http.routers.web": "x"}, []),  # This label belongs to another program.
        ({"gateway.enabled": "true", "gateway.instance": "site-b"}, []),  # The instance site-b reports this mistake.
        ({**OPT_IN, "gateway.color": "red"}, ["unknown label gateway.color"]),
    ],
)
def test_mistakes_in_labels_are_reported_with_and_without_opt_in(found: dict[str, str], reported: list[str]) -> None:
    assert labels.read(found, "gateway", "site-a", ["orders"])[1] == reported


def test_ineffective_labels_are_reported() -> None:
    asking = {"gateway.backends": "orders"}
    alone = container("alone", labels=asking, endpoints={"shop_default": endpoint(network="n2")})
    joined = container("joined", labels=asking, endpoints={"apps": endpoint()})
    found = planned(alone, joined)
    assert found.warnings == ("alone: gateway.backends has no effect without gateway.enable=true",)
    assert found.label_errors == frozenset(found.warnings)


# Tests of containers that share the network namespace of another container.


def test_a_container_in_the_network_of_one_that_is_attached_is_attached() -> None:
    side = container("side", labels=OPT_IN, network_mode="container:id-web")
    there = replace(WEB, endpoints={"apps": endpoint(MARK)})
    found = planned(there, side, ours=("web",))
    assert standing(found, "side") == (AttachmentState.ATTACHED, None)
    assert [each.message for each in found.attachments if each.container == "side"] == [
        "it uses the network of container web, which is attached"
    ]
    assert found.actions == ()
    # A container that uses the network namespace of another container cannot have aliases.
    named = replace(side, labels={**OPT_IN, "gateway.aliases": "side"})
    assert standing(planned(there, named, ours=("web",)), "side") == (
        AttachmentState.DRIFTED,
        AttachmentObstacle.SHARED_NETWORK,
    )


def test_a_blocked_container_names_the_owner_of_its_network_namespace() -> None:
    side = container("side", labels=OPT_IN, network_mode="container:web")
    assert standing(planned(WEB, side), "side") == (AttachmentState.PENDING, None)
    for base in (replace(WEB, labels={}), container("other")):
        found = planned(base, side)
        assert standing(found, "side") == (AttachmentState.BLOCKED, AttachmentObstacle.SHARED_NETWORK)
    assert "that was removed" in found.attachments[-1].message


# Tests of networks that must be re-created before changed options apply.


def outdated(tmp_path: Path) -> tuple[FakeEngine, Reconciler, list[FakeContainer], list[NetworkOptions]]:
    """Return an engine, a reconciler, the engine's containers, and a list with the desired options of network `apps`.

    The list has one element. A test replaces this element, so that the existing network is outdated.
    """
    engine = FakeEngine(random.Random(1))
    options = [NetworkOptions()]
    there = [engine.add_container("gateway", {}), *(engine.add_container(name, OPT_IN) for name in ("a", "b"))]

    def wanted() -> DesiredState:
        return desired(networks={"apps": options[0]}, container="gateway", max_detaches=1)

    return engine, Reconciler(wanted().options, wanted, lambda _: None, tmp_path), there, options


async def test_containers_detached_for_a_network_replacement_stay_detached_until_it_is_done(tmp_path: Path) -> None:
    engine, reconciler, there, options = outdated(tmp_path)

    async def settle() -> None:
        for _ in range(4):
            await reconciler.reconcile(engine)  # type: ignore[arg-type]

    await settle()
    assert all("apps" in each.endpoints for each in there)
    options[0] = NetworkOptions(mtu=1400)
    await settle()
    assert "docker network rm apps" in reconciler.plan.warnings[0]
    # While other containers are attached to the network, the gateway attaches its own container again.
    await engine.post("networks/apps/disconnect", {"Container": there[0].id})
    await settle()
    assert "apps" in there[0].endpoints
    for each in reversed(there):
        await engine.post("networks/apps/disconnect", {"Container": each.id})
        await settle()
        assert "apps" not in each.endpoints
    assert {each.state for each in reconciler.plan.attachments} == {AttachmentState.PENDING}
    # The gateway still attaches new containers to the old network.
    newcomer = engine.add_container("new", OPT_IN)
    await settle()
    assert "apps" in newcomer.endpoints
    await engine.post("networks/apps/disconnect", {"Container": newcomer.id})
    for each in there:
        if "apps" in each.endpoints:
            await engine.post("networks/apps/disconnect", {"Container": each.id})
    await settle()
    (network,) = engine.networks.values()
    await engine.delete(f"networks/{network.id}")
    await settle()
    assert all("apps" in each.endpoints for each in (*there, newcomer))
    assert not any("docker network rm apps" in each for each in reconciler.plan.warnings)


async def test_containers_that_the_gateway_detached_are_attached_again(tmp_path: Path) -> None:
    engine, reconciler, there, options = outdated(tmp_path)

    async def settle() -> None:
        for _ in range(4):
            await reconciler.reconcile(engine)  # type: ignore[arg-type]

    await settle()
    options[0] = NetworkOptions(mtu=1400)
    there[1].labels = {}
    await settle()
    assert "apps" not in there[1].endpoints
    there[1].labels = dict(OPT_IN)
    await settle()
    assert "apps" in there[1].endpoints


# Tests of the limit on the number of log lines.


def test_warnings_are_logged_once_and_at_a_limited_rate() -> None:
    limiter = PlanLogLimiter(most=3, window=60, repeat_after=600)
    assert limiter.select(["a", "b"], 0) == ["a", "b"]
    assert limiter.select(["a"], 10) == []
    assert limiter.select(["a", "b"], 20) == []  # "b" was logged 20 s ago, which is less than `repeat_after`.
    assert limiter.select(["a", "c", "d"], 30) == ["c"]
    assert limiter.select(["d"], 40) == []
    assert limiter.select(["d"], 61) == ["d"]  # "d" is logged as soon as the rate limit permits another line.
    assert limiter.select([], 700) == []
    assert limiter.select(["a"], 701) == ["a"]


def test_events_beyond_the_bound_are_counted() -> None:
    limiter = PlanLogLimiter(most=2, window=60)
    assert [limiter.admit(0) for _ in range(5)] == [True, True, False, False, False]
    assert limiter.take_suppressed(30) == 0
    assert limiter.take_suppressed(60) == 3
    assert limiter.take_suppressed(61) == 0


async def test_a_wrong_label_is_in_the_log_at_info_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine(random.Random(1))
    engine.add_container("typo", {"gateway.enabled": "true"})
    reconciler = Reconciler(desired().options, desired, lambda _: None, tmp_path)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            await reconciler.reconcile(engine)  # type: ignore[arg-type]
    reported = [each for each in caplog.records if each.getMessage() == "docker: invalid label"]
    assert [(each.levelname, each.__dict__["detail"]) for each in reported] == [
        ("INFO", "typo: unknown label gateway.enabled: did you mean gateway.enable?")
    ]


@pytest.mark.parametrize("asks", [True, False])
async def test_names_are_queried_only_for_attached_containers(tmp_path: Path, asks: bool) -> None:
    engine = FakeEngine(random.Random(1))
    network = engine.add_network("shop_default")
    web, peer = engine.add_container("web", OPT_IN if asks else {}), engine.add_container("shop-1", {})
    for each, alias in ((web, "app"), (peer, "orders")):
        engine.join(each, network, [alias], foreign=True)
    asked: list[str] = []
    get: Callable[..., Any] = engine.get

    async def noting(path: str, **params: Any) -> Any:
        asked.append(path)
        return await get(path, **params)

    engine.get = noting  # type: ignore[method-assign]
    reconciler = Reconciler(desired().options, desired, lambda _: None, tmp_path)
    found = await reconciler.dry_run(engine)  # type: ignore[arg-type]
    assert [each.name for each in found.name_conflicts] == (["orders"] if asks else [])
    pages = [f"containers/{each.id}/json" for each in (web, peer)]
    assert [path for path in asked if path in pages] == (pages if asks else [])
    asked.clear()
    await reconciler.dry_run(engine)  # type: ignore[arg-type]
    assert [path for path in asked if path in pages] == []


async def test_refusals_of_the_engine_are_bounded_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = FakeEngine(random.Random(1))
    engine.add_network("apps", full=True)
    for at in range(100):
        engine.add_container(f"c{at}", OPT_IN)
    reconciler = Reconciler(desired().options, desired, lambda _: None, tmp_path)
    with caplog.at_level(logging.INFO):
        await reconciler.reconcile(engine)  # type: ignore[arg-type]
    assert sum(reconciler.errors.values()) == 100
    assert len([each for each in caplog.records if each.getMessage() == "docker action failed"]) <= 60


def test_a_message_about_many_names_is_bounded() -> None:
    names = [f"n{at}" for at in range(300)]
    other = container("other", endpoints={"apps": endpoint(*names)})
    shop = container("shop-1", endpoints={"shop_default": endpoint(*names, network="n2")})
    found = planned(WEB, other, shop)
    (reported,) = [each for each in found.warnings if each.startswith("web:")]
    assert "and 295 more names" in reported
    assert len(reported) < 1000
    assert len(found.name_conflicts) == 300


async def test_a_container_name_takes_precedence_over_an_id_prefix() -> None:
    engine = FakeEngine(random.Random(1))
    stranger, own = engine.add_container("stranger", {}), engine.add_container("0", {})
    assert stranger.id.startswith("0")
    options = DockerOptions(container="0", networks={"apps": NetworkOptions()})
    observed = await EngineSnapshotCollector(options, set).snapshot(engine)  # type: ignore[arg-type]
    assert observed.own == own.id


@pytest.mark.parametrize("policy", ["warn", "refuse"])
def test_a_container_that_joined_the_network_by_itself_is_warned_for_and_left_alone(policy: str) -> None:
    both = {"apps": endpoint("app"), "shop_default": endpoint("app", network="n2")}
    joined, shop = (
        container("joined", endpoints=both),
        container("shop-1", endpoints={"shop_default": endpoint("orders", network="n2")}),
    )
    found = planned(joined, shop, wanted=desired(on_name_conflict=policy))
    assert any(each.startswith("joined: 'orders' is a backend on network apps") for each in found.warnings)
    assert [each.container for each in found.name_conflicts] == ["joined"]
    assert found.actions == ()


# Tests of commands in messages, and of problems that only the operator can fix.


def test_a_command_in_another_container_uses_the_running_gateway() -> None:
    temporary = container("tmp", endpoints={"bridge": endpoint(network="n0")})
    for own in (temporary.id, None):
        seen = EngineSnapshot((GATEWAY, temporary, WEB), (APPS, SHOP), own=own)
        assert as_running_gateway(desired(), seen).own == GATEWAY.id
    configured = EngineSnapshot((GATEWAY, temporary), (APPS, SHOP), own=temporary.id)
    assert as_running_gateway(desired(container="tmp"), configured) is configured
    stopped = EngineSnapshot((replace(GATEWAY, state="exited"), temporary), (APPS, SHOP), own=temporary.id)
    assert as_running_gateway(desired(), stopped) is stopped
    two = EngineSnapshot((GATEWAY, replace(GATEWAY, id="id-2", name="second")), (APPS,), own=None)
    assert as_running_gateway(desired(), two) is two


def test_a_gateway_attached_by_others_explains_how_to_undo_it() -> None:
    joined = replace(GATEWAY, endpoints={**GATEWAY.endpoints, "apps": endpoint("x")})
    found = plan(desired(), EngineSnapshot((joined,), (APPS,), own=joined.id), frozenset())
    (message,) = (each.message for each in found.attachments)
    assert "docker network disconnect apps gateway" in message


def test_a_container_bound_to_a_removed_network_by_its_id_must_be_recreated() -> None:
    bound = container("job", state="exited", network_mode="f" * 64, endpoints={"apps": endpoint()}, labels=OPT_IN)
    found = planned(bound)
    assert standing(found, "job") == (AttachmentState.DRIFTED, None)
    assert "--force-recreate" in next(each.message for each in found.attachments if each.container == "job")
    assert standing(planned(replace(bound, network_mode=APPS.id)), "job")[0] is AttachmentState.ATTACHED


def test_a_container_in_the_network_of_one_that_is_blocked_is_blocked_too() -> None:
    base = container("orders", labels=OPT_IN)
    side = container("side", labels=OPT_IN, network_mode="container:orders", created=1)
    assert standing(planned(base, side), "side") == (AttachmentState.BLOCKED, AttachmentObstacle.SHARED_NETWORK)


def test_a_backends_name_as_an_alias_needs_another_alias() -> None:
    found = planned(replace(WEB, labels={**OPT_IN, "gateway.aliases": "orders"}))
    message = next(each.message for each in found.attachments if each.container == "web")
    assert message.endswith("choose another alias")


def test_an_unknown_backend_suggests_a_known_one() -> None:
    found = planned(replace(WEB, labels={**OPT_IN, "gateway.backends": "order"}))
    assert any("did you mean 'orders'?" in each for each in found.warnings)
