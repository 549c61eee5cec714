"""Describes how the two implementations of the Docker API differ: Docker Engine and Podman. Does no I/O."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class EngineFlavor:
    """An implementation of the Docker API: Docker Engine or Podman.

    Args:
        name: The name of the implementation, for messages.
        oldest: The oldest API version that the gateway supports.
        release: The first release of the implementation with the API version `oldest`, for messages.
        has_swarm: Whether the implementation supports swarms, and therefore overlay networks and services.
        lists_aliases: Whether the list of containers contains aliases but no network modes (Podman). Docker's list
            contains network modes but no aliases. An inspection always contains both.
        inspection: The prefix of the path to inspect a container. Podman requires a special prefix: without it, the
            response does not contain the capabilities.
        ranges: The path, including the API version, to list networks with their address ranges; empty if `/networks`
            lists the ranges.
        leaves_failed_connects: Whether the engine keeps a container's connection to a network after the connect
            request has failed.
        command: The command line client, for messages.
        external_network: The predefined network through which containers reach external networks, for messages.
    """

    name: str
    oldest: tuple[int, int]
    release: str
    has_swarm: bool = True
    lists_aliases: bool = False
    inspection: str = ""
    ranges: str = ""
    leaves_failed_connects: bool = False
    command: str = "docker"
    external_network: str = "bridge"

    def disconnected_container(self, event: Mapping[str, Any]) -> str:
        """Return the ID of the container that left a network.

        Args:
            event: A network event with the action `disconnect`.
        """
        actor = event.get("Actor") or {}
        # In Podman's events, the actor is the container. In Docker's events, the actor is the network.
        container = actor.get("ID") if self is PODMAN else (actor.get("Attributes") or {}).get("container")
        return str(container or "")


DOCKER = EngineFlavor("Docker", (1, 44), "Docker Engine 25")
PODMAN = EngineFlavor(
    "Podman",
    (1, 41),
    "Podman 4.2",
    has_swarm=False,
    lists_aliases=True,
    inspection="libpod/",
    ranges="v4.0.0/libpod/networks/json",
    leaves_failed_connects=True,
    command="podman",
    external_network="podman",
)
_COMPONENT = "Podman Engine"


def flavor(version: Mapping[str, Any]) -> EngineFlavor:
    """Return the flavor of an engine: `DOCKER` or `PODMAN`.

    Args:
        version: The engine's response to `/version`.
    """
    components = version.get("Components") or ()
    return PODMAN if any(each.get("Name") == _COMPONENT for each in components) else DOCKER


def lease_ranges(network: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the ranges from which Podman assigns a network's addresses.

    Podman reports the first and the last address. Each returned range is the smallest CIDR block that contains both.

    Args:
        network: An item of the list at `EngineFlavor.ranges`.
    """
    found = []
    for each in network.get("subnets") or ():
        if lease := each.get("lease_range"):
            subnet = ipaddress.ip_network(each["subnet"], strict=False)
            first = ipaddress.ip_address(lease.get("start_ip") or subnet[0])
            last = ipaddress.ip_address(lease.get("end_ip") or subnet[-1])
            bits = subnet.max_prefixlen - (int(first) ^ int(last)).bit_length()
            found.append(str(ipaddress.ip_network(f"{first}/{bits}", strict=False)))
    return tuple(found)
