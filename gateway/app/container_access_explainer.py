"""Explains which backends a container can reach, and why."""

from collections.abc import Iterable

from gateway.app.running_backend import RunningBackend
from gateway.docker.access_explanation import explain, find
from gateway.docker.access_explanation.explanation import ExplainedBackend
from gateway.docker.reconciler import Reconciler
from gateway.ops.container_access_json import ContainerAccessView


def explain_containers(
    reconciler: Reconciler, backends: Iterable[RunningBackend], name: str
) -> list[ContainerAccessView]:
    """Explain, for each container that matches `name`, which backends it can reach, and why.

    Args:
        reconciler: Provides the containers and networks of the Docker engine.
        backends: The running backends.
        name: The name of a container, or the beginning of its ID.

    Returns:
        The explanations; an empty list if the state of the Docker engine has not been read yet.
    """
    observed = reconciler.observed
    if observed is None:
        return []
    desired, explained = reconciler.desired(), [_backend(each) for each in backends]
    return [
        ContainerAccessView(
            explain(desired, observed, reconciler.plan, container, explained),
            reconciler.problem,
            reconciler.observed_at,
        )
        for container in find(observed, name)
    ]


def _backend(backend: RunningBackend) -> ExplainedBackend:
    spec = backend.spec
    found = backend.evaluate()
    why = ": ".join(filter(None, (found.reason and str(found.reason), found.detail)))
    listen = tuple(map(str, spec.listen))
    return ExplainedBackend(spec.name, str(found.state), why, listen, spec.allow.networks, spec.allow.label)
