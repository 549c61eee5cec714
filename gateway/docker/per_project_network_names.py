"""Determines the names of the per-project networks that the option `per: project` creates."""

import re
from collections.abc import Mapping

from gateway.docker.grants import PROJECT, SWARM_SERVICE
from gateway.docker.options import NetworkOptions

STACK = "com.docker.stack.namespace"
_KINDS = (("", PROJECT), ("-stack-", STACK), ("-service-", SWARM_SERVICE))
"""The labels that name a container's project, stack or service, each with a prefix. The name of a per-project
network ends with the prefix and the label's value. The prefixes distinguish, for example, a service `shop` from a
project `shop`. No prefix contains a dot, because the name of an overlay is a DNS label."""
PROJECT_BITS = {4: 24, 6: 64}
"""The prefix length of a project's network, by IP version."""
_PART_OF_A_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def group(name: str, labels: Mapping[str, str]) -> str:
    """Return the suffix that identifies a container's per-project network.

    Containers with the same suffix share a network.

    Args:
        name: The name of the container or service.
        labels: The labels that the gateway evaluates, see `gateway.docker.image_labels`.

    Raises:
        ValueError: The name of the container's project, stack or service cannot be part of a network's name.
    """
    for kind, label in _KINDS:
        if label in labels:
            if not _PART_OF_A_NAME.fullmatch(labels[label]):
                raise ValueError(f"label {label}: {labels[label]!r} cannot be part of a network's name")
            return kind + labels[label]
    return f"-container-{name}"


def network_of(configured: str, options: NetworkOptions, name: str, labels: Mapping[str, str]) -> str:
    """Return the actual name of a configured network for a container or service.

    With `per: project`, this is the name of a per-project network, which ends with the result of `group`.

    Args:
        configured: The configured name.
        options: The options of the configured network.
        name: The container's or service's name.
        labels: The labels that the gateway evaluates.

    Raises:
        ValueError: See `group`.
    """
    return configured if options.per is None else f"{configured}-{group(name, labels)}"


def configured_as(networks: Mapping[str, NetworkOptions], name: str) -> str | None:
    """Return the configured name of a network; None if the network is not configured.

    Args:
        networks: The configured networks.
        name: The actual name of the network.
    """
    for each, options in networks.items():
        if name == each if options.per is None else name.startswith(f"{each}-"):
            return each
    return None
