"""Decides whether a container reaches a backend, and returns the first obstacle and the remedy for it."""

import ipaddress
from dataclasses import replace

from gateway.docker import labels
from gateway.docker.consumer_directory import Consumer, consumer
from gateway.docker.explaining.explained_container import ExplainedContainer, reason
from gateway.docker.explaining.model import ExplainedBackend, Reachability
from gateway.docker.plan import AttachmentState, backends_on
from gateway.docker.snapshot import RUNNING, Container

_GOOD = ("up", "degraded")
_UNKNOWN = "unknown"


def reachability(subject: ExplainedContainer, fact: ExplainedBackend) -> Reachability:
    """Return whether the container reaches the backend by name, and if not, the first obstacle and its remedy."""
    name, base = subject.container.name, subject.base
    if subject.dead is not None:
        return _no(fact, subject.dead.detail, ": ".join(filter(None, (subject.dead.message, subject.dead.command))))
    if subject.container.state not in RUNNING:
        return _no(fact, f"the container is {subject.container.state}", f"start it: {subject.command} start {name}")
    if subject.container is subject.gateway:
        return _no(fact, "it is the gateway's own container", "")
    if base is None:
        return _no(fact, "it uses the network of a container that was removed", f"recreate container {name}")
    listen = ", ".join(fact.listen) or "none"
    if base.network_mode == "host":
        why = f"it uses the host's network, where names of backends do not resolve; listeners: {listen}"
        return Reachability(fact.name, "maybe", "", why, "connect to an address of a listener that the host reaches")
    if fact.name not in subject.desired.backends:
        why = f"no other container reaches its listeners ({listen})"
        return _no(fact, why, f"set backends.{fact.name}.listen to 0.0.0.0:PORT")
    network = _shared(subject, base, fact.name)
    return _unattached(subject, fact) if network is None else _served(subject, fact, network, base)


def _served(subject: ExplainedContainer, fact: ExplainedBackend, network: str, base: Container) -> Reachability:
    """Return whether the container reaches the backend over `network`, where the gateway has the backend's name."""
    found = _not_admitted(subject, fact, network, base)
    state = f"the backend is {fact.state}" + (f": {fact.why}" if fact.why else "")
    if found is None and fact.state not in (*_GOOD, _UNKNOWN):
        found = _no(fact, state, f"see why: gateway explain {fact.name}")
    if found is not None:
        return replace(found, network=network)
    conflict = next((each for each in subject.name_conflicts if each.name == fact.name.lower()), None)
    if conflict is not None:
        remedy = (
            f"rename backend {fact.name} or the other one, or keep the backend off network {conflict.network}"
            f" (docker.networks.{subject.desired.configured_name(conflict.network)}.backends)"
        )
        return Reachability(fact.name, "maybe", network, f"{conflict}: it reaches one of them by that name", remedy)
    if fact.state == _UNKNOWN:
        return Reachability(fact.name, "maybe", network, f"by the name {fact.name}; {state}", "")
    return Reachability(fact.name, "yes", network, f"by the name {fact.name}; the backend is {fact.state}")


def _shared(subject: ExplainedContainer, base: Container, backend: str) -> str | None:
    """Return a network of the container on which the gateway has the backend's name; None if there is none."""
    there = subject.gateway.endpoints if subject.gateway is not None else {}
    for name, endpoint in base.endpoints.items():
        ours = there.get(name)
        if ours is not None and ours.network_id == endpoint.network_id and backend.lower() in ours.names:
            return name
    return None


def _not_admitted(
    subject: ExplainedContainer, fact: ExplainedBackend, network: str, base: Container
) -> Reachability | None:
    """Return why `allow` refuses the container; None if `allow` admits it."""
    if fact.label is not None:
        who = consumer(base, subject.options.grants, strict=subject.desired.strict)
        if not who.has(fact.label, fact.name):
            return _without_label(subject, fact, fact.label, who, base)
    addresses = [ipaddress.ip_address(each) for each in base.endpoints[network].addresses]
    if fact.allow and not any(address in allowed for address in addresses for allowed in fact.allow):
        why = f"its address {', '.join(map(str, addresses))} is in none of the networks in allow"
        return _no(fact, why, f"add the addresses of network {network} to backends.{fact.name}.allow")
    return None


def _without_label(
    subject: ExplainedContainer, fact: ExplainedBackend, label: str, who: Consumer, base: Container
) -> Reachability:
    if subject.desired.strict:
        return _no(fact, f"no rule in docker.grants lets container {who.name} use it", _grant(who.name, fact))
    why = f"label {label} of container {who.name} does not list {fact.name}"
    if label in base.image_labels:
        why = f"label {label} of container {who.name} comes from its image, and is ignored"
    elif label not in who.labels:
        why = f"it admits containers by label {label}, which container {who.name} does not have"
    remedy = f"add {fact.name} to label {label} of container {who.name} and recreate it"
    return _no(fact, why, f"{remedy}, or {_grant(who.name, fact)}")


def _unattached(subject: ExplainedContainer, fact: ExplainedBackend) -> Reachability:
    """Return why the container is on no network where the gateway has the backend's name."""
    configured = [name for name in subject.options.networks if fact.name in backends_on(subject.desired, name)]
    kept = [name for name, backends in subject.networks.items() if fact.name in backends]
    if not configured:
        return _no(
            fact,
            "it is not available on any network in docker.networks",
            "add it to docker.networks.NETWORK.backends",
        )
    if subject.gateway is None:
        why = "the gateway does not run in a container of this engine, so names of backends do not resolve"
        return _no(fact, why, "run it in a container of this engine, or set docker.container")
    there = next((name for name in kept if subject.endpoint(name) is not None), None)
    if there is not None:
        why = f"the gateway does not have the name {fact.name} on network {there}"
        return _no(fact, why, f"see why: gateway explain {subject.gateway.name}")
    waiting = [each for name in kept if (each := subject.attachments.get(name)) is not None]
    if not waiting:
        return _unasked(subject, fact, configured)
    found = next((each for each in waiting if each.state is AttachmentState.PENDING), waiting[0])
    if not found.message:
        return _no(
            fact, f"it is about to be attached to network {found.network}", "repeat the command in a few seconds"
        )
    # Use the attachment's message as the remedy, because the message says what to do.
    return _no(fact, f"network {found.network} is {found.state}: {reason(found)}", found.message)


def _unasked(subject: ExplainedContainer, fact: ExplainedBackend, configured: list[str]) -> Reachability:
    """Return why no label, grant or rule attaches the container to a network on which the backend is available."""
    container, mine, enable = subject.container, subject.container.labels, subject.label("enable")
    grant = _grant(container.name, fact)
    instance = mine.get(subject.label("instance"), subject.desired.instance)
    if instance != subject.desired.instance:
        why = f"its label {subject.label('instance')} names another gateway, {instance}"
        return _no(fact, why, f"query that gateway, or set {subject.label('instance')}={subject.desired.instance}")
    if enable in container.image_labels and subject.grant is None:
        why = f"its label {enable} comes from its image, and is ignored"
        return _no(fact, why, f"set {enable}=true on the container, or {grant}")
    if subject.desired.strict and subject.grant is None:
        return _no(fact, "no rule in docker.grants matches it, and gateway.strict requires one", grant)
    if subject.label_errors:
        return _no(fact, "; ".join(subject.label_errors), f"correct its labels and recreate it, or {grant}")
    if enable in mine and not labels.enabled(mine[enable]):
        return _no(fact, f"its label {enable} is {mine[enable]}", f"set {enable}=true and recreate it")
    if enable not in mine and subject.grant is None and subject.rule is None:
        why = f"it has no label {enable}, and no rule in docker.grants or docker.attach matches it"
        return _no(fact, why, f"create it with the label {enable}=true, or {grant}")
    return _chosen_otherwise(subject, fact, configured)


def _chosen_otherwise(subject: ExplainedContainer, fact: ExplainedBackend, configured: list[str]) -> Reachability:
    """Return which label, grant or rule of the container selects only other backends or networks."""
    container, mine = subject.container, subject.container.labels
    for key, choices in (("network", configured), ("backends", [fact.name])):
        label = subject.label(key)
        if label in mine and not set(labels.listed(mine[label])) & set(choices):
            remedy = f"add {choices[0]} to its label {label} and recreate it"
            return _no(fact, f"its label {label} lists only {mine[label]}", remedy)
    if subject.grant is not None:
        why = f"docker.grants allows only {', '.join(subject.grant.backends)}"
        return _no(fact, why, _grant(container.name, fact))
    return _no(
        fact,
        "its rule in docker.attach selects other backends or networks",
        f"add {fact.name} to the backends of the rule",
    )


def _grant(name: str, fact: ExplainedBackend) -> str:
    return f"grant it in docker.grants: {{container: {name}, backends: [{fact.name}]}}"


def _no(fact: ExplainedBackend, why: str, remedy: str) -> Reachability:
    return Reachability(fact.name, "no", "", why, remedy)
