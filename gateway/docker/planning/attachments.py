"""Containers that are to be attached, attached anew, or let go."""

from gateway.docker.model import LIVE, Container, EndpointInfo
from gateway.docker.plan import Action, Standing, Verb
from gateway.docker.planning.draft import Draft
from gateway.docker.planning.own_service import own_task
from gateway.docker.trouble import Blocked


def attach(draft: Draft) -> None:
    """Every container that should be on a network; the oldest first, which keep their aliases."""
    for container in sorted(draft.observed.containers, key=_age):
        for name, aliases in _wanted(draft, container).items():
            _attachment(draft, container, name, aliases)


def detach(draft: Draft) -> None:
    """Endpoints of ours that nobody wants any more."""
    for container in draft.observed.containers:
        for name, endpoint in container.endpoints.items():
            if (
                _is_our_endpoint(draft, container, name, endpoint)
                and name not in _quietly_wanted(draft, container)
                and not _may_be_ourselves(draft, endpoint)
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
    if wish is None or (wish.detach_on_stop and container.state not in LIVE):
        return {}
    networks = draft.networks_of(wish, container.name)
    if wish.refused:
        for name in networks:
            _tell(draft, container, name, Standing.BLOCKED, Blocked.NOT_GRANTED, wish.refused)
        return {}
    return dict.fromkeys(networks, wish.aliases)


def _age(container: Container) -> tuple[int, str]:
    """Sorts containers by when they were created; who was first among those of one second does not change."""
    return container.created, container.id


def _attachment(draft: Draft, container: Container, name: str, aliases: tuple[str, ...]) -> None:
    endpoint = container.endpoints.get(name)
    if container.id == draft.observed.own and container.is_task:
        _tell(draft, container, name, *own_task(draft, container, name))
        return
    if container.id != draft.observed.own and container.name.lower() in draft.taken(name):
        message = "a backend has the name of the container: rename one of them"
        _tell(draft, container, name, Standing.BLOCKED, Blocked.ALIAS_CONFLICT, message)
        return
    clash = {alias: other for alias in aliases if (other := _clash(draft, container, name, alias))}
    free = tuple(alias for alias in aliases if alias not in clash)
    own = container.id == draft.observed.own
    ours = endpoint is not None and _is_our_endpoint(draft, container, name, endpoint)
    if clash:
        told = "; ".join(f"{alias!r} is {other}'s" for alias, other in clash.items())
        if (endpoint is None and not own) or (not free and (own or not ours)):
            message = f"{told}: choose another alias, or list it for both in docker.grants"
            _tell(draft, container, name, Standing.BLOCKED, Blocked.ALIAS_CONFLICT, message)
            return
    if endpoint is None:
        _connect(draft, container, name, free)
        return
    there = draft.known.get(name)
    if there is not None and endpoint.network_id not in ("", there.id):
        _stale(draft, container, name, free, ours=ours)
        return
    missing = [alias for alias in free if endpoint.aliases is not None and alias not in endpoint.aliases]
    beyond = (
        sorted((endpoint.aliases or frozenset()) - {*free, draft.desired.mark, container.id[:12]}) if ours else []
    )
    if ours and (missing or beyond):
        wrong = [f"it lacks {', '.join(missing)}"] if missing else []
        wrong += [f"it is still called {', '.join(beyond)}"] if beyond else []
        _repair(draft, container, name, endpoint, free, " and ".join(wrong))
    elif missing:
        message = f"somebody else attached it, without {', '.join(missing)}"
        _tell(draft, container, name, Standing.DRIFTED, None, message)
    elif clash:
        _tell(draft, container, name, Standing.DRIFTED, Blocked.ALIAS_CONFLICT, told)
    else:
        _tell(draft, container, name, Standing.ATTACHED)


def _connect(draft: Draft, container: Container, name: str, aliases: tuple[str, ...]) -> None:
    blocked, message = _hindrance(draft, container, name)
    if blocked is not None:
        _tell(draft, container, name, Standing.BLOCKED, blocked, message)
        return
    if container.state not in LIVE:
        _tell(draft, container, name, Standing.PENDING, None, f"it is {container.state}")
        return
    _tell(draft, container, name, Standing.PENDING)
    _promise(draft, container, name, aliases)
    there = draft.known.get(name)
    draft.actions.append(
        Action(
            Verb.CONNECT,
            name,
            there.id if there else name,
            container.name,
            container.id,
            (*aliases, draft.desired.mark),
            draft.why(container) if container.id != draft.observed.own else "backends are reached through it",
        )
    )


def _hindrance(draft: Draft, container: Container, name: str) -> tuple[Blocked | None, str]:
    mode = container.network_mode
    if mode.startswith("container:"):
        return Blocked.SHARED_NETWORK, "it lives in another container's network: attach that one"
    if mode == "host":
        return Blocked.HOST_NETWORK, "it uses the host's network: it reaches listeners at the host's addresses"
    if mode == "none":
        return Blocked.NO_NETWORK, "it was created with --network none"
    if container.is_task:
        return Blocked.SWARM_TASK, "it belongs to a service: label the service, and set docker.services"
    network = draft.known.get(name)
    options = draft.options.networks[name]
    overlay = network.driver == "overlay" if network else draft.driver(options) == "overlay"
    if network is not None and overlay and not network.attachable:
        return Blocked.NOT_ATTACHABLE, f"network {name} admits services only: make it anew with --attachable"
    if network is None and name not in draft.creatable:
        swarm = draft.observed.swarm
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
    for other in draft.observed.containers:
        endpoint = other.endpoints.get(name)
        if other.id == container.id or endpoint is None or other.id == own:
            continue
        if other.name.lower() == alias:
            return f"container {other.name}"
        if alias in _called(endpoint) and not _gives_way(draft, other, container, name, alias):
            return f"container {other.name}"
    promised = draft.promised.get((name, alias))
    if promised is not None and container.id != own and not promised.shares(alias, draft.holder(container)):
        return promised.who
    return None


def _gives_way(draft: Draft, other: Container, container: Container, name: str, alias: str) -> bool:
    """Whether a container that has the alias leaves it to another: it may share it, or got it from us and later."""
    endpoint = container.endpoints.get(name)
    if draft.desired.mark not in (other.endpoints[name].aliases or ()):
        return False  # another program or person named it
    if container.id == draft.observed.own:
        return True
    younger = endpoint is not None and alias in _called(endpoint) and _age(container) < _age(other)
    return younger or draft.holder(other).shares(alias, draft.holder(container))


def _called(endpoint: EndpointInfo) -> set[str]:
    return {each.lower() for each in endpoint.aliases or ()}


def _promise(draft: Draft, container: Container, name: str, aliases: tuple[str, ...]) -> None:
    """Keep aliases from containers whose turn comes later."""
    if container.id != draft.observed.own:
        for alias in aliases:
            draft.promised.setdefault((name, alias.lower()), draft.holder(container))


def _stale(draft: Draft, container: Container, name: str, aliases: tuple[str, ...], *, ours: bool) -> None:
    """It was on another network of that name, which is gone: it could not even be started."""
    told = "it was attached to a network of that name that is gone"
    _tell(draft, container, name, Standing.DRIFTED, None, told)
    if ours:
        _promise(draft, container, name, aliases)
        again = (*aliases, draft.desired.mark)
        there = draft.known[name].id
        draft.actions.append(Action(Verb.REATTACH, name, there, container.name, container.id, again, told))


def _is_our_endpoint(draft: Draft, container: Container, name: str, endpoint: EndpointInfo) -> bool:
    known = endpoint.aliases is not None and draft.desired.mark in endpoint.aliases
    return known and (container.id, name) in draft.ours


def _repair(
    draft: Draft, container: Container, name: str, endpoint: EndpointInfo, aliases: tuple[str, ...], told: str
) -> None:
    own = container.id == draft.observed.own
    busy = container.id in draft.desired.busy or (own and draft.desired.serving)
    allowed = draft.options.repair == "disruptive" or (draft.options.repair == "idle" and not busy)
    if not allowed:
        why = "it has connections" if draft.options.repair == "idle" else "docker.repair is never"
        _tell(draft, container, name, Standing.DRIFTED, None, f"{told}, and is left alone: {why}")
        return
    _tell(draft, container, name, Standing.DRIFTED, None, told)
    _promise(draft, container, name, aliases)
    marked_aliases = (*aliases, draft.desired.mark)
    # The same address again, where it can be asked for, so that nobody has to resolve anew.
    kept = next((each for each in endpoint.addresses if "." in each), "")
    there = draft.known.get(name)
    address = kept if there is not None and draft.is_ours(there.labels) else ""
    draft.actions.append(
        Action(
            Verb.REATTACH, name, endpoint.network_id, container.name, container.id, marked_aliases, told,
            address=address,
        )
    )  # fmt: skip


def _may_be_ourselves(draft: Draft, endpoint: EndpointInfo) -> bool:
    """Whether it is called like a backend, and we do not know which container we are."""
    backends = {each.lower() for each in draft.desired.backends}
    return draft.observed.own is None and bool(backends & {each.lower() for each in endpoint.aliases or ()})


def _quietly_wanted(draft: Draft, container: Container) -> dict[str, tuple[str, ...]]:
    warnings, conditions = len(draft.warnings), len(draft.conditions)
    wanted = _wanted(draft, container)
    del draft.warnings[warnings:], draft.conditions[conditions:]
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
