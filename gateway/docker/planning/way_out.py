"""Whether the gateway's own container reaches anything beside the networks that it shares with others. Pure."""

from collections.abc import Iterator

from gateway.docker.model import Container
from gateway.docker.planning.draft import Draft

NOT_INTERNAL = "internal: false"


def own_way_out(draft: Draft) -> Iterator[str]:
    """Return a warning where the gateway's container is on internal networks only.

    Args:
        draft: The plan in the making.
    """
    own = draft.observed.own_container
    if own is not None and own.endpoints and not _outside(draft, own):
        flavour = draft.observed.flavour
        yield (
            f"the gateway's container is on internal networks only ({', '.join(sorted(own.endpoints))}) and reaches"
            " nothing outside of them: attach it to a network with a route out"
            f" ({flavour.command} network connect {flavour.way_out} {own.name})"
        )


def leaves_no_way_out(draft: Draft, name: str) -> bool:
    """Return whether the gateway's container has no other route out than a network.

    Args:
        draft: The plan in the making.
        name: The network's.
    """
    own = draft.observed.own_container
    return own is not None and _outside(draft, own) <= {name}


def _outside(draft: Draft, own: Container) -> set[str]:
    """Return the networks that may have a route out, those included that this node does not see."""
    return {name for name in own.endpoints if name not in draft.known or not draft.known[name].internal}
