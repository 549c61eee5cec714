"""Determines through which networks the gateway's container can reach external networks. Does no I/O."""

from collections.abc import Iterator

from gateway.docker.planning.plan_builder import PlanBuilder
from gateway.docker.snapshot import Container

NOT_INTERNAL = "internal: false"


def egress_warnings(builder: PlanBuilder) -> Iterator[str]:
    """Yield a warning if the gateway's container is on internal networks only.

    Args:
        builder: The plan so far.
    """
    own = builder.observed.own_container
    if own is not None and own.endpoints and not _outside(builder, own):
        flavor = builder.observed.flavor
        yield (
            f"the gateway's container is on internal networks only ({', '.join(sorted(own.endpoints))}) and reaches"
            " nothing outside them: attach it to a network that is not internal"
            f" ({flavor.command} network connect {flavor.external_network} {own.name})"
        )


def is_only_egress_network(builder: PlanBuilder, name: str) -> bool:
    """Return whether the gateway's container has no route to external networks, except possibly this network.

    Args:
        builder: The plan so far.
        name: The network's name.
    """
    own = builder.observed.own_container
    return own is not None and _outside(builder, own) <= {name}


def _outside(builder: PlanBuilder, own: Container) -> set[str]:
    """Return the container's networks that are not known to be internal."""
    return {name for name in own.endpoints if name not in builder.known or not builder.known[name].internal}
