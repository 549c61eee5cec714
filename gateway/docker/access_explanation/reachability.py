"""Determines whether a container reaches a backend. If it does not, finds the first obstacle and its remedy."""

import ipaddress
from dataclasses import replace

from gateway.docker import labels
from gateway.docker.access_explanation.explanation import ExplainedBackend, Reachability
from gateway.docker.access_explanation.explanation_input import ExplanationInput, reason
from gateway.docker.consumer_registry import Consumer, consumer
from gateway.docker.desired_state import backends_on
from gateway.docker.plan import AttachmentState
from gateway.docker.snapshot import RUNNING, Container

_GOOD = ("up", "degraded")
_UNKNOWN = "unknown"


def reachability(subject: ExplanationInput, backend: ExplainedBackend) -> Reachability:
    """Return whether the container can reach the backend by name.

    If the container cannot reach the backend, the result contains the first obstacle and its remedy.
    """
    name, base = subject.container.name, subject.base
    if subject.unavailable is not None:
        return _no(
            backend,
            subject.unavailable.detail,
            ": ".join(filter(None, (subject.unavailable.message, subject.unavailable.command))),
        )
    if subject.container.state not in RUNNING:
        return _no(
            backend, f"the container is {subject.container.state}", f"start it: {subject.command} start {name}"
        )
    if subject.container is subject.gateway:
        return _no(backend, "it is the gateway's own container", "")
    if base is None:
        return _no(backend, "it uses the network of a container that was removed", f"recreate container {name}")
    listen = ", ".join(backend.listen) or "none"
    if base.network_mode == "host":
        why = f"it uses the host's network, where names of backends do not resolve; listeners: {listen}"
        return Reachability(
            backend.name, "maybe", "", why, "connect to the address of a listener that is reachable from the host"
        )
    if backend.name not in subject.desired.backends:
        why = f"containers do not reach the backend's listeners ({listen})"
        return _no(backend, why, f"set backends.{backend.name}.listen to 0.0.0.0:PORT")
    network = _shared_network(subject, base, backend.name)
    return _unattached(subject, backend) if network is None else _served(subject, backend, network, base)


def _served(subject: ExplanationInput, backend: ExplainedBackend, network: str, base: Container) -> Reachability:
    """Return whether the container reaches the backend over `network`, to which the gateway is also attached."""
    found = _not_admitted(subject, backend, network, base)
    state = f"the backend is {backend.state}" + (f": {backend.why}" if backend.why else "")
    if found is None and backend.state not in (*_GOOD, _UNKNOWN):
        found = _no(backend, state, f"see why: gateway explain {backend.name}")
    if found is not None:
        return replace(found, network=network)
    conflict = next((each for each in subject.name_conflicts if each.name == backend.name.lower()), None)
    if conflict is not None:
        remedy = (
            f"rename backend {backend.name} or the other host of that name, or keep the backend off network"
            f" {conflict.network} (docker.networks.{subject.desired.configured_name(conflict.network)}.backends)"
        )
        return Reachability(
            backend.name, "maybe", network, f"{conflict}: this container reaches one of the two by that name", remedy
        )
    if backend.state == _UNKNOWN:
        return Reachability(backend.name, "maybe", network, f"by the name {backend.name}; {state}", "")
    return Reachability(backend.name, "yes", network, f"by the name {backend.name}; the backend is {backend.state}")


def _shared_network(subject: ExplanationInput, base: Container, backend: str) -> str | None:
    """Return a network of the container on which the backend's name resolves to the gateway; None if none exists."""
    there = subject.gateway.endpoints if subject.gateway is not None else {}
    for name, endpoint in base.endpoints.items():
        ours = there.get(name)
        if ours is not None and ours.network_id == endpoint.network_id and backend.lower() in ours.names:
            return name
    return None


def _not_admitted(
    subject: ExplanationInput, backend: ExplainedBackend, network: str, base: Container
) -> Reachability | None:
    """Return why the backend's `allow` refuses the container; None if `allow` admits the container."""
    if backend.label is not None:
        who = consumer(base, subject.options.grants, strict=subject.desired.strict)
        if not who.has(backend.label, backend.name):
            return _without_label(subject, backend, backend.label, who, base)
    addresses = [ipaddress.ip_address(each) for each in base.endpoints[network].addresses]
    if backend.allow and not any(address in allowed for address in addresses for allowed in backend.allow):
        why = f"its address {', '.join(map(str, addresses))} is in none of the networks in allow"
        return _no(backend, why, f"add the addresses of network {network} to backends.{backend.name}.allow")
    return None


def _without_label(
    subject: ExplanationInput, backend: ExplainedBackend, label: str, who: Consumer, base: Container
) -> Reachability:
    if subject.desired.strict:
        return _no(
            backend, f"no rule in docker.grants lets container {who.name} use the backend", _grant(who.name, backend)
        )
    why = f"label {label} of container {who.name} does not list {backend.name}"
    if label in base.image_labels:
        why = f"label {label} of container {who.name} comes from its image, and is ignored"
    elif label not in who.labels:
        why = f"the backend admits containers by label {label}, which container {who.name} does not have"
    remedy = f"add {backend.name} to label {label} of container {who.name} and recreate it"
    return _no(backend, why, f"{remedy}, or {_grant(who.name, backend)}")


def _unattached(subject: ExplanationInput, backend: ExplainedBackend) -> Reachability:
    """Return why the backend's name resolves on none of the container's networks."""
    configured = [name for name in subject.options.networks if backend.name in backends_on(subject.desired, name)]
    kept = [name for name, backends in subject.networks.items() if backend.name in backends]
    if not configured:
        return _no(
            backend,
            "the backend is not available on any network in docker.networks",
            "add the backend to docker.networks.NETWORK.backends",
        )
    if subject.gateway is None:
        why = "the gateway does not run in a container of this engine, so names of backends do not resolve"
        return _no(backend, why, "run the gateway in a container of this engine, or set docker.container")
    there = next((name for name in kept if subject.endpoint(name) is not None), None)
    if there is not None:
        why = f"the gateway does not have the name {backend.name} on network {there}"
        return _no(backend, why, f"see why: gateway explain {subject.gateway.name}")
    waiting = [each for name in kept if (each := subject.attachments.get(name)) is not None]
    if not waiting:
        return _unasked(subject, backend, configured)
    found = next((each for each in waiting if each.state is AttachmentState.PENDING), waiting[0])
    if not found.message:
        return _no(
            backend, f"it is about to be attached to network {found.network}", "repeat the command in a few seconds"
        )
    # Use the attachment's message as the remedy, because the message says what to do.
    return _no(backend, f"network {found.network} is {found.state}: {reason(found)}", found.message)


def _unasked(subject: ExplanationInput, backend: ExplainedBackend, configured: list[str]) -> Reachability:
    """Return why the gateway does not attach the container to a network on which the backend is available."""
    container, mine, enable = subject.container, subject.container.labels, subject.label("enable")
    grant = _grant(container.name, backend)
    instance = mine.get(subject.label("instance"), subject.desired.instance)
    if instance != subject.desired.instance:
        why = f"its label {subject.label('instance')} names another gateway, {instance}"
        return _no(backend, why, f"query that gateway, or set {subject.label('instance')}={subject.desired.instance}")
    if enable in container.image_labels and subject.grant is None:
        why = f"its label {enable} comes from its image, and is ignored"
        return _no(backend, why, f"set {enable}=true on the container, or {grant}")
    if subject.desired.strict and subject.grant is None:
        return _no(backend, "no rule in docker.grants matches it, and gateway.strict requires one", grant)
    if subject.label_errors:
        return _no(backend, "; ".join(subject.label_errors), f"correct its labels and recreate it, or {grant}")
    if enable in mine and not labels.enabled(mine[enable]):
        return _no(backend, f"its label {enable} is {mine[enable]}", f"set {enable}=true and recreate it")
    if enable not in mine and subject.grant is None and subject.rule is None:
        why = f"it has no label {enable}, and no rule in docker.grants or docker.attach matches it"
        return _no(backend, why, f"create it with the label {enable}=true, or {grant}")
    return _chosen_otherwise(subject, backend, configured)


def _chosen_otherwise(subject: ExplanationInput, backend: ExplainedBackend, configured: list[str]) -> Reachability:
    """Return which label, grant, or rule in `docker.attach` excludes the backend or its networks."""
    container, mine = subject.container, subject.container.labels
    for key, choices in (("network", configured), ("backends", [backend.name])):
        label = subject.label(key)
        if label in mine and not set(labels.listed(mine[label])) & set(choices):
            remedy = f"add {choices[0]} to its label {label} and recreate it"
            return _no(backend, f"its label {label} lists only {mine[label]}", remedy)
    if subject.grant is not None:
        why = f"docker.grants allows only {', '.join(subject.grant.backends)}"
        return _no(backend, why, _grant(container.name, backend))
    return _no(
        backend,
        "its rule in docker.attach selects other backends or networks",
        f"add {backend.name} to the backends of the rule",
    )


def _grant(name: str, backend: ExplainedBackend) -> str:
    return f"grant it in docker.grants: {{container: {name}, backends: [{backend.name}]}}"


def _no(backend: ExplainedBackend, why: str, remedy: str) -> Reachability:
    return Reachability(backend.name, "no", "", why, remedy)
