"""Containers that can spoof an address, and labels that come from images. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gateway.docker.consumers import consumer, networks_of_sources
from gateway.docker.grants import PROJECT, SERVICE, SWARM_SERVICE
from gateway.docker.labels import KEYS
from gateway.docker.model import RUNNING, Container, Observed
from gateway.docker.plan import Desired

_SPOOFING = {"NET_RAW", "NET_ADMIN"}
"""Capabilities (capabilities(7)) that let a container send from an address that is not its own."""
_DEFAULTS = {"NET_RAW"}
"""Those of them that a container has by default with Docker."""
_MOST_NAMES = 5


def can_spoof(host: Mapping[str, Any], bounding: Sequence[str] | None = None) -> bool:
    """Return whether a container can send from an address that is not its own.

    Args:
        host: `HostConfig` of its inspection.
        bounding: Its bounding capabilities, which Podman gives: there, the defaults are a setting of the host.
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


def image_labels(desired: Desired, observed: Observed) -> Iterator[str]:
    """Yield a line for each container with labels of its image that would matter if the operator had set them."""
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
                f" {'do' if many else 'does'} not count: grant it what it needs in docker.grants, or remove"
                f" {'them' if many else 'it'} from the image and set {'them' if many else 'it'} on the container"
            )


def spoofing(desired: Desired, observed: Observed) -> Iterator[str]:
    """Yield a line for each network on which a container can pass for a consumer that is let in by label or grant."""
    sources = networks_of_sources(observed, desired.options)
    by_network: dict[str, list[tuple[Container, Container]]] = {}
    for container in observed.containers:
        if not is_gateway(desired, observed, container) and container.state in RUNNING:
            # One that joins another's network namespace has its addresses.
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
        if not able or len({base.id for base, _ in there}) < 2:  # alone it could only pass for itself
            continue
        known = [consumer(base, desired.options.grants, strict=desired.strict) for base, _ in there]
        used = [each for each, label in desired.by_label.items() if any(who.has(label, each) for who in known)]
        if used:
            more = f" and {len(able) - _MOST_NAMES} more" if len(able) > _MOST_NAMES else ""
            yield (
                f"network {name}: {', '.join(able[:_MOST_NAMES])}{more} can send from another container's address"
                f" (NET_RAW or NET_ADMIN) and so pass for a consumer of {', '.join(used)}: use cap_drop: [NET_RAW],"
                " a network for each consumer, or a unix socket for each (docs/docker.md)"
            )


def is_gateway(desired: Desired, observed: Observed, container: Container) -> bool:
    """Return whether it is the gateway's container: `audit` may run in none, and recognizes it by its aliases."""
    return container.id == observed.own or desired.is_gateway(container)
