"""Networks of their own for Compose projects, stacks, services and single containers: what they are called. Pure."""

import re
from collections.abc import Mapping

from gateway.docker.grants import PROJECT, SWARM_SERVICE
from gateway.docker.options import NetworkOptions

STACK = "com.docker.stack.namespace"
_KINDS = (("", PROJECT), ("-stack-", STACK), ("-service-", SWARM_SERVICE))
"""Prefixes keep a container from sharing a network with a project of its name, which never begins with a dash. Names
of overlays are DNS labels: they have no dot."""
PROJECT_BITS = {4: 24, 6: 64}
"""Length of the prefix of a project's network, by the version of IP."""
_PART_OF_A_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def group(name: str, labels: Mapping[str, str]) -> str:
    """Return what a container or service shares its network with, as the end of the network's name.

    Args:
        name: Its name.
        labels: Those that count, see `gateway.docker.images`.

    Raises:
        ValueError: The name of its project, stack or service cannot be part of a network's name.
    """
    for kind, label in _KINDS:
        if label in labels:
            if not _PART_OF_A_NAME.fullmatch(labels[label]):
                raise ValueError(f"label {label}: {labels[label]!r} cannot be part of a network's name")
            return kind + labels[label]
    return f"-container-{name}"


def network_of(configured: str, options: NetworkOptions, name: str, labels: Mapping[str, str]) -> str:
    """Return the name of the network that a container or service gets for a configured network.

    Args:
        configured: The name in the configuration.
        options: Its options.
        name: The container's or service's name.
        labels: Those that count.

    Raises:
        ValueError: See `group`.
    """
    return configured if options.per is None else f"{configured}-{group(name, labels)}"


def configured_as(networks: Mapping[str, NetworkOptions], name: str) -> str | None:
    """Return the name in the configuration that a network belongs to; None: it belongs to none.

    Args:
        networks: The configuration's.
        name: The network's.
    """
    for each, options in networks.items():
        if name == each if options.per is None else name.startswith(f"{each}-"):
            return each
    return None
