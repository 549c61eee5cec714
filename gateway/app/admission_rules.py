"""Builds the admission rules of a backend from its configuration. The rules decide which clients can connect.

Does no I/O.
"""

from gateway.config import BackendSpec
from gateway.forwarding.admission import AdmissionRules, UnixSocketRule
from gateway.forwarding.client_identity import ConsumerResolver, UnixSocketConsumer

_DEFAULT_CONSUMER_SHARE = 0.8
"""Fraction of a backend's `max_connections` that one consumer (a container) may use by default."""


def build_admission(spec: BackendSpec, identity: ConsumerResolver | None) -> AdmissionRules:
    """Return the admission rules of a backend.

    Args:
        spec: The configuration of the backend.
        identity: Finds a client's container by the client's source address; None if Docker is not configured.
    """
    per_consumer = spec.max_connections_per_consumer
    if per_consumer is None and identity is not None:
        per_consumer = max(1, int(spec.max_connections * _DEFAULT_CONSUMER_SHARE))
    return AdmissionRules(
        backend=spec.name,
        allow=spec.allow.networks,
        label=spec.allow.label,
        max_connections=spec.max_connections,
        per_consumer=per_consumer,
        privileged_only=spec.kind.privileged_only(spec.options),
        identity=identity,
        sockets={
            str(each.unix): UnixSocketRule(
                UnixSocketConsumer(each.consumer) if each.consumer else None, frozenset(each.uid), frozenset(each.gid)
            )
            for each in spec.sockets
        },
    )
