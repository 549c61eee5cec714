"""Tests whether attached networks change the routes of containers, and tests networks of Compose projects."""

import ipaddress
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import ConfigSources, load
from gateway.docker.attachment_obstacle import AttachmentObstacle
from gateway.docker.desired_state import DesiredState
from gateway.docker.engine_actions import execute
from gateway.docker.engine_flavor import PODMAN
from gateway.docker.engine_snapshot_collector import EngineSnapshotCollector
from gateway.docker.grants import PROJECT, SWARM_SERVICE
from gateway.docker.options import DockerOptions, Grant, NetworkOptions
from gateway.docker.per_project_network_names import STACK
from gateway.docker.plan import ActionKind, AttachmentState, Plan, PlannedAction
from gateway.docker.planning import plan
from gateway.docker.planning.networks import choose_subnet
from gateway.docker.snapshot import (
    ENCRYPTED,
    Container,
    EngineSnapshot,
    NetworkEndpoint,
    NetworkInfo,
    SwarmMembership,
    SwarmService,
)
from gateway.errors import ConfigError
from tests.support.fake_engine import FakeEngine

MARK = "gw-owner-site-a"
OPT_IN = {"gateway.enable": "true"}
OURS = {"gateway.managed-by": "gateway", "gateway.instance": "site-a"}
PER_PROJECT = {"apps": NetworkOptions(per="project")}
LEADER = SwarmMembership(active=True, manager=True, leader=True)


def container(name: str, project: str | None = None, **more: Any) -> Container:
    labels = {**OPT_IN, **({PROJECT: project} if project is not None else {}), **more.pop("labels", {})}
    plain: dict[str, Any] = {"state": "running", "labels": labels, "network_mode": "bridge", "endpoints": {}}
    return Container(id=f"id-{name}", name=name, **{**plain, **more})


def gateway(*networks: str) -> Container:
    return container(
        "gateway",
        labels={"gateway.enable": "false"},
        endpoints={each: on(each, MARK if each == "apps" else "x") for each in networks},
    )


def on(network: str, *aliases: str) -> NetworkEndpoint:
    return NetworkEndpoint(f"id-{network}", f"e-{network}", ("10.0.0.2",), frozenset(aliases or (MARK,)))


def network(name: str, **more: Any) -> NetworkInfo:
    plain: dict[str, Any] = {"driver": "bridge", "scope": "local", "attachable": False}
    plain |= {"subnets": ("10.0.0.0/24",), "ip_ranges": ("10.0.0.128/25",)}
    return NetworkInfo(f"id-{name}", name, **{**plain, **more})


def planned(
    *containers: Container,
    networks: dict[str, NetworkOptions] | None = None,
    there: tuple[NetworkInfo, ...] = (),
    services: tuple[SwarmService, ...] = (),
    swarm: SwarmMembership | None = None,
    **more: Any,
) -> Plan:
    options = DockerOptions(networks=networks or PER_PROJECT, services=bool(services))
    wanted = DesiredState("site-a", options, ("orders", "media"), strict=more.pop("strict", False))
    ours = frozenset((each.id, name) for each in containers for name in each.endpoints)
    seen = EngineSnapshot(containers, there, services, swarm=swarm or SwarmMembership(), own="id-gateway", **more)
    return plan(wanted, seen, ours)


def made(found: Plan) -> list[tuple[str, str, str]]:
    return [(str(each.verb), each.network, each.container) for each in found.actions]


def test_networks_of_the_gateway_are_internal_by_default() -> None:
    for options, internal in ((NetworkOptions(), True), (NetworkOptions(internal=False), False)):
        (action,) = planned(networks={"apps": options}).actions
        assert action.body["Internal"] is internal


@pytest.mark.parametrize(("version", "priority"), [("1.45", None), ("1.48", -1), ("1.51", -1)])
async def test_engines_with_gateway_priority_keep_the_default_route(version: str, priority: int | None) -> None:
    """Use a simulated engine, because gateway priority requires API 1.48 (Docker 28)."""
    sent: list[dict[str, Any]] = []

    class Recording(FakeEngine):
        api_version = version

        async def post(self, path: str, body: Any = None, **params: Any) -> Any:
            sent.append(body["EndpointConfig"])

    await execute(Recording(random.Random(1)), PlannedAction(ActionKind.CONNECT, "apps", "n1", "web", "c1"))  # type: ignore[arg-type]
    assert [each.get("GwPriority") for each in sent] == [priority]


@pytest.mark.parametrize(("version", "known"), [("1.45", False), ("1.48", True)])
async def test_support_for_gateway_priority_is_detected(version: str, known: bool) -> None:
    class Versioned(FakeEngine):
        api_version = version

    seen = await EngineSnapshotCollector(DockerOptions(), set).snapshot(Versioned(random.Random(1)))  # type: ignore[arg-type]
    assert seen.gateway_priority is known


def test_an_existing_network_that_is_not_internal_is_kept_with_a_warning() -> None:
    old = network("apps", labels=OURS)
    there = (container("web", endpoints={"apps": on("apps")}), gateway("apps", "far"))
    static = {"apps": NetworkOptions()}
    found = planned(*there, networks=static, there=(old, network("far")))
    assert made(found) == [("reattach", "apps", "gateway")]  # Only the gateway's aliases change.
    (line,) = found.warnings
    assert (
        "it is not internal: containers reach external networks through it, and it can become their default route"
        in line
    )
    assert "set internal: false to keep it" in line
    assert "another name in docker.networks" in line
    assert "attach the gateway's container to another network" not in line
    # With `GwPriority`, containers keep their default routes. A container that has no default route still reaches
    # external networks through `apps`.
    (line,) = planned(*there, networks=static, there=(old, network("far")), gateway_priority=True).warnings
    assert "containers reach external networks through it:" in line
    # An option that the operator sets explicitly causes no warning.
    accepted = {"apps": NetworkOptions(internal=False)}
    assert planned(*there, networks=accepted, there=(old, network("far"))).warnings == ()
    # If `apps` is the gateway's only network that is not internal, replacing `apps` would disconnect the gateway.
    alone = (there[0], gateway("apps"))
    (line,) = planned(*alone, networks=static, there=(old,)).warnings
    assert "to replace it, attach the gateway's container to another network that is not internal, then" in line


def test_a_foreign_network_that_is_not_internal_is_reported() -> None:
    (line,) = planned(networks={"apps": NetworkOptions()}, there=(network("apps"),)).warnings
    assert line.startswith(
        "network apps was not created by this gateway, and it is not internal: containers reach external networks"
    )
    assert "set internal: false to accept this" in line


def test_each_option_that_differs_on_an_own_network_is_reported() -> None:
    asked = NetworkOptions(driver="overlay", subnet=ipaddress.ip_network("10.9.0.0/24"))
    good = network(
        "apps", labels=OURS, driver="overlay", scope="swarm", attachable=True, internal=True, subnets=("10.9.0.0/24",)
    )
    cases: list[tuple[NetworkOptions, NetworkInfo, str]] = [
        (asked, replace(good, driver="bridge", scope="local"), "set driver: bridge to keep it"),
        (asked, replace(good, internal=False), "set internal: false to keep it"),
        (replace(asked, internal=False), good, "set internal: true to keep it"),
        (replace(asked, encrypted=True), good, "set encrypted: false to keep it"),
        (asked, replace(good, options={ENCRYPTED: ""}), "set encrypted: true to keep it"),
        (asked, replace(good, attachable=False), "set attachable: false to keep it"),
        (asked, replace(good, subnets=("10.8.0.0/24",)), "set subnet: 10.8.0.0/24 to keep it"),
        (replace(asked, mtu=1400), good, "set no mtu to keep it"),
    ]
    assert planned(networks={"apps": asked}, there=(good,), swarm=LEADER).warnings == ()
    for options, there, words in cases:
        (line,) = planned(networks={"apps": options}, there=(there,), swarm=LEADER).warnings
        assert words in line


def test_a_gateway_on_internal_networks_only_is_warned() -> None:
    inside, outside = network("apps", labels=OURS, internal=True), network("far")
    aliases = on("apps", "orders", "media", MARK)
    alone = replace(gateway(), endpoints={"apps": aliases})
    (line,) = planned(alone, networks={"apps": NetworkOptions()}, there=(inside, outside)).warnings
    assert "docker network connect bridge gateway" in line
    (line,) = planned(alone, networks={"apps": NetworkOptions()}, there=(inside, outside), flavor=PODMAN).warnings
    assert "podman network connect podman gateway" in line
    for more in ("far", "an-overlay-that-a-worker-does-not-see"):
        both = replace(alone, endpoints={"apps": aliases, more: on(more)})
        assert planned(both, networks={"apps": NetworkOptions()}, there=(inside, outside)).warnings == ()


def test_each_project_gets_a_network_and_the_gateway_joins_all() -> None:
    lone, shop, blog = container("web"), container("shop-1", "shop"), container("blog-1", "blog")
    found = planned(gateway("far"), lone, shop, container("shop-2", "shop"), blog, there=(network("far"),))
    assert [each for each in made(found) if each[0] == "create_network"] == [
        ("create_network", "apps--container-web", ""),
        ("create_network", "apps-blog", ""),
        ("create_network", "apps-shop", ""),
    ]
    ranges = [each.body["IPAM"]["Config"][0]["Subnet"] for each in found.actions if each.body]
    assert ranges == ["10.201.0.0/24", "10.201.1.0/24", "10.201.2.0/24"]
    joins = {
        (each.container, each.network): each.aliases for each in found.actions if each.verb is ActionKind.CONNECT
    }
    assert joins.keys() == {
        ("web", "apps--container-web"), ("shop-1", "apps-shop"), ("shop-2", "apps-shop"), ("blog-1", "apps-blog"),
        ("gateway", "apps-blog"), ("gateway", "apps--container-web"), ("gateway", "apps-shop"),
    }  # fmt: skip
    assert joins["gateway", "apps-shop"] == ("orders", "media", MARK)


def test_labels_and_rules_name_the_network_of_the_configuration() -> None:
    two = {**PER_PROJECT, "media-only": NetworkOptions(backends=("media",))}
    asked = container("web", "shop", labels={"gateway.network": "apps"})
    # No container requests the network `media-only`. The gateway creates this network, but attaches no containers.
    assert {each[1] for each in made(planned(asked, networks=two))} == {"media-only", "apps-shop"}
    assert ("connect", "apps-shop", "web") in made(planned(asked, networks=two))
    other = container("web", "shop", labels={"gateway.network": "apps-blog"})
    assert "web: network 'apps-blog' is not configured" in planned(other).warnings
    assert made(planned(other)) == []


def test_grants_attach_to_the_network_of_the_project() -> None:
    options = DockerOptions(networks=PER_PROJECT, grants=(Grant(("orders",), project="shop"),))
    wanted = DesiredState("site-a", options, ("orders", "media"), strict=True)
    labels = {PROJECT: "shop", "gateway.network": "apps"}
    shop = replace(container("web"), labels=labels)
    found = plan(wanted, EngineSnapshot((shop, replace(container("other"), labels={PROJECT: "blog"}))), frozenset())
    assert made(found) == [("create_network", "apps-shop", ""), ("connect", "apps-shop", "web")]


def test_a_network_of_a_project_goes_with_its_last_container() -> None:
    shop = network("apps-shop", labels=OURS, internal=True)
    names = on("apps-shop", "orders", "media", MARK)
    own = replace(gateway("far"), endpoints={"far": on("far", "x"), "apps-shop": names})
    stopped = container("web", "shop", state="exited", endpoints={"apps-shop": on("apps-shop")})
    there = (network("far"), shop)
    assert made(planned(own, stopped, there=there)) == []
    assert made(planned(own, there=there)) == [("disconnect", "apps-shop", "gateway")]
    assert made(planned(gateway("far"), there=there)) == [("remove_network", "apps-shop", "")]


def test_the_gateway_joins_networks_with_attached_containers() -> None:
    """A Compose file, or the agent of another node, can create a network and attach containers to it."""
    guest = container("web", labels={"gateway.enable": "false"}, endpoints={"apps-shop": on("apps-shop", "web")})
    found = planned(gateway("far"), guest, there=(network("far"), network("apps-shop", internal=True)))
    assert made(found) == [("connect", "apps-shop", "gateway")]


def test_a_container_that_cannot_be_attached_gets_no_project_network() -> None:
    hosts = container("host", "shop", network_mode="host")
    found = planned(hosts)
    assert made(found) == []
    assert [(each.network, each.reason) for each in found.attachments] == [
        ("apps-shop", AttachmentObstacle.HOST_NETWORK)
    ]
    refused = planned(container("web", "shop"), strict=True)
    assert made(refused) == []
    assert [(each.network, each.reason) for each in refused.attachments] == [
        ("apps-shop", AttachmentObstacle.NOT_GRANTED)
    ]
    odd = planned(container("web", "a b"))
    assert made(odd) == []
    reported = f"web: label {PROJECT}: 'a b' cannot be part of a network's name, so it is attached to no network"
    assert odd.warnings == (reported,)


def service(name: str, **labels: str) -> SwarmService:
    return SwarmService(f"id-{name}", name, 1, {**OPT_IN, **labels}, {}, {"Name": name, "TaskTemplate": {}})


def test_stacks_and_services_get_their_own_overlays() -> None:
    there = (service("jobs"), service("shop_web", **{STACK: "shop"}), service("shop_db", **{STACK: "shop"}))
    found = planned(services=there, swarm=LEADER)
    assert made(found) == [("create_network", "apps--service-jobs", ""), ("create_network", "apps--stack-shop", "")]
    assert {each.body["Driver"] for each in found.actions} == {"overlay"}
    overlays = tuple(
        network(name, driver="overlay", scope="swarm", attachable=True, internal=True, labels=OURS)
        for name in ("apps--service-jobs", "apps--stack-shop")
    )
    joined = planned(services=there, swarm=LEADER, there=overlays)
    assert made(joined) == [
        ("update_service", "apps--service-jobs", "service jobs"),
        ("update_service", "apps--stack-shop", "service shop_web"),
        ("update_service", "apps--stack-shop", "service shop_db"),
    ]
    # A task also has the labels of its stack and service. On a worker node, the gateway joins the task's network.
    task = container(
        "jobs.1", labels={SWARM_SERVICE: "jobs", "com.docker.swarm.task.id": "t"},
        endpoints={"apps--service-jobs": on("apps--service-jobs", "gw-owner-leader")},
    )  # fmt: skip
    own = gateway("far")
    on_worker = planned(own, task, there=(network("far"), overlays[0]), swarm=SwarmMembership(active=True))
    assert ("connect", "apps--service-jobs", "gateway") in made(on_worker)
    # Without `docker.services`, per-project networks are bridges that each agent creates for containers of its node.
    alone = planned(container("web", "shop"), swarm=SwarmMembership(active=True))
    assert [each.body["Driver"] for each in alone.actions if each.verb is ActionKind.CREATE_NETWORK] == ["bridge"]


def test_a_service_keeps_its_default_route() -> None:
    overlay: dict[str, Any] = {"driver": "overlay", "scope": "swarm", "attachable": True}
    inner = network("inner", **overlay, internal=True, labels=OURS)
    back, front = network("back", **overlay, internal=True), network("front", **overlay)
    there = (inner, back, front, network("old", **overlay, labels=OURS))

    def targets(*before: str) -> list[str]:
        aliases = {"old": frozenset({MARK})}
        on = {f"id-{each}": aliases.get(each, frozenset()) for each in before}
        spec = {"TaskTemplate": {"Networks": [{"Target": key, "Aliases": sorted(on[key])} for key in on]}}
        jobs = replace(service("jobs"), networks=on, spec=spec)
        found = planned(services=(jobs,), swarm=LEADER, there=there, networks={"inner": NetworkOptions()})
        (update,) = [each for each in found.actions if each.verb is ActionKind.UPDATE_SERVICE]
        return [each["Target"] for each in update.body["TaskTemplate"]["Networks"]]

    assert targets() == ["bridge", "id-inner"]
    assert targets("old") == ["bridge", "id-inner"]  # "bridge" replaces "old" as the route to external networks
    assert targets("front") == ["id-front", "id-inner"]
    assert targets("back") == ["id-back", "id-inner"]
    assert targets("the-bridge-of-every-node", "back") == ["id-the-bridge-of-every-node", "id-back", "id-inner"]


def test_a_network_of_a_service_is_not_removed() -> None:
    overlay = network("apps--stack-shop", driver="overlay", scope="swarm", attachable=True, labels=OURS)
    leaves = replace(service("shop_web"), labels={}, networks={overlay.id: frozenset({MARK})})
    found = planned(services=(leaves,), swarm=LEADER, there=(overlay,))
    assert made(found) == [("update_service", "apps--stack-shop", "service shop_web")]


def test_exhausted_address_ranges_block_and_name_the_setting() -> None:
    narrow = {"apps": NetworkOptions(per="project", subnet=ipaddress.ip_network("10.9.0.0/23"))}
    three = [container(each, each) for each in ("a", "b", "c")]
    found = planned(*three, networks=narrow)
    assert [each[1] for each in made(found) if each[0] == "create_network"] == ["apps-a", "apps-b"]
    (blocked,) = [each for each in found.attachments if each.state is AttachmentState.BLOCKED]
    assert (blocked.container, blocked.reason) == ("c", AttachmentObstacle.IP_EXHAUSTED)
    assert blocked.message == (
        "every /24 of 10.9.0.0/23 is in use: set docker.networks.apps.subnet to a larger range"
    )
    # The project's network has a smaller subnet than the configured range. This difference causes no warning.
    there = network("apps-a", internal=True, labels=OURS, subnets=("10.9.1.0/24",))
    assert planned(three[0], networks=narrow, there=(there,)).warnings == ()
    static = planned(three[0], networks={"x": NetworkOptions()}, there=(network("y", subnets=("10.201.0.0/16",)),))
    assert [each.reason for each in static.attachments] == [AttachmentObstacle.IP_EXHAUSTED]
    service_too = planned(services=(service("jobs"),), swarm=LEADER, networks=narrow,
                          there=(network("y", subnets=("10.9.0.0/23",)),))  # fmt: skip
    assert [each.reason for each in service_too.attachments] == [AttachmentObstacle.IP_EXHAUSTED]


@given(
    taken=st.lists(st.tuples(st.integers(0, 2**12 - 1), st.integers(20, 32)), max_size=12),
    bits=st.integers(22, 28),
)
def test_the_first_free_range_is_chosen(taken: list[tuple[int, int]], bits: int) -> None:
    pool = ipaddress.ip_network("10.0.0.0/20")
    others = [ipaddress.ip_network((int(pool.network_address) + at, length), strict=False) for at, length in taken]
    free = [each for each in pool.subnets(new_prefix=bits) if not any(each.overlaps(other) for other in others)]
    found = choose_subnet(map(str, others), pool, bits)
    assert found == (str(free[0]) if free else None)


def test_ranges_of_ipv6_are_chosen_beside_those_of_ipv4() -> None:
    pool = ipaddress.ip_network("fd00:7::/48")
    assert choose_subnet(["10.201.0.0/22", "fd00:7::/64"], pool, 64) == "fd00:7:0:1::/64"


@pytest.mark.parametrize(
    ("networks", "words"),
    [
        ("{apps: {per: project}, apps-shop: {}}", "starts with apps-, as do the project networks of apps"),
        ("{apps: {per: project, subnet: 10.9.0.0/25}}", "set a subnet of /24 or larger"),
        ("{apps: {per: container}}", "project"),
        ("{apps: {per: project, subnet: 10.9.0.0/16}, appstore: {}}", ""),
    ],
)
def test_names_and_ranges_of_projects_are_validated(tmp_path: Path, networks: str, words: str) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(
        f"backends: {{a: {{kind: tcp, targets: ['h:1'], listen: 0.0.0.0:1}}}}\ndocker: {{networks: {networks}}}\n"
    )
    if not words:
        assert load(ConfigSources(file, environment={})).docker is not None
        return
    with pytest.raises(ConfigError, match=r"gateway\.yaml:2:") as raised:
        load(ConfigSources(file, environment={}))
    assert words in str(raised.value)
