"""Tests which backends and aliases containers can use, and which containers can spoof addresses."""

import random
from pathlib import Path
from typing import Any

import pytest

from gateway.docker.attachment_obstacle import AttachmentObstacle
from gateway.docker.consumer_identity_warnings import can_spoof
from gateway.docker.consumer_registry import consumer
from gateway.docker.desired_state import DesiredState
from gateway.docker.errors import EngineError, EngineErrorKind
from gateway.docker.grants import PROJECT, SERVICE, SWARM_SERVICE
from gateway.docker.image_labels import split
from gateway.docker.options import AttachRule, DockerOptions, Grant, NetworkOptions
from gateway.docker.plan import ActionKind, AttachmentState, Plan
from gateway.docker.planning import plan
from gateway.docker.reconciler import Reconciler
from gateway.docker.snapshot import (
    Container,
    EngineSnapshot,
    NetworkEndpoint,
    NetworkInfo,
    SwarmMembership,
    SwarmService,
)
from tests.support.fake_engine import FakeEndpoint, FakeEngine

ORDERS = NetworkInfo("n-orders", "orders-net", "bridge", "local", attachable=False)
MEDIA = NetworkInfo("n-media", "media-net", "bridge", "local", attachable=False)
NETWORKS = {"orders-net": NetworkOptions(backends=("orders",)), "media-net": NetworkOptions(backends=("media",))}
ENABLE = {"gateway.enable": "true"}
SHOP = {PROJECT: "shop", SERVICE: "web"}


def container(name: str = "web", labels: dict[str, str] | None = None, **more: Any) -> Container:
    plain: dict[str, Any] = {"state": "running", "network_mode": "bridge", "endpoints": {}}
    return Container(id=f"id-{name}", name=name, labels=labels or {}, **{**plain, **more})


def attached(*aliases: str, foreign: bool = False) -> dict[str, NetworkEndpoint]:
    mark = () if foreign else ("gw-owner-site-a",)
    return {"orders-net": NetworkEndpoint("n-orders", "e1", ("10.0.0.2",), frozenset({*aliases, *mark}))}


def planned(*there: Container, strict: bool = False, services: tuple[SwarmService, ...] = (), **options: Any) -> Plan:
    made = DockerOptions(**{"networks": NETWORKS, **options})
    desired = DesiredState(
        "site-a", made, ("orders", "media"), by_label={"orders": "gateway.backends"}, strict=strict
    )
    ours = frozenset((each.id, name) for each in there for name in each.endpoints)
    swarm = SwarmMembership(active=True, manager=True, leader=True) if services else SwarmMembership()
    return plan(desired, EngineSnapshot(there, (ORDERS, MEDIA), services, swarm=swarm), ours)


def joins(found: Plan) -> dict[str, tuple[str, ...]]:
    return {each.network: each.aliases[:-1] for each in found.actions if each.verb is ActionKind.CONNECT}


def blocked(found: Plan) -> list[tuple[str, AttachmentObstacle | None]]:
    return [(each.container, each.reason) for each in found.attachments if each.state is AttachmentState.BLOCKED]


def test_labels_that_equal_the_images_do_not_count() -> None:
    image = {"gateway.enable": "true", "gateway.backends": "orders", "maintainer": "x"}
    assert split({**image, "gateway.aliases": "web"}, image) == ({"gateway.aliases": "web"}, image)
    assert split({**image, "gateway.backends": "media"}, image)[0] == {"gateway.backends": "media"}
    assert split({"a": "b"}, None) == ({}, {"a": "b"})


def test_labels_of_compose_and_swarm_count_on_their_own_containers() -> None:
    """Labels that a container has in common with its image usually do not count.

    Compose adds the labels for project and service to the images that Compose builds. On a container that Compose
    created, these labels nevertheless count.
    """
    made = {**SHOP, "com.docker.compose.config-hash": "1"}
    assert split(made, SHOP)[0] == made
    # `docker run` created this container, and the image has the same labels, so the labels do not count.
    assert split(made, made)[0] == {}
    task = {SWARM_SERVICE: "jobs", "com.docker.swarm.task.id": "t"}
    assert split(task, {SWARM_SERVICE: "jobs"})[0] == task


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    ("labels", "grant"),
    [
        ({}, Grant(("orders",), container="we*", aliases=("front",))),
        (SHOP, Grant(("orders",), project="shop", service="web", aliases=("front",))),
        ({SWARM_SERVICE: "jobs"}, Grant(("orders",), swarm_service="jobs", aliases=("front",))),
    ],
)
def test_a_grant_attaches_and_admits_without_a_label(labels: dict[str, str], grant: Grant, strict: bool) -> None:
    there = container(labels=labels)
    assert joins(planned(there, grants=(grant,), strict=strict)) == {"orders-net": ("front",)}
    assert [each.why for each in planned(there, grants=(grant,), strict=strict).actions] == ["docker.grants"]
    who = consumer(there, (grant,), strict=strict)
    assert (who.has("gateway.backends", "orders"), who.has("gateway.backends", "media")) == (True, False)


def test_a_grant_matches_if_all_its_conditions_do() -> None:
    grant = Grant(("orders",), project="shop", service="web")
    for labels in ({PROJECT: "shop", SERVICE: "db"}, {PROJECT: "other", SERVICE: "web"}, {SERVICE: "web"}):
        assert joins(planned(container(labels=labels), grants=(grant,))) == {}
    assert joins(planned(container("web"), grants=(Grant(("orders",), container="batch-*"),))) == {}


def test_labels_count_in_addition_to_grants_unless_strict() -> None:
    labels = {**ENABLE, "gateway.backends": "media", "gateway.aliases": "mine"}
    grants = (Grant(("orders",), container="granted", aliases=("front",)),)
    plain, granted = container("plain", labels), container("granted", labels)
    assert joins(planned(plain, grants=grants)) == {"media-net": ("mine",)}
    assert joins(planned(granted, grants=grants)) == {"media-net": ("mine",)}
    who = consumer(granted, grants, strict=False)
    assert (who.has("gateway.backends", "orders"), who.has("gateway.backends", "media")) == (True, True)
    for each in (plain, granted):
        found = planned(each, grants=grants, strict=True)
        assert (joins(found), blocked(found)) == ({}, [(each.name, AttachmentObstacle.NOT_GRANTED)])
    assert not consumer(plain, grants, strict=True).has("gateway.backends", "media")
    assert not consumer(granted, grants, strict=True).has("gateway.backends", "media")


def test_in_strict_mode_labels_select_among_granted_backends() -> None:
    grants = (Grant(("orders", "media"), container="web", aliases=("front", "back")),)

    def strict(**labels: str) -> Plan:
        reported = {f"gateway.{key.replace('_', '-')}": text for key, text in labels.items()}
        return planned(container(labels=reported), grants=grants, strict=True)

    assert joins(strict()) == {"orders-net": ("front", "back"), "media-net": ("front", "back")}
    assert joins(strict(backends="orders", aliases="back")) == {"orders-net": ("back",)}
    assert joins(strict(enable="false")) == {}
    more = strict(aliases="back,else")
    assert joins(more)["orders-net"] == ("back",)
    assert "web: alias else is not granted to it (docker.grants)" in more.warnings
    stopped = container(labels={"gateway.on-stop": "detach"}, state="exited", endpoints=attached("front", "back"))
    assert [each.verb for each in planned(stopped, grants=grants, strict=True).actions] == [ActionKind.DISCONNECT]


def test_strict_mode_refuses_a_network_without_granted_backends() -> None:
    grants = (Grant(("orders",), container="web"),)

    def asking(networks: str, **more: Any) -> Plan:
        return planned(container(labels={"gateway.network": networks}, **more), grants=grants, strict=True)

    refused = asking("media-net")
    assert (joins(refused), blocked(refused)) == ({}, [("web", AttachmentObstacle.NOT_GRANTED)])
    some = asking("media-net,orders-net")
    assert joins(some) == {"orders-net": ()}
    assert "web: no backend on network media-net is granted to it (docker.grants)" in some.warnings
    there = {"media-net": NetworkEndpoint("n-media", "e1", ("10.0.0.2",), frozenset({"gw-owner-site-a"}))}
    assert [each.verb for each in asking("media-net", endpoints=there).actions] == [ActionKind.DISCONNECT]
    unknown = asking("nowhere,orders-net")
    assert joins(unknown) == {"orders-net": ()}
    assert "web: network 'nowhere' is not configured" in unknown.warnings


def test_a_container_that_loses_its_grant_is_detached() -> None:
    there = container(labels=ENABLE, endpoints=attached())
    assert [each.verb for each in planned(there).actions if each.network == "orders-net"] == []
    assert [each.verb for each in planned(there, strict=True).actions] == [ActionKind.DISCONNECT]


def test_a_service_is_granted_by_its_name() -> None:
    service = SwarmService("s1", "jobs", 7, {}, {}, {"TaskTemplate": {"Networks": []}})
    grants = (Grant(("orders",), swarm_service="jobs"),)
    mesh = {"mesh": NetworkOptions(backends=("orders",))}
    desired = DesiredState(
        "site-a", DockerOptions(networks=mesh, services=True, grants=grants), ("orders",), strict=True
    )
    network = NetworkInfo("m1", "mesh", "overlay", "swarm", attachable=True)
    leader = SwarmMembership(active=True, manager=True, leader=True)
    found = plan(desired, EngineSnapshot((), (network,), (service,), swarm=leader), frozenset())
    assert [(each.verb, each.container) for each in found.actions] == [(ActionKind.UPDATE_SERVICE, "service jobs")]
    labeled = SwarmService("s2", "other", 7, ENABLE, {}, {"TaskTemplate": {"Networks": []}})
    found = plan(desired, EngineSnapshot((), (network,), (labeled,), swarm=leader), frozenset())
    assert (found.actions, blocked(found)) == ((), [("service other", AttachmentObstacle.NOT_GRANTED)])


def named(name: str, alias: str, project: str | None = None, **more: Any) -> Container:
    labels = {**ENABLE, "gateway.backends": "orders", "gateway.aliases": alias}
    return container(name, labels | ({PROJECT: project} if project else {}), **more)


def test_an_alias_belongs_to_one_project_or_service() -> None:
    holder = named("web", "front", "shop", endpoints=attached("front"))
    for thief in (named("thief", "front"), named("thief", "FRONT", "other")):
        found = planned(thief, holder)
        assert (joins(found), blocked(found)) == ({}, [("thief", AttachmentObstacle.ALIAS_CONFLICT)])
        assert "container web" in found.attachments[0].message
    assert joins(planned(named("web-2", "front", "shop"), holder)) == {"orders-net": ("front",)}


def test_the_older_of_two_containers_gets_the_alias() -> None:
    found = planned(named("young", "front", created=9), named("old", "front", created=5))
    assert [each.container for each in found.actions if each.verb is ActionKind.CONNECT] == ["old"]
    assert blocked(found) == [("young", AttachmentObstacle.ALIAS_CONFLICT)]


def test_a_second_container_with_an_alias_loses_it() -> None:
    old = named("old", "front", created=5, endpoints=attached("front"))
    young = named("young", "front", created=9, endpoints=attached("front"))
    found = planned(young, old)
    assert [(each.verb, each.container, each.aliases) for each in found.actions] == [
        (ActionKind.REATTACH, "young", ("gw-owner-site-a",))
    ]


def test_the_configuration_may_give_one_alias_to_many() -> None:
    holder = container("batch-1", SHOP, endpoints=attached("batch"))
    both = (Grant(("orders",), container="batch-*", aliases=("batch",)),)
    assert joins(planned(holder, container("batch-2"), grants=both)) == {"orders-net": ("batch",)}
    rules = (AttachRule(names=("batch-*",), backends=("orders",), aliases=("batch",)),)
    assert joins(planned(holder, container("batch-2"), attach=rules)) == {"orders-net": ("batch",)}
    one = (Grant(("orders",), container="batch-1", aliases=("batch",)),)
    assert blocked(planned(holder, named("batch-2", "batch"), grants=one)) == [
        ("batch-2", AttachmentObstacle.ALIAS_CONFLICT)
    ]


def test_labels_that_come_from_an_image_are_reported() -> None:
    found = planned(container(image_labels={**ENABLE, "gateway.backends": "orders", "maintainer": "x"}))
    assert found.actions == ()
    (line,) = found.warnings[-1:]
    assert line.startswith("web: gateway.backends, gateway.enable come from its image and are ignored")
    assert "docker.grants" in line


@pytest.mark.parametrize(
    ("host", "able"),
    [
        ({}, True),
        ({"CapDrop": ["NET_RAW"]}, False),
        ({"CapDrop": ["CAP_NET_RAW"]}, False),
        ({"CapDrop": ["ALL"]}, False),
        ({"CapDrop": ["ALL"], "CapAdd": ["CHOWN"]}, False),
        ({"CapDrop": ["all"], "CapAdd": ["net_raw"]}, True),
        ({"CapDrop": ["NET_RAW"], "CapAdd": ["NET_ADMIN"]}, True),
        ({"CapDrop": ["NET_RAW"], "CapAdd": ["ALL"]}, True),
        ({"CapDrop": ["NET_RAW", "NET_ADMIN"], "CapAdd": ["ALL"]}, False),
        ({"CapDrop": ["ALL"], "Privileged": True}, True),
    ],
)
def test_which_containers_can_send_from_another_address(host: dict[str, Any], able: bool) -> None:
    assert can_spoof(host) is able


def test_containers_that_can_spoof_a_consumer_are_reported() -> None:
    def spoofing(*there: Container) -> tuple[str, ...]:
        return planned(*there).exposures

    good = named("good", "front", endpoints=attached("front"), can_spoof=False)
    other = container("other", endpoints=attached(foreign=True), can_spoof=True)
    (line,) = spoofing(good, other)
    assert line.startswith("network orders-net: other can spoof another container's address (NET_RAW")
    assert "orders" in line
    assert spoofing(good, container("other", endpoints=attached(foreign=True), can_spoof=False)) == ()
    assert spoofing(other) == ()  # The container is alone on the network.
    # The network has no consumer whose address could be spoofed.
    assert spoofing(container("a", endpoints=attached(), can_spoof=True), other) == ()
    (line,) = spoofing(good, container("other", endpoints=attached(foreign=True)))
    assert "other (capabilities unknown) can spoof" in line
    third = container("third", endpoints=attached(foreign=True), can_spoof=False)
    sharer = container("sharer", network_mode="container:id-third", can_spoof=True)
    (line,) = spoofing(good, third, sharer)
    assert "network orders-net: sharer can spoof" in line
    assert (
        spoofing(good, container("sharer", network_mode="container:id-good", can_spoof=True)) == ()
    )  # `sharer` can spoof only `good`, because both use one network namespace.


async def test_the_capabilities_of_neighbors_are_queried_once(tmp_path: Path) -> None:
    class Counting(FakeEngine):
        asked: list[str] = []  # noqa: RUF012 - only this test uses the class

        async def get(self, path: str, **params: Any) -> Any:
            if path.startswith("containers/") and path.endswith("/json") and path != "containers/json":
                self.asked.append(path.split("/")[1])
            return await super().get(path, **params)

    engine = Counting(random.Random(1))
    made = {
        name: engine.add_container(name, labels)
        for name, labels in {"app": {"gateway.backends": "orders"}, "near": {}, "far": {}, "sharer": {}}.items()
    }
    made["sharer"].mode = f"container:{made['app'].id}"
    for name, network in (("app", "bridge"), ("near", "bridge"), ("far", "other")):
        made[name].endpoints[network] = FakeEndpoint(f"e-{name}", [], "172.17.0.9", foreign=True)
    options = DockerOptions()
    by_label = {"orders": "gateway.backends"}
    desired = DesiredState("a", options, ("orders",), by_label=by_label)
    reconciler = Reconciler(options, lambda: desired, lambda _: None, tmp_path)
    for _ in range(2):
        (line,), _ = await reconciler.exposures(engine)  # type: ignore[arg-type]
        assert "network bridge: app, near, sharer can spoof" in line
    assert sorted(engine.asked) == sorted(made[name].id for name in ("app", "near", "sharer"))


async def test_images_are_queried_once_and_a_refusal_is_explained(tmp_path: Path) -> None:
    class Counting(FakeEngine):
        asked = 0
        refuses = False

        async def get(self, path: str, **params: Any) -> Any:
            if path.startswith("images/"):
                self.asked += 1
                if self.refuses:
                    raise EngineError(EngineErrorKind.FORBIDDEN, "Forbidden")
            return await super().get(path, **params)

    engine = Counting(random.Random(1))
    engine.image_labels = ENABLE
    asks, engine_own = (
        engine.add_container("image", ENABLE),
        engine.add_container("own", {**ENABLE, "gateway.x": "y"}),
    )
    engine.add_container("plain", {})
    options = DockerOptions(networks=NETWORKS)
    reconciler = Reconciler(options, lambda: DesiredState("a", options, ("orders",)), lambda _: None, tmp_path)
    for _ in range(3):
        await reconciler.reconcile(engine)  # type: ignore[arg-type]
    assert (engine.asked, asks.endpoints, engine_own.endpoints) == (1, {}, {})
    engine.refuses = True
    again = Reconciler(options, lambda: DesiredState("a", options, ("orders",)), lambda _: None, tmp_path)
    with pytest.raises(EngineError, match="allow it in the proxy in front of the engine"):
        await again.reconcile(engine)  # type: ignore[arg-type]
