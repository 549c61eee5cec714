"""Converts an engine's responses to the types of `gateway.docker.snapshot`. Does no I/O."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from gateway.docker.snapshot import NetworkInfo, SwarmMembership, SwarmService
from gateway.docker.volumes import EngineVolume

_WAITING = ("pending", "error", "locked")


def swarm(info: Mapping[str, Any]) -> tuple[SwarmMembership, str]:
    """Return the engine's swarm membership and node ID.

    The field `leader` is always False, because `/info` does not name the leader.

    Args:
        info: The response to `/info`.
    """
    found = info.get("Swarm") or {}
    state = found.get("LocalNodeState")
    active = state == "active"
    swarm = SwarmMembership(active, active and bool(found.get("ControlAvailable")), waiting=state in _WAITING)
    return swarm, str(found.get("NodeID", ""))


def network(found: Mapping[str, Any]) -> NetworkInfo:
    """Return a `NetworkInfo` for one network in the engine's response.

    Args:
        found: An item of the response to `/networks`.
    """
    ranges = (found.get("IPAM") or {}).get("Config") or []
    return NetworkInfo(
        id=found["Id"],
        name=found["Name"],
        driver=found["Driver"],
        scope=found["Scope"],
        attachable=bool(found.get("Attachable")),
        labels=found.get("Labels") or {},
        subnets=tuple(each["Subnet"] for each in ranges if each.get("Subnet")),
        internal=bool(found.get("Internal")),
        options=found.get("Options") or {},
        ip_ranges=tuple(each["IPRange"] for each in ranges if each.get("IPRange")),
        gateways=tuple(each["Gateway"].partition("/")[0] for each in ranges if each.get("Gateway")),
    )


def volumes(found: Mapping[str, Any], containers: Iterable[Mapping[str, Any]]) -> Iterator[EngineVolume]:
    """Yield an `EngineVolume` for each volume in the engine's response.

    Args:
        found: The response to `/volumes`.
        containers: The response to `/containers/json`, which lists the volumes in use.
    """
    used = {
        mount.get("Name")
        for each in containers
        for mount in each.get("Mounts") or ()
        if mount.get("Type") == "volume"
    }
    for each in found.get("Volumes") or ():
        yield EngineVolume(
            name=each["Name"],
            driver=each["Driver"],
            options=each.get("Options") or {},
            labels=each.get("Labels") or {},
            used=each["Name"] in used,
        )


def service(found: Mapping[str, Any]) -> SwarmService:
    """Return a `SwarmService` for one service in the engine's response.

    Args:
        found: An item of the response to `/services`.
    """
    spec = found["Spec"]
    networks = spec.get("TaskTemplate", {}).get("Networks") or []
    return SwarmService(
        id=found["ID"],
        name=spec["Name"],
        version=int(found["Version"]["Index"]),
        labels=spec.get("Labels") or {},
        networks={each["Target"]: frozenset(each.get("Aliases") or ()) for each in networks},
        spec=spec,
    )
