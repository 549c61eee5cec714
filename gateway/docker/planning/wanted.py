"""The networks that a container should be on, by its labels, by grants and by rules."""

from gateway.docker import labels
from gateway.docker.consumers import networks_of_sources
from gateway.docker.errors import BlockedReason
from gateway.docker.model import LIVE, Container
from gateway.docker.plan import Standing
from gateway.docker.planning.draft import Draft
from gateway.docker.planning.hindrances import of_container


def wanted(draft: Draft, container: Container) -> dict[str, tuple[str, ...]]:
    """Return the networks that a container should be on, with its aliases there, and note what is refused."""
    if container.id == draft.observed.own:
        return {name: draft.own_names(name) for name in draft.options.networks}
    request = draft.request(container.name, container.name, container.labels)
    if request is None:
        _idle(draft, container)
    if request is None or (request.detach_on_stop and container.state not in LIVE):
        return {}
    networks = draft.networks_of(request, container.name, container.name, container.labels)
    if request.refused:
        for name in networks:
            draft.report_container(container, name, Standing.BLOCKED, BlockedReason.NOT_GRANTED, request.refused)
        return {}
    return dict.fromkeys(networks, request.aliases)


def quietly_wanted(draft: Draft, container: Container) -> dict[str, tuple[str, ...]]:
    """As `wanted`, without notes."""
    warnings, mistakes, conditions = len(draft.warnings), len(draft.mistakes), len(draft.conditions)
    found = wanted(draft, container)
    del draft.warnings[warnings:], draft.mistakes[mistakes:], draft.conditions[conditions:]
    return found


def networks_wanted(draft: Draft, container: Container) -> set[str]:
    """Return the networks that a container, other than the gateway's own, is to be on and can be attached to."""
    return set() if container.joins or of_container(container)[0] else set(wanted(draft, container))


def _idle(draft: Draft, container: Container) -> None:
    """Note labels without effect, unless they may admit the container on a network shared with the gateway."""
    mistakes = labels.idle(container.labels, draft.options.label_prefix, draft.desired.instance)
    shared = networks_of_sources(draft.observed, draft.options) if mistakes else None
    if shared is not None and not container.endpoints.keys() & {*shared, *draft.options.networks}:
        draft.mistaken(container.name, mistakes)
