"""Explains which backends a container can reach, and why."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from gateway.app.running_backend import RunningBackend
from gateway.docker.access_explanation import explain, find
from gateway.docker.access_explanation.explanation import ExplainedBackend
from gateway.docker.reconciler import Reconciler
from gateway.ops.status_json import iso


def explain_containers(reconciler: Reconciler, backends: Iterable[RunningBackend], name: str) -> list[dict[str, Any]]:
    """Explain, for each container that matches `name`, which backends it can reach, and why.

    Args:
        reconciler: Provides the containers and networks of the Docker engine.
        backends: The running backends.
        name: The name of a container, or the beginning of its ID.

    Returns:
        The explanations, ready for JSON; an empty list if the state of the Docker engine has not been read yet.
    """
    observed = reconciler.observed
    if observed is None:
        return []
    desired, facts = reconciler.desired(), [_fact(each) for each in backends]
    found = []
    for container in find(observed, name):
        explanation = explain(desired, observed, reconciler.plan, container, facts)
        found.append(
            {
                "container": explanation.container,
                "id": explanation.id,
                "trouble": reconciler.problem,
                "looked_at": iso(reconciler.observed_at),
                "facts": [asdict(each) for each in explanation.parts],
                "backends": [asdict(each) for each in explanation.backends],
                "remedies": explanation.remedies,
            }
        )
    return found


def _fact(backend: RunningBackend) -> ExplainedBackend:
    spec = backend.spec
    found = backend.evaluate()
    why = ": ".join(filter(None, (found.reason and str(found.reason), found.detail)))
    listen = tuple(map(str, spec.listen))
    return ExplainedBackend(spec.name, str(found.state), why, listen, spec.allow.networks, spec.allow.label)
