"""Networks that are to be made, and those that are not wanted any more."""

import hashlib
import ipaddress
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from gateway.docker import labels
from gateway.docker.model import ENCRYPTED, MTU, NetworkInfo
from gateway.docker.options import NetworkOptions
from gateway.docker.plan import Action, Verb
from gateway.docker.planning.draft import Draft

_POOL = ipaddress.ip_network("10.201.0.0/16")
_SUBNET_BITS = 22
_WIDE = 20


def make_networks(draft: Draft) -> None:
    """Those that are configured and missing."""
    for name, options in draft.options.networks.items():
        _network(draft, name, options)


def remove_networks(draft: Draft) -> None:
    """Those of ours that nobody wants and nobody is on; the engine refuses where others are."""
    # By name too: a container that was never started knows its network by no ID yet.
    used = {each.network_id for container in draft.observed.containers for each in container.endpoints.values()}
    used |= {name for container in draft.observed.containers for name in container.endpoints}
    for network in draft.observed.networks:
        wanted = network.name in draft.options.networks
        here = network.scope == "local" or draft.observed.swarm.leader
        if draft.is_ours(network.labels) and not wanted and here and not used & {network.id, network.name}:
            draft.actions.append(
                Action(Verb.REMOVE_NETWORK, network.name, network.id, why="it is not configured any more")
            )


def _spec_hash(options: NetworkOptions, driver: str) -> str:
    """What tells whether a network was made from the same options."""
    told = {**asdict(options), "driver": driver, "backends": None, "create": None, "subnet": str(options.subnet)}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def choose_subnet(subnets: Iterable[str]) -> str | None:
    """A free range for a new network, beside those; None when all are taken."""
    taken = [ipaddress.ip_network(subnet, strict=False) for subnet in subnets]
    for subnet in _POOL.subnets(new_prefix=_SUBNET_BITS):
        if not any(subnet.version == other.version and subnet.overlaps(other) for other in taken):
            return str(subnet)
    return None


def _network(draft: Draft, name: str, options: NetworkOptions) -> None:
    driver = draft.driver(options)
    digest = _spec_hash(options, driver)
    there = draft.known.get(name)
    if options.subnet is not None and options.subnet.version == 4 and options.subnet.prefixlen < _WIDE:
        draft.warnings.append(f"network {name}: {options.subnet} is wider than a /{_WIDE}: overlays get slow")
    if there is not None:
        if not draft.is_ours(there.labels):
            draft.warnings += [
                f"network {name} is not ours, and {differs}: change the configuration, or make the network anew"
                " while the gateway is stopped"
                for differs in _differences(options, there)
            ]
        elif there.labels.get(draft.label(labels.SPEC_HASH)) != digest:
            draft.outdated.add(name)
            draft.warnings.append(
                f"network {name} was made from other options: take every container off it, the gateway's last (docker"
                f" network disconnect {name} CONTAINER), and remove it (docker network rm {name}): then it is made"
                " anew, and all are attached to it"
            )
        return
    if not options.create or (driver == "overlay" and not draft.observed.swarm.leader):
        return
    subnet = str(options.subnet) if options.subnet else choose_subnet(draft.subnets)
    if subnet is None:
        draft.warnings.append(f"network {name}: every /{_SUBNET_BITS} of {_POOL} is taken: set its subnet")
        return
    draft.creatable.add(name)
    draft.subnets.append(subnet)
    draft.actions.append(
        Action(
            Verb.CREATE_NETWORK, name, why="it is missing", body=_spec(draft, name, options, driver, subnet, digest)
        )
    )


def _differences(options: NetworkOptions, there: NetworkInfo) -> Iterator[str]:
    """What somebody else's network lacks of what is asked for; it may well be more than that."""
    if options.driver not in ("auto", there.driver):
        yield f"its driver is {there.driver} instead of {options.driver}"
    if options.internal and not there.internal:
        yield "it is not internal: containers have a way out through it"
    if options.encrypted and there.driver == "overlay" and ENCRYPTED not in there.options:
        yield "it is not encrypted between nodes"
    if options.subnet is not None and there.subnets and str(options.subnet) not in there.subnets:
        yield f"its addresses are {', '.join(there.subnets)} instead of {options.subnet}"
    if options.mtu is not None and there.options.get(MTU) != str(options.mtu):
        yield f"its MTU is {there.options.get(MTU, 'of its driver')} instead of {options.mtu}"


def _spec(draft: Draft, name: str, options: NetworkOptions, driver: str, subnet: str, digest: str) -> dict[str, Any]:
    driver_options = {}
    if options.mtu is not None:
        driver_options[MTU] = str(options.mtu)
    if options.encrypted and driver == "overlay":
        driver_options[ENCRYPTED] = ""
    return {
        "Name": name,
        "Driver": driver,
        "Attachable": options.attachable and driver == "overlay",
        "Internal": options.internal,
        "EnableIPv6": ":" in subnet,
        "IPAM": {"Config": [{"Subnet": subnet}]},
        "Options": driver_options,
        "Labels": {
            draft.label(labels.MANAGED_BY): "gateway",
            draft.label(labels.INSTANCE): draft.desired.instance,
            draft.label(labels.SPEC_HASH): digest,
        },
    }
