"""Builds and parses the reports of container addresses that the gateways of a swarm exchange. Does no I/O.

A consumer is a container that uses a backend. A peer is the gateway on another node.
"""

import ipaddress
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gateway.docker.consumer_registry import Consumer
from gateway.docker.grants import granted
from gateway.docker.options import Grant
from gateway.docker.snapshot import EngineSnapshot
from gateway.text_sanitizer import one_line


@dataclass(frozen=True)
class PeerNetwork:
    """A swarm network over which this gateway reaches the gateways on other nodes.

    Args:
        id: The network's ID, the same on every node.
        name: The network's name.
        address: The gateway's address on the network.
        subnets: The network's subnets.
    """

    id: str
    name: str
    address: str
    subnets: tuple[str, ...] = ()

    def holds(self, address: str) -> bool:
        """Return whether an address is in one of the network's subnets."""
        found = ipaddress.ip_address(address)
        return any(found in ipaddress.ip_network(subnet, strict=False) for subnet in self.subnets)


@dataclass(frozen=True)
class ReportedContainerAddress:
    """One address of a container, with the container's name and labels.

    Args:
        address: The container's address on the network of the report.
        id: The container's ID.
        name: The container's name.
        labels: The labels that the gateway evaluates, see `gateway.docker.image_labels`.
    """

    address: str
    id: str
    name: str
    labels: Mapping[str, str] = field(hash=False)


@dataclass(frozen=True)
class ContainerAddressReport:
    """A report by one gateway: the addresses of the containers of its node on one network.

    Args:
        instance: The name of the reporting gateway.
        address: The address of the reporting gateway on the network.
        network: The network's ID.
        entries: The addresses of the containers.
    """

    instance: str
    address: str
    network: str
    entries: tuple[ReportedContainerAddress, ...] = ()


def shared_networks(observed: EngineSnapshot) -> tuple[PeerNetwork, ...]:
    """Return the swarm networks that the gateway's own container is on."""
    own = observed.own_container
    by_id = {each.id: each for each in observed.networks if each.scope == "swarm"}
    if own is None:
        return ()
    return tuple(
        PeerNetwork(endpoint.network_id, name, endpoint.addresses[0], by_id[endpoint.network_id].subnets)
        for name, endpoint in sorted(own.endpoints.items())
        if endpoint.network_id in by_id and endpoint.addresses
    )


def build_report(
    instance: str, network: PeerNetwork, observed: EngineSnapshot, known: Mapping[str, Consumer]
) -> ContainerAddressReport:
    """Build this gateway's report about one network.

    Args:
        instance: This gateway's name.
        network: The network.
        observed: The last snapshot of this engine.
        known: For each address, the current consumer on this engine. The report contains only these consumers.
    """
    entries = (
        ReportedContainerAddress(address, each.id, each.name, dict(each.labels))
        for each in observed.containers
        for endpoint in each.endpoints.values()
        if endpoint.network_id == network.id
        for address in endpoint.addresses
        if (who := known.get(address)) is not None and who.id == each.id
    )
    return ContainerAddressReport(instance, network.address, network.id, tuple(entries))


def encode(sent: ContainerAddressReport) -> bytes:
    """Encode a report as one line of JSON."""
    entries = [[each.address, each.id, each.name, dict(each.labels)] for each in sent.entries]
    line = {"instance": sent.instance, "address": sent.address, "network": sent.network, "containers": entries}
    return json.dumps(line, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes, network: PeerNetwork, peer: str) -> ContainerAddressReport:
    """Decode a report.

    Args:
        line: The received line.
        network: The network on which the line was received.
        peer: The address of the peer.

    Raises:
        ValueError: The line is not a report about this network from this peer.
    """
    try:
        decoded = json.loads(line)
        entries = tuple(
            ReportedContainerAddress(
                str(address), str(container), one_line(str(name)), {str(k): str(v) for k, v in labels.items()}
            )
            for address, container, name, labels in decoded["containers"]
        )
        found = ContainerAddressReport(
            one_line(str(decoded["instance"])), str(decoded["address"]), str(decoded["network"]), entries
        )
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"invalid report ({type(error).__name__}): run the same version of the gateway on all nodes"
        ) from error
    if found.address != peer:
        raise ValueError(f"the report names {one_line(found.address)} as its sender, but came from {peer}")
    if found.network != network.id:
        raise ValueError(f"the report is not about network {network.name}")
    if strange := [each.address for each in entries if not network.holds(each.address)]:
        raise ValueError(
            f"the report contains {one_line(strange[0])}, which is not an address of network {network.name}"
        )
    return found


def consumers_of(sent: ContainerAddressReport, grants: tuple[Grant, ...], *, strict: bool) -> dict[str, Consumer]:
    """Return, for each address in a report, the consumer that has the address.

    Args:
        sent: The report.
        grants: The rules in `docker.grants`.
        strict: `gateway.strict`: whether containers are admitted only by rules in `docker.grants`, not by labels.
    """
    found = {}
    for each in sent.entries:
        given = granted(grants, each.name, each.labels)
        backends = frozenset(given.backends) if given else frozenset()
        # Containers on different nodes can have the same name, so append the name of the node's gateway.
        name = f"{each.name}@{sent.instance}"
        found[each.address] = Consumer(name, each.id, dict(each.labels), backends, strict)
    return found


def merge_consumers(parts: Iterable[Mapping[str, Consumer]]) -> dict[str, Consumer]:
    """Merge the consumers of all peers. Omit each address that two different containers have."""
    found: dict[str, Consumer] = {}
    contested: set[str] = set()
    for part in parts:
        for address, who in part.items():
            if found.setdefault(address, who).id != who.id:
                contested.add(address)
    return {address: who for address, who in found.items() if address not in contested}
