"""Decides which container gets an alias that several containers request: the oldest one.

Only the gateway's own container gets the name of a backend as an alias.
"""

from collections.abc import Iterable

from gateway.docker.planning.plan_builder import PlanBuilder
from gateway.docker.snapshot import Container

BACKEND = "a backend of the gateway"


def remedy(holders: Iterable[str]) -> str:
    """Return the remedy for a conflict of aliases, as part of a message.

    Args:
        holders: The holders of the aliases, from `conflicting_holder`.
    """
    return "choose another alias" + ("" if BACKEND in holders else ", or permit this alias for both in docker.grants")


def age(container: Container) -> tuple[int, str]:
    """Return a key that sorts containers from the oldest to the newest.

    Containers created in the same second are ordered by ID.
    """
    return container.created, container.id


def conflicting_holder(builder: PlanBuilder, container: Container, name: str, alias: str) -> str | None:
    """Return which container, swarm service or backend prevents `container` from having `alias` on a network.

    Return None if `container` can have the alias. `name` is the name of the network.
    """
    own = builder.observed.own
    alias = alias.lower()
    if container.id != own and alias in builder.backend_names(name):
        return BACKEND
    for other, by_alias in builder.containers_named(name, alias):
        if other.id in (container.id, own):
            continue
        # The gateway can have an alias that equals another container's host name. `name_conflicts` warns about this.
        if alias == other.name.lower() or (alias == other.hostname and container.id != own):
            return f"container {other.name}"
        if by_alias and not _yields_alias(builder, other, container, name, alias):
            return f"container {other.name}"
    reserved = builder.reserved.get((name, alias))
    if reserved is not None and container.id != own and not reserved.shares(alias, builder.holder(container)):
        return reserved.who
    return None


def reserve(builder: PlanBuilder, container: Container, name: str, aliases: tuple[str, ...]) -> None:
    """Reserve aliases for a container. For the gateway's own container, do nothing.

    Another container can then get a reserved alias only if it can share the alias, or is the gateway's own container.
    """
    if container.id != builder.observed.own:
        for alias in aliases:
            builder.reserved.setdefault((name, alias.lower()), builder.holder(container))


def _yields_alias(builder: PlanBuilder, other: Container, container: Container, name: str, alias: str) -> bool:
    """Return whether `container` can get the alias, although `other` already has it.

    This requires that the gateway attached `other` to the network, and one of the following:

    - `container` is the gateway's own container.
    - `container` also has the alias already, and is older than `other`.
    - The two containers can share the alias.
    """
    if builder.desired.owner_alias not in (other.endpoints[name].aliases or ()):
        return False  # an operator or another program set the alias
    if container.id == builder.observed.own:
        return True
    has_it = any(each.id == container.id and by_alias for each, by_alias in builder.containers_named(name, alias))
    younger = has_it and age(container) < age(other)
    return younger or builder.holder(other).shares(alias, builder.holder(container))
