"""Lists the conditions that determine which backends a container reaches, such as labels, grants and networks."""

from collections.abc import Iterator

from gateway.docker import labels
from gateway.docker.access_explanation.explanation import AccessCondition
from gateway.docker.access_explanation.explanation_input import ExplanationInput, reason


def access_conditions(subject: ExplanationInput) -> Iterator[AccessCondition]:
    """Yield each condition that determines which backends the container reaches."""
    container, base = subject.container, subject.base
    yield AccessCondition("container", container.name, container.state)
    if base is None:
        yield AccessCondition(
            "network of", container.joins, "gone", "it uses the network of a container that was removed"
        )
    elif base is not container:
        yield AccessCondition(
            "network of",
            base.name,
            base.state,
            "both containers share one network namespace, so their connections have the same source address",
        )
    yield from _labels(subject)
    if subject.grant is not None:
        given = f"backends {', '.join(subject.grant.backends)}"
        given += f"; aliases {', '.join(subject.grant.aliases)}" if subject.grant.aliases else ""
        yield AccessCondition("grants", "docker.grants", "given", given)
    elif subject.desired.strict:
        yield AccessCondition(
            "grants", "docker.grants", "none", "with gateway.strict, labels have no effect without a grant"
        )
    relevant = dict.fromkeys((*(name for name in subject.networks if subject.endpoint(name)), *subject.attachments))
    for name in relevant or subject.options.networks:
        yield _network(subject, name)
    for conflict in subject.name_conflicts:
        yield AccessCondition("name", conflict.name, "shadowed", str(conflict))


def _labels(subject: ExplanationInput) -> Iterator[AccessCondition]:
    prefix = f"{subject.options.label_prefix}."
    asked = set(subject.desired.by_label.values())
    for source, state, why in (
        (subject.container.labels, "counts", ""),
        (subject.container.image_labels, "ignored", "the label comes from the image"),
    ):
        for key in sorted(source):
            known = key.removeprefix(prefix) in labels.KEYS or key in asked
            if key in asked or key.startswith(prefix):
                yield AccessCondition("label", f"{key}={source[key]}", state if known else "unknown", why)
    for mistake in subject.label_errors:
        yield AccessCondition("label", "", "invalid", mistake)


def _network(subject: ExplanationInput, name: str) -> AccessCondition:
    attachment, endpoint = subject.attachments.get(name), subject.endpoint(name)
    where = ", ".join(endpoint.addresses) if endpoint is not None else ""
    if attachment is None:
        return AccessCondition("network", name, "attached" if endpoint else "not attached", where)
    return AccessCondition(
        "network", name, str(attachment.state), ", ".join(filter(None, (where, reason(attachment))))
    )
