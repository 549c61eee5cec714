"""Containers that are to be attached, attached anew, or let go."""

from gateway.docker import labels
from gateway.docker.consumers import networks_of_sources
from gateway.docker.model import LIVE, RUNNING, Container, EndpointInfo
from gateway.docker.plan import Action, Standing, Verb
from gateway.docker.planning.draft import Draft
from gateway.docker.planning.joined import joined
from gateway.docker.planning.networks import no_overlay
from gateway.docker.planning.own import is_namesake, other_address, own_addresses, without_network
from gateway.docker.planning.own_service import own_task
from gateway.docker.planning.shadows import container_shadows, joined_by_others
from gateway.docker.trouble import Blocked

_USER_MODE = {"pasta", "slirp4netns"}
"""Network modes of Podman without root, the first of which is its default there."""


def attach(draft: Draft) -> None:
    """Every container that should be on a network; the oldest first, which keep their aliases."""
    for container in sorted(draft.observed.containers, key=_age):
        wanted = _wanted(draft, container)
        joined_by_others(draft, container, wanted)
        for name, aliases in wanted.items():
            if container.joins:
                base = draft.observed.base(container)
                coming = base is not None and name in _quietly_wanted(draft, base)
                joined(draft, container, name, aliases, coming=coming)
            else:
                _attachment(draft, container, name, aliases)


def detach(draft: Draft) -> None:
    """Endpoints of ours that nobody wants any more."""
    for container in draft.observed.containers:
        for name, endpoint in container.endpoints.items():
            if (
                _is_our_endpoint(draft, container, name, endpoint)
                and name not in _quietly_wanted(draft, container)
                and not _may_be_ourselves(draft, endpoint)
                and not (container.state in RUNNING and is_namesake(draft, container))
            ):
                draft.actions.append(
                    Action(
                        Verb.DISCONNECT, name, endpoint.network_id, container.name, container.id,
                        why="nothing asks for it", detaches=1,
                    )
                )  # fmt: skip


def _wanted(draft: Draft, container: Container) -> dict[str, tuple[str, ...]]:
    """The networks that a container should be on, with its aliases there."""
    if container.id == draft.observed.own:
        return {name: draft.own_names(name) for name in draft.options.networks}
    wish = draft.wish(container.name, container.name, container.labels)
    if wish is None:
        _idle(draft, container)
    if wish is None or (wish.detach_on_stop and container.state not in LIVE):
        return {}
    networks = draft.networks_of(wish, container.name, container.name, container.labels)
    if wish.refused:
        for name in networks:
            _tell(draft, container, name, Standing.BLOCKED, Blocked.NOT_GRANTED, wish.refused)
        return {}
    return dict.fromkeys(networks, wish.aliases)


def networks_wanted(draft: Draft, container: Container) -> set[str]:
    """The networks that a container, other than the gateway's own, is to be on and can be attached to."""
    return set() if container.joins or _hindrance_of(container)[0] else set(_wanted(draft, container))


def _idle(draft: Draft, container: Container) -> None:
    """Note labels that do nothing; on a network that the gateway shares, they may admit the container to backends."""
    told = labels.idle(container.labels, draft.options.label_prefix, draft.desired.instance)
    shared = networks_of_sources(draft.observed, draft.options) if told else None
    if shared is not None and not container.endpoints.keys() & {*shared, *draft.options.networks}:
        draft.mistaken(container.name, told)


def _age(container: Container) -> tuple[int, str]:
    """Sorts containers by when they were created; who was first among those of one second does not change."""
    return container.created, container.id


def _attachment(draft: Draft, container: Container, name: str, aliases: tuple[str, ...]) -> None:
    endpoint = container.endpoints.get(name)
    if container.id == draft.observed.own and container.is_task:
        _tell(draft, container, name, *own_task(draft, container, name))
        return
    if container.id != draft.observed.own and {container.name.lower(), container.hostname} & draft.taken(name):
        message = "a backend has the name or host name of the container: rename one of them"
        _tell(draft, container, name, Standing.BLOCKED, Blocked.ALIAS_CONFLICT, message)
        return
    if conflict := container_shadows(draft, container, name, aliases):
        _refuse_name(draft, container, name, conflict)
        return
    clash = {alias: other for alias in aliases if (other := _clash(draft, container, name, alias))}
    free = tuple(alias for alias in aliases if alias not in clash)
    taken = "; ".join(f"{alias!r} belongs to {other}" for alias, other in clash.items())
    own = container.id == draft.observed.own
    ours = endpoint is not None and _is_our_endpoint(draft, container, name, endpoint)
    if clash and ((endpoint is None and not own) or (not free and (own or not ours))):
        message = f"{taken}: choose another alias, or list it for both in docker.grants"
        _tell(draft, container, name, Standing.BLOCKED, Blocked.ALIAS_CONFLICT, message)
    elif endpoint is None:
        _connect(draft, container, name, free)
    else:
        _keep(draft, container, name, endpoint, free, taken, ours=ours)


def _keep(
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
    if there is not None and endpoint.network_id not in ("", there.id):
        _stale(draft, container, name, free, ours=ours)
        return
    if name in draft.creatable and container.state not in RUNNING:
        _tell(draft, container, name, Standing.DRIFTED, None, without_network(draft, container, name, ours=ours))
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
        message = f"somebody else attached it, without {', '.join(missing)}"
        _tell(draft, container, name, Standing.DRIFTED, None, message)
    elif taken:
        _tell(draft, container, name, Standing.DRIFTED, Blocked.ALIAS_CONFLICT, taken)
    else:
        _tell(draft, container, name, Standing.ATTACHED)


def _refuse_name(draft: Draft, container: Container, name: str, conflict: str) -> None:
    """Do not attach a container for which a name would have two meanings, or detach it, where that is ours to do."""
    endpoint = container.endpoints.get(name)
    if endpoint is None:
        _tell(draft, container, name, Standing.BLOCKED, Blocked.NAME_CONFLICT, conflict)
        return
    ours = _is_our_endpoint(draft, container, name, endpoint)
    kept = _kept_by(draft, container) if ours else "somebody else attached it"
    if kept:
        _tell(
            draft, container, name, Standing.DRIFTED, Blocked.NAME_CONFLICT, f"{conflict}; it stays attached: {kept}"
        )
        return
    _tell(draft, container, name, Standing.BLOCKED, Blocked.NAME_CONFLICT, conflict)
    draft.actions.append(
        Action(
            Verb.DISCONNECT, name, endpoint.network_id, container.name, container.id,
            why="a name has two meanings for it", detaches=1,
        )
    )  # fmt: skip


def _kept_by(draft: Draft, container: Container) -> str:
    """Why an endpoint must not be broken; empty: it may be."""
    own = container.id == draft.observed.own
    busy = container.id in draft.desired.busy or (own and draft.desired.serving)
    if draft.options.repair == "disruptive" or (draft.options.repair == "idle" and not busy):
        return ""
    return "it has connections" if draft.options.repair == "idle" else "docker.repair is never"


def _connect(draft: Draft, container: Container, name: str, aliases: tuple[str, ...]) -> None:
    blocked, message = _hindrance(draft, container, name)
    if blocked is not None:
        _tell(draft, container, name, Standing.BLOCKED, blocked, message)
        return
    if container.state not in LIVE:
        _tell(draft, container, name, Standing.PENDING, None, f"it is {container.state}")
        return
    if _makes_way(draft, container, name):
        message = "it was taken off the network, which is to be created again: it is attached to the new one"
        _tell(draft, container, name, Standing.PENDING, None, message)
        return
    _tell(draft, container, name, Standing.PENDING)
    _promise(draft, container, name, aliases)
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
    """Whether somebody took it off a network that is to be removed and made again: with it there, that cannot be."""
    if name not in draft.outdated or (container.id, name) not in draft.been:
        return False
    # The gateway itself stays as long as somebody on the network may use it.
    own = container.id == draft.observed.own
    return not own or not any(name in each.endpoints for each in draft.observed.containers)


def _hindrance_of(container: Container) -> tuple[Blocked | None, str]:
    """Why a container cannot be attached to any network."""
    mode = container.network_mode
    if mode == "host":
        return Blocked.HOST_NETWORK, "it uses the host's network: it reaches listeners at the host's addresses"
    if mode == "none":
        return Blocked.NO_NETWORK, "it was created with --network none"
    if mode in _USER_MODE:
        message = f"it uses {mode}, with which Podman joins no network: create it with --network bridge"
        return Blocked.NOT_ATTACHABLE, message
    if container.is_task:
        return Blocked.SWARM_TASK, "it belongs to a service: label the service, and set docker.services"
    return None, ""


def _hindrance(draft: Draft, container: Container, name: str) -> tuple[Blocked | None, str]:
    blocked, message = _hindrance_of(container)
    return (blocked, message) if blocked is not None else _hindrance_of_network(draft, name)


def _hindrance_of_network(draft: Draft, name: str) -> tuple[Blocked | None, str]:
    network = draft.known.get(name)
    options = draft.desired.network(name)
    overlay = network.driver == "overlay" if network else draft.driver(options) == "overlay"
    if network is not None and overlay and not network.attachable:
        return Blocked.NOT_ATTACHABLE, f"network {name} admits services only: make it anew with --attachable"
    if name in draft.without_range:
        return Blocked.IP_EXHAUSTED, draft.without_range[name]
    if network is None and name not in draft.creatable:
        swarm = draft.observed.swarm
        if overlay and not draft.observed.flavour.has_swarm:
            return Blocked.NOT_MANAGER, no_overlay(draft, name)
        if overlay and not swarm.active:
            return Blocked.NOT_MANAGER, f"network {name} is an overlay, and this engine is in no swarm"
        if not overlay or swarm.leader:
            return Blocked.UNKNOWN_NETWORK, f"there is no network {name}, and it is not to be created"
    return None, ""


def _clash(draft: Draft, container: Container, name: str, alias: str) -> str | None:
    """Who has the alias already on that network, other than those who may share it."""
    own = draft.observed.own
    alias = alias.lower()
    if container.id != own and alias in draft.taken(name):
        return "a backend of the gateway"
    for other, by_alias in draft.called(name, alias):
        if other.id in (container.id, own):
            continue
        # The gateway does not give way to a host name, which is warned of.
        if alias == other.name.lower() or (alias == other.hostname and container.id != own):
            return f"container {other.name}"
        if by_alias and not _gives_way(draft, other, container, name, alias):
            return f"container {other.name}"
    promised = draft.promised.get((name, alias))
    if promised is not None and container.id != own and not promised.shares(alias, draft.holder(container)):
        return promised.who
    return None


def _gives_way(draft: Draft, other: Container, container: Container, name: str, alias: str) -> bool:
    """Whether a container that has the alias leaves it to another: it may share it, or got it from us and later."""
    if draft.desired.mark not in (other.endpoints[name].aliases or ()):
        return False  # another program or person named it
    if container.id == draft.observed.own:
        return True
    has_it = any(each.id == container.id and by_alias for each, by_alias in draft.called(name, alias))
    younger = has_it and _age(container) < _age(other)
    return younger or draft.holder(other).shares(alias, draft.holder(container))


def _promise(draft: Draft, container: Container, name: str, aliases: tuple[str, ...]) -> None:
    """Keep aliases from containers whose turn comes later."""
    if container.id != draft.observed.own:
        for alias in aliases:
            draft.promised.setdefault((name, alias.lower()), draft.holder(container))


def _stale(draft: Draft, container: Container, name: str, aliases: tuple[str, ...], *, ours: bool) -> None:
    """It was on another network of that name, which is gone: it could not even be started."""
    _tell(draft, container, name, Standing.DRIFTED, None, without_network(draft, container, name, ours=ours))
    if ours:
        _promise(draft, container, name, aliases)
        again = (*aliases, draft.desired.mark)
        there = draft.known[name].id
        addresses = own_addresses(draft, name) if container.id == draft.observed.own else ()
        told = "it was attached to a network of that name that is gone"
        draft.actions.append(
            Action(Verb.REATTACH, name, there, container.name, container.id, again, told, addresses=addresses)
        )


def _is_our_endpoint(draft: Draft, container: Container, name: str, endpoint: EndpointInfo) -> bool:
    known = endpoint.aliases is not None and draft.desired.mark in endpoint.aliases
    return known and (container.id, name) in draft.ours


def _repair(
    draft: Draft, container: Container, name: str, endpoint: EndpointInfo, aliases: tuple[str, ...], told: str
) -> None:
    if kept := _kept_by(draft, container):
        _tell(draft, container, name, Standing.DRIFTED, None, f"{told}, and is left alone: {kept}")
        return
    _tell(draft, container, name, Standing.DRIFTED, None, told)
    _promise(draft, container, name, aliases)
    marked_aliases = (*aliases, draft.desired.mark)
    # The same address again, where it can be asked for, so that clients need not resolve the name again.
    current = tuple(each for each in endpoint.addresses if "." in each)[:1]
    there = draft.known.get(name)
    addresses = current if there is not None and draft.is_ours(there.labels) else ()
    if container.id == draft.observed.own:
        addresses = own_addresses(draft, name) or addresses
    draft.actions.append(
        Action(
            Verb.REATTACH, name, endpoint.network_id, container.name, container.id, marked_aliases, told,
            addresses=addresses,
        )
    )  # fmt: skip


def _may_be_ourselves(draft: Draft, endpoint: EndpointInfo) -> bool:
    """Whether it is called like a backend, and we do not know which container we are."""
    backends = {each.lower() for each in draft.desired.backends}
    return draft.observed.own is None and bool(backends & {each.lower() for each in endpoint.aliases or ()})


def _quietly_wanted(draft: Draft, container: Container) -> dict[str, tuple[str, ...]]:
    warnings, mistakes, conditions = len(draft.warnings), len(draft.mistakes), len(draft.conditions)
    wanted = _wanted(draft, container)
    del draft.warnings[warnings:], draft.mistakes[mistakes:], draft.conditions[conditions:]
    return wanted


def _tell(
    draft: Draft,
    container: Container,
    name: str,
    state: Standing,
    reason: Blocked | None = None,
    message: str = "",
) -> None:
    draft.tell(container.name, container.id, name, state, reason, message)
