"""Assigns aliases on a network: to backends first, then to the oldest container that requests one."""

from collections.abc import Iterable

from gateway.docker.model import Container
from gateway.docker.planning.builder import PlanBuilder

BACKEND = "a backend of the gateway"


def remedy(holders: Iterable[str]) -> str:
    """Return what to do about aliases that others hold.

    Args:
        holders: Their holders, from `conflicting_holder`.
    """
    return "choose another alias" + ("" if BACKEND in holders else ", or list it for both in docker.grants")


def age(container: Container) -> tuple[int, str]:
    """Return a key that sorts containers from old to young, with a stable order within a second."""
    return container.created, container.id


def conflicting_holder(builder: PlanBuilder, container: Container, name: str, alias: str) -> str | None:
    """Return the holder of an alias on a network that the container may not share; None: the alias is free."""
    own = builder.observed.own
    alias = alias.lower()
    if container.id != own and alias in builder.backend_names(name):
        return BACKEND
    for other, by_alias in builder.containers_named(name, alias):
        if other.id in (container.id, own):
            continue
        # A host name does not keep the gateway from its alias; `name_conflicts` warns about it.
        if alias == other.name.lower() or (alias == other.hostname and container.id != own):
            return f"container {other.name}"
        if by_alias and not _yields_alias(builder, other, container, name, alias):
            return f"container {other.name}"
    reserved = builder.reserved.get((name, alias))
    if reserved is not None and container.id != own and not reserved.shares(alias, builder.holder(container)):
        return reserved.who
    return None


def reserve(builder: PlanBuilder, container: Container, name: str, aliases: tuple[str, ...]) -> None:
    """Reserve aliases, so that containers that are planned later do not get them."""
    if container.id != builder.observed.own:
        for alias in aliases:
            builder.reserved.setdefault((name, alias.lower()), builder.holder(container))


def _yields_alias(builder: PlanBuilder, other: Container, container: Container, name: str, alias: str) -> bool:
    """Return whether the other container shares the alias, or is younger and got it from the gateway."""
    if builder.desired.owner_alias not in (other.endpoints[name].aliases or ()):
        return False  # an operator or another program set the alias
    if container.id == builder.observed.own:
        return True
    has_it = any(each.id == container.id and by_alias for each, by_alias in builder.containers_named(name, alias))
    younger = has_it and age(container) < age(other)
    return younger or builder.holder(other).shares(alias, builder.holder(container))
