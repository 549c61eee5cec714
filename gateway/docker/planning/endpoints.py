"""Endpoints that exist: compared with what they should be, repaired, or left alone."""

from gateway.docker.errors import BlockedReason
from gateway.docker.model import RUNNING, Container, EndpointInfo
from gateway.docker.plan import Action, Standing, Verb
from gateway.docker.planning.aliases import promise
from gateway.docker.planning.draft import Draft
from gateway.docker.planning.own import (
    is_bound_to_removed_network,
    other_address,
    own_addresses,
    without_network,
)


def keep(
    draft: Draft,
    container: Container,
    name: str,
    endpoint: EndpointInfo,
    free: tuple[str, ...],
    taken: str,
    *,
    ours: bool,
) -> None:
    """Compare an endpoint with what it should be.

    Args:
        draft: The plan in the making.
        container: Whose endpoint it is.
        name: The network's.
        endpoint: What there is.
        free: The aliases that it should have.
        taken: Which others it should have, and who has them; empty: none.
        ours: Whether the gateway made it.
    """
    there = draft.known.get(name)
    if container.state not in RUNNING and (name in draft.creatable or is_bound_to_removed_network(draft, container)):
        draft.report_container(
            container, name, Standing.DRIFTED, None, without_network(draft, container, name, ours=ours)
        )
        return
    if there is not None and endpoint.network_id not in ("", there.id):
        _stale(draft, container, name, free, ours=ours)
        return
    missing = [alias for alias in free if endpoint.aliases is not None and alias not in endpoint.aliases]
    beyond = (
        sorted(
            (endpoint.aliases or frozenset()) - {*free, draft.desired.mark, container.id[:12], *container.given_names}
        )
        if ours
        else []
    )
    moves = other_address(draft, name, endpoint) if ours and container.id == draft.observed.own else ""
    if ours and (missing or beyond or moves):
        wrong = [moves] if moves else []
        wrong += [f"it lacks {', '.join(missing)}"] if missing else []
        wrong += [f"it is still called {', '.join(beyond)}"] if beyond else []
        _repair(draft, container, name, endpoint, free, " and ".join(wrong))
    elif missing:
        message = f"it was attached by other means, without {', '.join(missing)}"
        if container.id == draft.observed.own:
            command = f"{draft.observed.flavour.command} network disconnect {name} {container.name}"
            message += f": run {command}, and the gateway attaches itself"
        draft.report_container(container, name, Standing.DRIFTED, None, message)
    elif taken:
        draft.report_container(container, name, Standing.DRIFTED, BlockedReason.ALIAS_CONFLICT, taken)
    else:
        draft.report_container(container, name, Standing.ATTACHED)


def refuse(draft: Draft, container: Container, name: str, reason: BlockedReason, message: str) -> None:
    """Do not attach a container, and detach one that the gateway attached, as `docker.repair` permits."""
    endpoint = container.endpoints.get(name)
    if endpoint is None:
        draft.report_container(container, name, Standing.BLOCKED, reason, message)
        return
    ours = is_ours(draft, container, name, endpoint)
    kept = _kept_by(draft, container) if ours else "it was attached by other means"
    if kept:
        draft.report_container(container, name, Standing.DRIFTED, reason, f"{message}; it stays attached: {kept}")
        return
    draft.report_container(container, name, Standing.BLOCKED, reason, message)
    draft.actions.append(
        Action(
            Verb.DISCONNECT, name, endpoint.network_id, container.name, container.id,
            why="a name has two meanings", detaches=1,
        )
    )  # fmt: skip


def is_ours(draft: Draft, container: Container, name: str, endpoint: EndpointInfo) -> bool:
    """Return whether the gateway attached the container to the network."""
    known = endpoint.aliases is not None and draft.desired.mark in endpoint.aliases
    return known and (container.id, name) in draft.ours


def _kept_by(draft: Draft, container: Container) -> str:
    """Return why an endpoint must not be detached; empty: it may be."""
    own = container.id == draft.observed.own
    busy = container.id in draft.desired.busy or (own and draft.desired.serving)
    if draft.options.repair == "disruptive" or (draft.options.repair == "idle" and not busy):
        return ""
    return "it has connections" if draft.options.repair == "idle" else "docker.repair is never"


def _stale(draft: Draft, container: Container, name: str, aliases: tuple[str, ...], *, ours: bool) -> None:
    """Attach a container again whose endpoint is on a removed network of that name: it could not start."""
    draft.report_container(
        container, name, Standing.DRIFTED, None, without_network(draft, container, name, ours=ours)
    )
    if ours:
        promise(draft, container, name, aliases)
        again = (*aliases, draft.desired.mark)
        there = draft.known[name].id
        addresses = own_addresses(draft, name) if container.id == draft.observed.own else ()
        why = "it was attached to a network of that name that is gone"
        draft.actions.append(
            Action(Verb.REATTACH, name, there, container.name, container.id, again, why, addresses=addresses)
        )


def _repair(
    draft: Draft, container: Container, name: str, endpoint: EndpointInfo, aliases: tuple[str, ...], why: str
) -> None:
    if kept := _kept_by(draft, container):
        draft.report_container(container, name, Standing.DRIFTED, None, f"{why}, and is left alone: {kept}")
        return
    draft.report_container(container, name, Standing.DRIFTED, None, why)
    promise(draft, container, name, aliases)
    marked_aliases = (*aliases, draft.desired.mark)
    # The same address again, where it can be asked for, so that clients need not resolve the name again.
    current = tuple(each for each in endpoint.addresses if "." in each)[:1]
    there = draft.known.get(name)
    addresses = current if there is not None and draft.is_ours(there.labels) else ()
    if container.id == draft.observed.own:
        addresses = own_addresses(draft, name) or addresses
    draft.actions.append(
        Action(
            Verb.REATTACH, name, endpoint.network_id, container.name, container.id, marked_aliases, why,
            addresses=addresses,
        )
    )  # fmt: skip
