"""Warns about containers whose identity can be forged, by a spoofed address or by labels in an image. Does no I/O."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gateway.docker.consumer_registry import client_networks, consumer
from gateway.docker.desired_state import DesiredState
from gateway.docker.grants import PROJECT, SERVICE, SWARM_SERVICE
from gateway.docker.labels import KEYS
from gateway.docker.snapshot import RUNNING, Container, EngineSnapshot

_SPOOFING = {"NET_RAW", "NET_ADMIN"}
"""Capabilities with which a container can spoof its source address (capabilities(7))."""
_DEFAULTS = {"NET_RAW"}
"""The capabilities in `_SPOOFING` that Docker grants by default."""
_MAX_NAMES = 5


def can_spoof(host: Mapping[str, Any], bounding: Sequence[str] | None = None) -> bool:
    """Return whether a container can spoof its source address.

    Args:
        host: `HostConfig` from the container's inspection.
        bounding: The container's bounding set of capabilities (capabilities(7)), which only Podman reports; None
            for Docker.
    """
    if bounding is not None:
        return bool(_names(bounding) & _SPOOFING)
    added, dropped = _names(host.get("CapAdd")), _names(host.get("CapDrop"))
    if host.get("Privileged"):
        return True
    if "ALL" in added:
        return bool(_SPOOFING - dropped)
    kept = set() if "ALL" in dropped else _DEFAULTS - dropped
    return bool((kept | added) & _SPOOFING)


def _names(listed: Any) -> set[str]:
    return {str(each).upper().removeprefix("CAP_") for each in listed or ()}


def image_label_warnings(desired: DesiredState, observed: EngineSnapshot) -> Iterator[str]:
    """Yield a warning for each container whose image has labels for the gateway. The gateway ignores these labels."""
    prefix = desired.options.label_prefix
    matter = {f"{prefix}.{key}" for key in KEYS} | set(desired.by_label.values())
    matter |= {label.partition("=")[0] for rule in desired.options.attach for label in rule.labels}
    if any(each.project or each.swarm_service for each in desired.options.grants):
        matter |= {PROJECT, SERVICE, SWARM_SERVICE}
    for container in observed.containers:
        found = sorted(matter & container.image_labels.keys())
        if found and container.id != observed.own:
            many = len(found) > 1
            yield (
                f"{container.name}: {', '.join(found)} {'come' if many else 'comes'} from its image and"
                f" {'are' if many else 'is'} ignored: grant the container its backends in docker.grants, or remove"
                f" {'them' if many else 'it'} from the image and set {'them' if many else 'it'} on the container"
            )


def spoofing_warnings(desired: DesiredState, observed: EngineSnapshot) -> Iterator[str]:
    """Yield a warning for each network on which a container can spoof the address of a consumer.

    A consumer is a container that uses backends.
    """
    sources = client_networks(observed, desired.options)
    by_network: dict[str, list[tuple[Container, Container]]] = {}
    for container in observed.containers:
        if not is_own_container(desired, observed, container) and container.state in RUNNING:
            # A container that joins the network namespace of another container has the other container's addresses.
            base = observed.base(container) or container
            for name in base.endpoints:
                if name not in ("host", "none") and (sources is None or name in sources):
                    by_network.setdefault(name, []).append((base, container))
    for name, there in sorted(by_network.items()):
        able = sorted(
            each.name if each.can_spoof else f"{each.name} (capabilities unknown)"
            for _, each in there
            if each.can_spoof is not False
        )
        # Skip the network if none of its containers can spoof an address, or if all of them share one address.
        if not able or len({base.id for base, _ in there}) < 2:
            continue
        known = [consumer(base, desired.options.grants, strict=desired.strict) for base, _ in there]
        used = [each for each, label in desired.by_label.items() if any(who.has(label, each) for who in known)]
        if used:
            more = f" and {len(able) - _MAX_NAMES} more" if len(able) > _MAX_NAMES else ""
            yield (
                f"network {name}: {', '.join(able[:_MAX_NAMES])}{more} can spoof another container's address"
                f" (NET_RAW or NET_ADMIN), and use {', '.join(used)} with that container's permissions: set"
                " cap_drop: [NET_RAW], or give each consumer its own network or unix socket (docs/docker.md)"
            )


def is_own_container(desired: DesiredState, observed: EngineSnapshot, container: Container) -> bool:
    """Return whether a container is the gateway's own container, according to the container's ID or aliases.

    The aliases are necessary because `gateway audit` cannot find the ID if the command runs outside the
    gateway's container.
    """
    return container.id == observed.own or desired.is_gateway(container)
