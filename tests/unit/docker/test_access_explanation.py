"""Tests the explanations of why a container can or cannot reach a backend."""

import ipaddress
from dataclasses import replace
from typing import Any

import pytest

from gateway.docker.access_explanation import explain, find
from gateway.docker.access_explanation.explanation import ExplainedBackend, Explanation, Reachability
from gateway.docker.attachment_obstacle import AttachmentObstacle
from gateway.docker.container_last_start import ContainerLastStart
from gateway.docker.desired_state import DesiredState
from gateway.docker.options import AttachRule, DockerOptions, Grant, NetworkOptions
from gateway.docker.plan import AttachmentState, DesiredAttachment, Plan
from gateway.docker.planning import plan
from gateway.docker.snapshot import Container, EngineSnapshot, NetworkEndpoint, NetworkInfo

MARK = "gw-owner-site-a"
OPT_IN = {"gateway.enable": "true"}
UP = ExplainedBackend("orders", "up", "", ("0.0.0.0:3306",))


def endpoint(*aliases: str, network: str = "n1", address: str = "10.201.0.5") -> NetworkEndpoint:
    return NetworkEndpoint(network, f"e-{network}", (address,), frozenset(aliases))


def container(name: str, **more: Any) -> Container:
    plain: dict[str, Any] = {"state": "running", "labels": OPT_IN, "network_mode": "bridge", "endpoints": {}}
    return Container(id=f"id-{name}", name=name, **{**plain, **more})


GATEWAY = container("gateway", labels={}, endpoints={"apps": endpoint("orders", "media", MARK, address="10.201.0.2")})
ATTACHED = container("web", endpoints={"apps": endpoint(MARK)})
NETWORKS = tuple(
    NetworkInfo(key, name, "bridge", "local", attachable=False)
    for key, name in (("n1", "apps"), ("n2", "shop_default"))
)


def explained(
    web: Container, *others: Container, fact: ExplainedBackend = UP, own: Container | None = GATEWAY,
    options: dict[str, Any] | None = None, **more: Any,
) -> Explanation:  # fmt: skip
    made = DockerOptions(**{"networks": {"apps": NetworkOptions()}, **(options or {})})
    by_label = {fact.name: fact.label} if fact.label is not None else {}
    wanted = replace(DesiredState("site-a", made, ("orders", "media"), by_label=by_label), **more)
    there = (*((own,) if own is not None else ()), web, *others)
    observed = EngineSnapshot(there, NETWORKS, own=own.id if own is not None else None)
    ours = frozenset({(web.id, "apps"), (GATEWAY.id, "apps")})
    return explain(wanted, observed, plan(wanted, observed, ours), web, [fact])


def verdict(*arguments: Any, **more: Any) -> Reachability:
    (found,) = explained(*arguments, **more).backends
    return found


def test_a_container_with_access_shows_how_and_needs_no_action() -> None:
    found = explained(ATTACHED)
    assert found.backends == [Reachability("orders", "yes", "apps", "by the name orders; the backend is up")]
    assert found.remedies == []
    assert [(each.part, each.name, each.state, each.why) for each in found.parts] == [
        ("container", "web", "running", ""),
        ("label", "gateway.enable=true", "counts", ""),
        ("network", "apps", "attached", "10.201.0.5"),
    ]


CLASH = container("shop-1", labels={}, endpoints={"shop_default": endpoint("orders", network="n2")})
SHOPPING = replace(ATTACHED, endpoints={**ATTACHED.endpoints, "shop_default": endpoint(network="n2")})
BY_LABEL = replace(UP, label="gateway.backends")
BY_NETWORK = replace(UP, allow=(ipaddress.ip_network("192.168.0.0/16"),))
ORDERS = {"gateway.backends": "orders"}
ON_SHOP = {"shop_default": endpoint(network="n2")}


@pytest.mark.parametrize(
    ("web", "more", "reached", "why", "remedy"),
    [
        (replace(ATTACHED, state="exited"), {}, "no", "the container is exited", "docker start web"),
        (container("web", labels={}), {}, "no", "has no label gateway.enable", "gateway.enable=true"),
        (container("web", labels={"gateway.enabled": "true"}), {}, "no", "did you mean gateway.enable?", "correct"),
        (container("web", labels={"gateway.enable": "false"}), {}, "no", "is false", "gateway.enable=true"),
        (container("web", labels=ORDERS, endpoints=ON_SHOP), {}, "no", "has no effect without", "correct its labels"),
        (container("web", labels={}, image_labels=OPT_IN), {}, "no", "comes from its image", "docker.grants"),
        (container("web", labels={**OPT_IN, "gateway.instance": "b"}), {}, "no", "gateway, b", "query that gateway"),
        (container("web", labels={**OPT_IN, "gateway.backends": "media"}), {"options": {"networks": {
            "apps": NetworkOptions(backends=("orders",)), "other": NetworkOptions(backends=("media",)),
        }}}, "no", "gateway.backends lists only media", "add orders to its label"),
        (container("web", labels={**OPT_IN, "gateway.network": "other"}), {"options": {"networks": {
            "apps": NetworkOptions(), "other": NetworkOptions(),
        }}}, "no", "attached to network other", "in a few seconds"),
        (container("web"), {}, "no", "about to be attached", "in a few seconds"),
        (container("web"), {"strict": True}, "no", "docker.grants", "docker.grants"),
        (container("web", labels={}), {"options": {"networks": {
            "apps": NetworkOptions(backends=("orders",)), "other": NetworkOptions(backends=("media",)),
        }, "grants": (Grant(("media",), container="web"),)}}, "no", "allows only media", "backends: [orders]"),
        (container("web", labels={}), {"options": {"networks": {
            "apps": NetworkOptions(backends=("orders",)), "other": NetworkOptions(backends=("media",)),
        }, "attach": (AttachRule(("web",), backends=("media",)),)}}, "no", "its rule in docker.attach", "the rule"),
        (container("web", network_mode="none"), {}, "no", "no_network", "--network none"),
        (container("web", network_mode="host"), {}, "maybe", "the host's network", "address of a listener"),
        (container("web", network_mode="container:gone"), {}, "no", "that was removed", "recreate container web"),
        (container("web", network_mode="container:base"), {}, "no", "container base, which is not", "set the labels"),
        (container("web", network_mode="container:on"), {}, "yes", "by the name orders", ""),
        (SHOPPING, {}, "maybe", "container shop-1 on network shop_default", "rename backend orders"),
        (replace(SHOPPING, endpoints=ON_SHOP), {"options": {"on_name_conflict": "refuse"}}, "no", "name_conflict",
         "rename one of them"),
        (ATTACHED, {"fact": BY_LABEL}, "no", "which container web does not have", "add orders to label"),
        (replace(ATTACHED, labels={**OPT_IN, "gateway.backends": "media"}), {"fact": BY_LABEL}, "no",
         "does not list orders", "add orders to label"),
        (replace(ATTACHED, image_labels=ORDERS), {"fact": BY_LABEL}, "no", "from its image", "docker.grants"),
        (replace(ATTACHED, labels={**OPT_IN, **ORDERS}), {"fact": BY_LABEL}, "yes", "", ""),
        (replace(ATTACHED, labels={}), {"fact": BY_LABEL, "strict": True, "options": {
            "grants": (Grant(("orders",), container="web"),),
        }}, "yes", "", ""),
        (ATTACHED, {"fact": BY_NETWORK}, "no", "10.201.0.5 is in none", "backends.orders.allow"),
        (ATTACHED, {"fact": replace(UP, state="down", why="refused: no")}, "no", "the backend is down: refused: no",
         "gateway explain orders"),
        (ATTACHED, {"fact": replace(UP, state="degraded")}, "yes", "", ""),
        (ATTACHED, {"fact": ExplainedBackend("local", "up", "", ("127.0.0.1:1",))},
         "no", "(127.0.0.1:1)", "0.0.0.0:PORT"),
        (ATTACHED, {"options": {"networks": {"apps": NetworkOptions(backends=("media",))}},
                    "own": replace(GATEWAY, endpoints={"apps": endpoint("media", MARK)})}, "no",
         "not available on any network in docker.networks", "docker.networks.NETWORK.backends"),
        (ATTACHED, {"own": replace(GATEWAY, endpoints={})}, "no", "does not have the name orders", "explain gateway"),
        (ATTACHED, {"own": None}, "no", "not run in a container of this engine", "docker.container"),
        (GATEWAY, {"own": GATEWAY}, "no", "the gateway's own", ""),
    ],
)  # fmt: skip
def test_each_cause_has_its_remedy(web: Container, more: dict[str, Any], reached: str, why: str, remedy: str) -> None:
    others = [
        container("base", labels={}),
        container("on", endpoints={"apps": endpoint(MARK)}),
        *([CLASH] if web.endpoints.keys() & {"shop_default"} else []),
    ]
    found = verdict(web, *others, **more)
    assert (found.reached, why in found.why, remedy in found.remedy) == (reached, True, True), found
    assert bool(found.remedy) == bool(remedy), found


@pytest.mark.parametrize("on_conflict", ["warn", "refuse"])
def test_remedies_name_networks_of_projects_as_the_configuration_does(on_conflict: str) -> None:
    there = {"apps-shop": endpoint(MARK), **ON_SHOP} if on_conflict == "warn" else ON_SHOP
    web = container("web", labels={**OPT_IN, "com.docker.compose.project": "shop"}, endpoints=there)
    options = {"networks": {"apps": NetworkOptions(per="project")}, "on_name_conflict": on_conflict}
    own = replace(GATEWAY, endpoints={"apps-shop": endpoint("orders", "media", MARK)})
    found = verdict(web, CLASH, own=own, options=options)
    assert "network apps-shop" in found.why
    assert "docker.networks.apps.backends" in found.remedy


def test_a_container_is_found_by_name_or_by_the_beginning_of_its_id() -> None:
    one, two = replace(ATTACHED, id="abc1", name="abc2"), replace(ATTACHED, id="abc2", name="two")
    observed = EngineSnapshot((one, two))
    assert find(observed, "abc2") == [one]
    assert find(observed, "abc") == [one, two]
    assert (find(observed, "x"), find(observed, "")) == ([], [])


def test_networks_are_those_of_the_plan_which_may_be_other_than_the_configured_ones() -> None:
    """The plan has a separate network for each project. The configuration does not list these networks."""
    web = container("web", endpoints={"apps-shop": endpoint(MARK)})
    own = replace(GATEWAY, endpoints={"apps-shop": endpoint(MARK)})
    wanted = DesiredState("site-a", DockerOptions(networks={"apps": NetworkOptions()}), ("orders",))
    observed = EngineSnapshot((own, web), own=own.id)
    blocked = DesiredAttachment(
        "apps-shop", "web", AttachmentState.BLOCKED, AttachmentObstacle.IP_EXHAUSTED, "full", web.id
    )
    planned = Plan(attachments=(blocked,), networks={"apps-shop": ("orders",), "apps-other": ("orders",)})
    found = explain(wanted, observed, planned, web, [UP])
    assert [each.name for each in found.parts if each.part == "network"] == ["apps-shop"]
    assert found.backends[0].why == "the gateway does not have the name orders on network apps-shop"
    off = replace(web, endpoints={})
    found = explain(wanted, EngineSnapshot((own, off), own=own.id), planned, off, [UP])
    assert found.backends[0].why == "network apps-shop is blocked: ip_exhausted: full"


def test_a_backend_with_an_unknown_state_may_be_reachable() -> None:
    unknown = replace(UP, state="unknown", why="check.user is not set")
    found = verdict(ATTACHED, fact=unknown)
    assert (found.reached, found.remedy) == ("maybe", "")
    assert "check.user is not set" in found.why
    assert "this container reaches one of the two" in verdict(SHOPPING, CLASH, fact=unknown).why


def test_strict_advises_a_grant_rather_than_other_labels() -> None:
    found = verdict(container("web", labels={"gateway.enabled": "true"}), strict=True)
    assert found.remedy.startswith("grant it in docker.grants")


def test_refused_networks_are_listed() -> None:
    found = explained(container("web"), options={"networks": {"apps": NetworkOptions(per="project")}}, strict=True)
    assert [each.state for each in found.parts if each.name == "apps--container-web"] == ["blocked"]


def test_a_container_in_the_network_namespace_of_a_restarted_one_reaches_no_backend() -> None:
    own = replace(GATEWAY, last_start=ContainerLastStart(restarts=True, at=200.0))
    web = container(
        "web", network_mode=f"container:{own.id}", last_start=ContainerLastStart(restarts=True, at=100.0), labels={}
    )
    found = verdict(web, own=own)
    assert (found.reached, found.remedy) == ("no", "docker.revive is false: docker restart web")
    assert "which has restarted" in found.why
