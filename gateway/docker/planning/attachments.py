"""Containers that are to be attached, attached again, or let go."""

from gateway.docker.errors import BlockedReason
from gateway.docker.model import LIVE, RUNNING, Container
from gateway.docker.plan import Action, Standing, Verb
from gateway.docker.planning.aliases import age, clash, promise, remedy
from gateway.docker.planning.draft import Draft
from gateway.docker.planning.endpoints import is_ours, keep, refuse
from gateway.docker.planning.hindrances import hindrance
from gateway.docker.planning.joined import joined
from gateway.docker.planning.own import own_addresses
from gateway.docker.planning.own_service import own_task
from gateway.docker.planning.shadows import container_shadows, joined_by_others
from gateway.docker.planning.wanted import quietly_wanted, wanted


def attach(draft: Draft) -> None:
    """Attach every container that should be on a network; the oldest first, which keep their aliases."""
    for container in sorted(draft.observed.containers, key=age):
        networks = wanted(draft, container)
        joined_by_others(draft, container, networks)
        for name, aliases in networks.items():
            if container.joins:
                base = draft.observed.base(container)
                coming = base is not None and name in quietly_wanted(draft, base)
                joined(draft, container, name, aliases, coming=coming)
            else:
                _attachment(draft, container, name, aliases)


def detach(draft: Draft) -> None:
    """Detach what the gateway attached and nothing asks for any more."""
    for container in draft.observed.containers:
        for name, endpoint in container.endpoints.items():
            if (
                is_ours(draft, container, name, endpoint)
                and name not in quietly_wanted(draft, container)
                and not _may_be_gateway(draft, container)
            ):
                draft.actions.append(
                    Action(
                        Verb.DISCONNECT, name, endpoint.network_id, container.name, container.id,
                        why="nothing asks for it", detaches=1,
                    )
                )  # fmt: skip


def _may_be_gateway(draft: Draft, container: Container) -> bool:
    """Return whether it may be the gateway's own container, which is not known, or is a running namesake."""
    own = draft.observed.own
    return (own is None or container.state in RUNNING) and container.id != own and draft.desired.is_gateway(container)


def _attachment(draft: Draft, container: Container, name: str, aliases: tuple[str, ...]) -> None:
    endpoint = container.endpoints.get(name)
    if container.id == draft.observed.own and container.is_task:
        container_shadows(draft, container, name, aliases)
        draft.report_container(container, name, *own_task(draft, container, name))
        return
    if container.id != draft.observed.own and {container.name.lower(), container.hostname} & draft.taken(name):
        message = "a backend has the name or host name of the container: rename one of them"
        refuse(draft, container, name, BlockedReason.ALIAS_CONFLICT, message)
        return
    if conflict := container_shadows(draft, container, name, aliases):
        refuse(draft, container, name, BlockedReason.NAME_CONFLICT, conflict)
        return
    conflicts = {alias: other for alias in aliases if (other := clash(draft, container, name, alias))}
    free = tuple(alias for alias in aliases if alias not in conflicts)
    taken = "; ".join(f"{alias!r} belongs to {other}" for alias, other in conflicts.items())
    own = container.id == draft.observed.own
    ours = endpoint is not None and is_ours(draft, container, name, endpoint)
    if conflicts and ((endpoint is None and not own) or (not free and (own or not ours))):
        message = f"{taken}: {remedy(conflicts.values())}"
        draft.report_container(container, name, Standing.BLOCKED, BlockedReason.ALIAS_CONFLICT, message)
    elif endpoint is None:
        _connect(draft, container, name, free)
    else:
        keep(draft, container, name, endpoint, free, taken, ours=ours)


def _connect(draft: Draft, container: Container, name: str, aliases: tuple[str, ...]) -> None:
    blocked, message = hindrance(draft, container, name)
    if blocked is not None:
        draft.report_container(container, name, Standing.BLOCKED, blocked, message)
        return
    if container.state not in LIVE:
        draft.report_container(container, name, Standing.PENDING, None, f"it is {container.state}")
        return
    if _makes_way(draft, container, name):
        message = "it was detached from the network, which is to be replaced: it is attached to the new one"
        draft.report_container(container, name, Standing.PENDING, None, message)
        return
    draft.report_container(container, name, Standing.PENDING)
    promise(draft, container, name, aliases)
    there = draft.known.get(name)
    own = container.id == draft.observed.own
    draft.actions.append(
        Action(
            Verb.CONNECT,
            name,
            there.id if there else name,
            container.name,
            container.id,
            (*aliases, draft.desired.mark),
            draft.why(container) if not own else "backends are reached through it",
            addresses=own_addresses(draft, name) if own else (),
        )
    )


def _makes_way(draft: Draft, container: Container, name: str) -> bool:
    """Return whether it was detached by hand from a network that is to be replaced, and must stay off until then."""
    if name not in draft.outdated or (container.id, name) not in draft.been:
        return False
    # The gateway itself stays as long as another container is on the network.
    own = container.id == draft.observed.own
    return not own or not any(name in each.endpoints for each in draft.observed.containers)
