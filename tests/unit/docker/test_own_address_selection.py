"""Tests how the gateway chooses its own address on a network.

The address is outside the range for containers, and stays the same when the gateway's container is re-created.
"""

import ipaddress
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.app.docker_desired_state import desired as wanted_of
from gateway.config import load
from gateway.config.loader import ConfigSources
from gateway.contracts.secret import Secret
from gateway.docker.attachment_obstacle import AttachmentObstacle
from gateway.docker.desired_state import DesiredState
from gateway.docker.engine_flavor import PODMAN
from gateway.docker.errors import EngineError, EngineErrorKind
from gateway.docker.failed_actions import FailedActions
from gateway.docker.options import DockerOptions, NetworkOptions, SwarmPeerOptions
from gateway.docker.own_address_selection import choose, is_reserved, range_for_others
from gateway.docker.ownership_record import OwnershipRecord
from gateway.docker.plan import ActionKind, AttachmentState, DesiredAttachment, Plan, PlannedAction
from gateway.docker.planning import plan
from gateway.docker.reconciler import Reconciler
from gateway.docker.snapshot import Container, EngineSnapshot, NetworkEndpoint, NetworkInfo
from gateway.errors import ConfigError
from tests.support.fake_engine import FakeEngine

NET = NetworkInfo(
    "n1", "apps", "bridge", "local", attachable=False, subnets=("10.9.0.0/24",), ip_ranges=("10.9.0.128/25",),
    gateways=("10.9.0.1",), internal=True,
)  # fmt: skip
OPEN = replace(NET, ip_ranges=())
MARK = "gw-owner-site-a"
OURS = frozenset({("id-gateway", "apps")})


def desired(**more: Any) -> DesiredState:
    return DesiredState("site-a", DockerOptions(networks={"apps": NetworkOptions(**more)}), ("orders",))


def gateway(address: str, *aliases: str, **more: Any) -> Container:
    there = NetworkEndpoint("n1", "e1", (address,), frozenset(aliases or ("orders", MARK)))
    return Container(
        "id-gateway", "gateway", "running", {}, "far", {"apps": there, "far": NetworkEndpoint("n0", "e0")}, **more
    )


def planned(own: Container, network: NetworkInfo = NET, **more: Any) -> Plan:
    return plan(desired(**more), EngineSnapshot((own,), (network,), own=own.id), OURS)


def verbs(found: Plan) -> list[ActionKind]:
    return [each.verb for each in found.actions]


@pytest.mark.parametrize(
    ("subnet", "upper"),
    [
        ("10.9.0.0/22", "10.9.2.0/23"),
        ("10.9.0.0/29", "10.9.0.4/30"),
        ("fd00:1::/64", "fd00:1:0:0:8000::/65"),
    ],
)
def test_containers_get_the_upper_half_of_a_subnet(subnet: str, upper: str) -> None:
    assert range_for_others(ipaddress.ip_network(subnet)) == ipaddress.ip_network(upper)


def test_a_subnet_that_is_too_small_is_not_divided() -> None:
    assert range_for_others(ipaddress.ip_network("10.9.0.0/30")) is None


def test_a_gateway_chooses_the_same_address_and_others_mostly_different_ones() -> None:
    (first,) = choose(NET, "site-a")
    assert (first,) == choose(NET, "site-a")
    assert is_reserved(NET, first)
    assert first not in {"10.9.0.0", "10.9.0.1", "10.9.0.127"}
    assert len({choose(replace(NET, subnets=("10.8.0.0/22",), ip_ranges=("10.8.2.0/23",)), f"node-{at}")
                for at in range(8)}) > 6  # fmt: skip
    assert choose(OPEN, "site-a") == ()


def test_refused_addresses_are_followed_by_others_until_none_is_left() -> None:
    tiny = replace(NET, subnets=("10.9.0.0/28",), ip_ranges=("10.9.0.8/29",))
    refused: set[str] = set()
    while found := choose(tiny, "site-a", refused=refused):
        assert not refused & set(found)
        refused.update(found)
    assert refused == {f"10.9.0.{at}" for at in range(2, 7)}


def test_the_previous_address_is_kept_if_possible() -> None:
    assert choose(NET, "site-a", claimed=["10.9.0.77"]) == ("10.9.0.77",)
    for gone in ("10.8.0.77", "10.9.0.200", "fd00::1"):
        assert choose(NET, "site-a", claimed=[gone]) == choose(NET, "site-a")
    assert choose(NET, "site-a", claimed=["10.9.0.77"], refused=["10.9.0.77"]) != ("10.9.0.77",)
    assert choose(NET, "site-a", ipaddress.ip_address("10.9.0.5"), ["10.9.0.77"]) == ("10.9.0.5",)


def test_each_address_family_has_its_own_address() -> None:
    both = replace(NET, subnets=("fd00:9::/64", *NET.subnets), ip_ranges=("fd00:9:0:0:8000::/65", *NET.ip_ranges))
    found = choose(both, "site-a")
    assert [ipaddress.ip_address(each).version for each in found] == [6, 4]
    assert all(is_reserved(both, each) for each in found)


def test_a_network_is_created_with_a_range_and_the_gateway_attached_beside_it() -> None:
    own = replace(gateway("10.9.0.2"), endpoints={})
    made, joined = plan(desired(), EngineSnapshot((own,), own=own.id), OURS).actions
    assert made.body["IPAM"] == {"Config": [{"Subnet": "10.201.0.0/22", "IPRange": "10.201.2.0/23"}]}
    assert ipaddress.ip_address(joined.addresses[0]) in ipaddress.ip_network("10.201.0.0/23")
    made, joined = plan(
        desired(subnet=ipaddress.ip_network("fd00:9::/64")), EngineSnapshot((own,), own=own.id), OURS
    ).actions
    assert [each["Subnet"] for each in made.body["IPAM"]["Config"]] == ["fd00:9::/64", "10.201.0.0/22"]
    assert len(joined.addresses) == 2


def test_other_containers_get_their_address_from_the_engine() -> None:
    web = Container("id-web", "web", "running", {"gateway.enable": "true"}, "bridge", {})
    (joined,) = plan(desired(), EngineSnapshot((web,), (NET,)), OURS).actions
    assert joined.addresses == ()


def test_an_address_in_the_range_of_containers_is_replaced() -> None:
    found = planned(gateway("10.9.0.130"))
    (moved,) = found.actions
    assert (moved.verb, moved.addresses) == (ActionKind.REATTACH, choose(NET, "site-a"))
    assert (
        found.attachments[0].message == "the engine may assign the gateway's address 10.9.0.130 to another container"
    )
    # The address 10.9.0.77 is outside the range for containers, so the gateway keeps this address.
    assert verbs(planned(gateway("10.9.0.77"))) == []
    busy = replace(desired(), serving=True)
    own = gateway("10.9.0.130")
    kept = plan(busy, EngineSnapshot((own,), (NET,), own=own.id), OURS)
    assert (verbs(kept), kept.attachments[0].state) == ([], AttachmentState.DRIFTED)


def test_a_configured_address_is_used() -> None:
    fixed = ipaddress.ip_address("10.9.0.9")
    assert planned(gateway("10.9.0.77"), address=fixed).actions[0].addresses == ("10.9.0.9",)
    found = planned(gateway("10.9.0.9"), address=fixed)
    assert (verbs(found), found.warnings) == ([], ())
    assert "may assign 10.9.0.9" in planned(gateway("10.9.0.9"), OPEN, address=fixed).warnings[0]


def test_a_network_without_a_range_is_kept_with_a_warning() -> None:
    found = planned(gateway("10.9.0.2"), OPEN)
    assert verbs(found) == []
    (line,) = found.warnings
    assert "has no --ip-range" in line
    assert "docs/docker.md" in line
    assert (
        "the gateway did not attach its own container, and the engine may assign the container's address 10.9.0.130"
        in planned(gateway("10.9.0.130", "orders")).warnings[0]
    )
    task = gateway("10.9.0.130", "orders", image_labels={})
    task = replace(task, labels={"com.docker.swarm.task.id": "t"})
    assert planned(task).warnings == ()  # Swarm services cannot have a fixed address, so a warning would not help.


async def test_after_a_conflict_the_next_address_is_used_and_kept(tmp_path: Path) -> None:
    class Crowded(FakeEngine):
        async def get(self, path: str, **params: Any) -> Any:
            reported = await super().get(path, **params)
            for each in reported if path == "networks" else ():
                each["IPAM"] = {"Config": [{"Subnet": "10.9.0.0/24", "IPRange": "10.9.0.128/25"}]}
            return reported

        async def post(self, path: str, body: Any = None, **params: Any) -> Any:
            wanted = body["EndpointConfig"].get("IPAMConfig", {}).get("IPv4Address")
            asked.append(wanted)
            if wanted in taken:
                raise EngineError(EngineErrorKind.FORBIDDEN, "Address already in use")
            await super().post(path, body, **params)
            self.containers[body["Container"]].endpoints["apps"].address = wanted

    asked: list[str] = []
    first = choose(NET, "site-a")[0]
    taken = {first}
    engine = Crowded(random.Random(1))
    engine.add_network("apps")
    own = engine.add_container("gateway", {})
    want = replace(desired(), options=replace(desired().options, container="gateway"))
    reconciler = Reconciler(want.options, lambda: want, lambda _: None, tmp_path)
    await reconciler.reconcile(engine)  # type: ignore[arg-type]
    assert (asked, reconciler.settled.is_set()) == ([first], False)
    reconciler._failures.retain(())
    await reconciler.reconcile(engine)  # type: ignore[arg-type]
    assert asked == [first, choose(NET, "site-a", refused=taken)[0]]
    assert reconciler.settled.is_set()
    await reconciler.reconcile(engine)  # type: ignore[arg-type]
    assert OwnershipRecord(tmp_path).addresses == {"apps": (asked[1],)}
    # After the re-creation of the gateway's container, the first address is free again. The gateway nevertheless
    # requests the second address, because clients use it.
    del own.endpoints["apps"]
    taken.clear()
    await Reconciler(want.options, lambda: want, lambda _: None, tmp_path).reconcile(engine)  # type: ignore[arg-type]
    assert asked[2:] == [asked[1]]


async def test_an_unavailable_configured_address_is_reported_and_not_replaced(tmp_path: Path) -> None:
    class Taken(FakeEngine):
        async def post(self, path: str, body: Any = None, **params: Any) -> Any:
            raise EngineError(EngineErrorKind.FORBIDDEN, "Address already in use")

    engine = Taken(random.Random(1))
    engine.add_network("apps", subnet="10.9.0.0/24")
    engine.add_container("gateway", {})
    options = DockerOptions(
        container="gateway", networks={"apps": NetworkOptions(address=ipaddress.ip_address("10.9.0.9"))}
    )
    want = replace(desired(), options=options)
    reconciler = Reconciler(options, lambda: want, lambda _: None, tmp_path)
    for _ in range(2):
        await reconciler.reconcile(engine)  # type: ignore[arg-type]
    (condition,) = reconciler.plan.attachments
    assert (condition.state, condition.reason) == (AttachmentState.BLOCKED, AttachmentObstacle.ADDRESS_REFUSED)
    assert "docker.networks.apps.address" in condition.message


def test_an_ownership_record_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    (tmp_path / "docker.json").write_text('{"endpoints": [["c", "apps"]]}')
    ownership = OwnershipRecord(tmp_path)
    assert (ownership.endpoints, ownership.addresses, ownership.problems) == (frozenset({("c", "apps")}), {}, ())
    (tmp_path / "docker.json").write_text('{"endpoints": [], "addresses": []}')
    assert OwnershipRecord(tmp_path).problems


@pytest.mark.parametrize(
    ("network", "place", "words"),
    [
        ("ip_range: 10.9.0.128/25", "ip_range", "set subnet, too"),
        ("subnet: 10.9.0.0/24, ip_range: 10.8.0.0/25", "ip_range", "must be inside the subnet"),
        ("subnet: 10.9.0.0/24, ip_range: 10.9.0.0/24", "ip_range", "and smaller than it"),
        ("subnet: 10.9.0.0/24, address: 10.8.0.9", "address", "is not in the subnet"),
        ("subnet: 10.9.0.0/24, ip_range: 10.9.0.128/25, address: 10.9.0.130", "address", "is in ip_range"),
        ("address: db", "address", "'db' is not an IP address"),
    ],
)
def test_invalid_addresses_are_refused(tmp_path: Path, network: str, place: str, words: str) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(
        "backends: {a: {kind: tcp, targets: [h:1], listen: 0.0.0.0:1}}\n"
        f"docker: {{networks: {{n: {{{network}}}}}}}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load(ConfigSources(file, environment={}))
    (problem,) = caught.value.problems
    assert problem.key == f"docker.networks.n.{place}"
    assert words in problem.message


STOPPED = Container(
    "id-old", "gateway-1", "exited", {}, "far",
    {"apps": NetworkEndpoint("gone", "", (), frozenset({"orders", MARK}))},
)  # fmt: skip


def test_a_stopped_gateway_with_a_pruned_network_is_reported_and_repaired() -> None:
    ours = frozenset({("id-old", "apps")})
    before = plan(desired(), EngineSnapshot((STOPPED,)), ours)
    assert [(each.verb, each.container) for each in before.actions] == [(ActionKind.CREATE_NETWORK, "")]
    (condition,) = before.attachments
    assert (condition.container, condition.state) == ("gateway-1", AttachmentState.DRIFTED)
    assert "docker network disconnect apps gateway-1" in condition.message
    after = plan(desired(), EngineSnapshot((STOPPED,), (NET,)), ours)
    expected = PlannedAction(
        ActionKind.REATTACH, "apps", "n1", "gateway-1", "id-old", ("orders", MARK), "its network was removed",
        addresses=choose(NET, "site-a"),
    )  # fmt: skip
    assert after.actions == (expected,)


def test_a_repaired_gateway_on_an_overlay_has_the_peer_alias() -> None:
    mesh = replace(NET, driver="overlay", scope="swarm", attachable=True)
    peers = SwarmPeerOptions(Secret("x" * 32))
    wanted = DesiredState("site-a", DockerOptions(networks={"apps": NetworkOptions()}, peers=peers), ("orders",))
    (action,) = plan(wanted, EngineSnapshot((STOPPED,), (mesh,)), frozenset({("id-old", "apps")})).actions
    assert action.aliases == ("orders", "gw-peers", MARK)


def test_stopped_apps_with_a_pruned_network_are_not_attached() -> None:
    labels = {"gateway.enable": "true"}

    def web(*aliases: str) -> Container:
        there = NetworkEndpoint("gone", "", (), frozenset(aliases))
        return Container("id-web", "web", "exited", labels, "bridge", {"apps": there})

    ours, foreign = web(MARK), web("web")
    ownership = frozenset({("id-web", "apps")})
    for network in ((), (NET,)):
        (condition,) = plan(desired(), EngineSnapshot((ours,), network), ownership).attachments
        assert (condition.state, "cannot start until" in condition.message) == (AttachmentState.DRIFTED, True)
        (condition,) = plan(desired(), EngineSnapshot((foreign,), network), ownership).attachments
        assert condition.state is AttachmentState.DRIFTED
        assert "docker network disconnect apps web && docker network connect apps web" in condition.message
        (condition,) = plan(desired(), EngineSnapshot((web("web", "www", "a;b"),), network), ownership).attachments
        assert "connect --alias 'a;b' --alias www apps web`, or" in condition.message
        podman = EngineSnapshot((foreign,), network, flavor=PODMAN)
        (condition,) = plan(desired(), podman, ownership).attachments
        assert "podman network disconnect apps web && podman network connect apps web" in condition.message


def test_a_container_with_the_address_of_the_gateway_is_reported() -> None:
    asked = choose(NET, "site-a")
    wanted = replace(desired(), refused={"apps": frozenset(asked)})
    own = Container("id-own", "gateway-1", "running", {}, "bridge", {})
    for mark, named in ((), True), (("gw-owner-other",), False):
        there = {"apps": NetworkEndpoint("n1", "e", asked, frozenset(mark))}
        other = Container("id-evil", "evil", "running", {}, "bridge", there)
        found = plan(wanted, EngineSnapshot((own, other), (NET,), own="id-own"), frozenset()).warnings
        assert any(f"container evil has {asked[0]}" in each for each in found) is named


def test_a_subnet_with_host_bits_is_normalized_as_by_the_engine() -> None:
    old = replace(NET, subnets=("10.9.0.7/24",), ip_ranges=("10.9.0.130/25",))
    assert choose(old, "site-a") == choose(NET, "site-a")
    assert is_reserved(old, "10.9.0.20")


def test_a_network_must_not_contain_addresses_that_the_gateway_dials_directly(tmp_path: Path) -> None:
    file, key = tmp_path / "gateway.yaml", "A" * 43 + "="
    (tmp_path / "office.ovpn").write_text("client\nremote 10.201.8.1 443 tcp\nremote 10.201.12.1 1194 udp\n")
    (tmp_path / "lab.conf").write_text(
        f"[Interface]\nAddress = 10.0.0.2/24\nPrivateKey = {key}\n"
        f"[Peer]\nPublicKey = {key}\nEndpoint = 10.201.16.1:51820\n"
    )
    (tmp_path / "lab.conf").chmod(0o600)
    file.write_text(
        f"""
        tunnels:
          office: {{kind: openvpn, config: {tmp_path}/office.ovpn}}
          lab: {{kind: wireguard, config: {tmp_path}/lab.conf}}
          lost: {{kind: wireguard, config: {tmp_path}/missing.conf}}
        """
        """
          edge: {kind: ssh, host: 10.201.4.9, user: u, insecure_host_key: true}
          inner: {kind: ssh, via: edge, host: 10.201.20.9, user: u, insecure_host_key: true}
        backends:
          orders: {kind: tcp, targets: ["10.201.0.5:3306", "db.internal:3306"], listen: 0.0.0.0:3306}
          reports: {kind: tcp, via: edge, targets: ["10.201.20.5:3306"], listen: 0.0.0.0:3307}
        docker: {networks: {apps: {}}}
        """
    )
    wanted = wanted_of(load(ConfigSources(file, environment={})))
    assert wanted.direct == ("10.201.0.5", "10.201.8.1", "10.201.12.1", "10.201.16.1", "10.201.4.9")
    (action,) = plan(wanted, EngineSnapshot(), frozenset()).actions
    assert action.body["IPAM"]["Config"][0]["Subnet"] == "10.201.20.0/22"


def test_an_address_that_is_refused_names_the_setting_only_if_it_is_set() -> None:
    failures, pending = (
        FailedActions(),
        DesiredAttachment("apps", "gateway", AttachmentState.PENDING, container_id="id-gateway"),
    )
    action = PlannedAction(ActionKind.CONNECT, "apps", "n1", "gateway", "id-gateway", addresses=("10.9.0.9",))
    failures.failed(action, EngineError(EngineErrorKind.FORBIDDEN, "Address already in use"), 0.0, {})
    fixed = NetworkOptions(address=ipaddress.ip_address("10.9.0.9"))
    assert "change docker.networks.apps.address" in failures.with_failure(pending, {"apps": fixed}).message
    for networks in ({"apps": NetworkOptions()}, {}):
        found = failures.with_failure(pending, networks)
        assert (found.state, found.reason) == (AttachmentState.BLOCKED, AttachmentObstacle.ADDRESS_REFUSED)
        assert "docker.networks" not in found.message
