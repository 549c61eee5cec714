"""Compares the configuration with the state of an engine, and returns the actions. Pure."""

from collections.abc import Iterator

from gateway.docker.exposure import image_labels, spoofing
from gateway.docker.model import Observed
from gateway.docker.plan import Action, Desired, Plan, Verb, carried
from gateway.docker.planning.attachments import attach, detach
from gateway.docker.planning.draft import Draft
from gateway.docker.planning.networks import make_networks, remove_networks
from gateway.docker.planning.own import address_warnings, namesakes, reattach_stopped_gateway
from gateway.docker.planning.projects import spread
from gateway.docker.planning.revival import revive
from gateway.docker.planning.services import update_services
from gateway.docker.planning.way_out import own_way_out
from gateway.docker.volumes import VolumeStanding, body, hindrances, judge


def plan(
    desired: Desired,
    observed: Observed,
    ours: frozenset[tuple[str, str]],
    been: frozenset[tuple[str, str]] = frozenset(),
) -> Plan:
    """Make a plan.

    Args:
        desired: What is wanted.
        observed: What there is.
        ours: Endpoints that the gateway made, by the container's ID and the network's name.
        been: Those of them that were seen, and that the gateway did not detach: a missing one was detached by another
            program or person.
    """
    desired = spread(desired, observed)
    draft = Draft(desired, observed, ours, been)
    make_networks(draft)
    if draft.options.networks and desired.backends and observed.own is None:
        draft.warnings.append(
            "the gateway runs in no container of this engine: the backends' names do not resolve "
            "(to name its container, set docker.container)"
        )
    draft.warnings += own_way_out(draft)
    if draft.options.services and not observed.flavour.has_swarm:
        draft.warnings.append(
            f"docker.services: {observed.flavour.name} has no swarm services: remove it, and label containers"
        )
    draft.warnings += image_labels(desired, observed)
    draft.warnings += namesakes(draft)
    draft.warnings += address_warnings(draft)
    attach(draft)
    reattach_stopped_gateway(draft)
    update_services(draft)
    detach(draft)
    remove_networks(draft)
    dead = revive(draft)
    volumes = tuple(_volumes(draft))
    exposures = tuple(spoofing(desired, observed))
    return Plan(
        tuple(draft.actions),
        tuple(draft.conditions),
        tuple(draft.warnings),
        volumes=volumes,
        mistakes=frozenset(draft.mistakes),
        shadows=tuple(draft.shadows),
        networks={name: carried(draft.desired, name) for name in draft.options.networks},
        exposures=exposures,
        dead=dead,
    )


def _volumes(draft: Draft) -> Iterator[VolumeStanding]:
    prefix, instance = draft.options.label_prefix, draft.desired.instance
    there = {each.name: each for each in draft.observed.volumes}
    own = draft.observed.own_container
    mode = own.network_mode if own is not None else None
    draft.warnings += hindrances(draft.observed.info, draft.options.host, mode, draft.desired.volumes)
    for spec in draft.desired.volumes:
        standing = judge(spec, there.get(spec.name), prefix, instance)
        yield standing
        if standing.change is not None:
            verb = Verb.CREATE_VOLUME if standing.change == "create" else Verb.RECREATE_VOLUME
            made = body(spec, prefix, instance)
            draft.actions.append(Action(verb, spec.name, spec.name, why=standing.message, body=made))
