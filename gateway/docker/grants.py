"""Evaluates `docker.grants`, the rules that allow containers and services to use backends. Does no I/O."""

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gateway.docker.options import Grant

PROJECT, SERVICE = "com.docker.compose.project", "com.docker.compose.service"
SWARM_SERVICE = "com.docker.swarm.service.name"


@dataclass(frozen=True)
class GrantedAccess:
    """The backends and aliases that a container or service gets from all the grants that match it.

    Args:
        backends: The backends that the container or service is allowed to use.
        aliases: The aliases that the container or service is allowed to have.
    """

    backends: tuple[str, ...]
    aliases: tuple[str, ...]


def granted(grants: Iterable[Grant], name: str | None, labels: Mapping[str, str]) -> GrantedAccess | None:
    """Return the backends and aliases that grants allow a container or service to use; None if no grant matches.

    Args:
        grants: The rules in `docker.grants`.
        name: The container's name; None for a service.
        labels: The labels that the gateway evaluates, see `gateway.docker.image_labels`.
    """
    found = [each for each in grants if _matches(each, name, labels)]
    if not found:
        return None
    return GrantedAccess(
        tuple(dict.fromkeys(name for each in found for name in each.backends)),
        tuple(dict.fromkeys(alias for each in found for alias in each.aliases)),
    )


def owner(container_id: str, labels: Mapping[str, str]) -> tuple[str, str]:
    """Return the owner of a container's aliases: the Compose project, the swarm service, or the container itself.

    Containers with the same owner can have the same alias.

    Returns:
        The label that names the project or service, and the label's value. If the container has no such label, an
        empty string and the container's ID.
    """
    for kind in (PROJECT, SWARM_SERVICE):
        if kind in labels:
            return kind, labels[kind]
    return "", container_id


def _matches(grant: Grant, name: str | None, labels: Mapping[str, str]) -> bool:
    asked = (
        (grant.container, name),
        (grant.project, labels.get(PROJECT)),
        (grant.service, labels.get(SERVICE)),
        (grant.swarm_service, labels.get(SWARM_SERVICE)),
    )
    return all(
        pattern is None or (text is not None and fnmatch.fnmatchcase(text, pattern)) for pattern, text in asked
    )
