"""Why containers reach backends, or do not, as the running service knows it."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from gateway.app.running import Running
from gateway.docker.explaining import explain, find
from gateway.docker.explaining.model import BackendFact
from gateway.docker.reconciler import Reconciler
from gateway.ops.answers import iso


def explained(reconciler: Reconciler, backends: Iterable[Running], name: str) -> list[dict[str, Any]]:
    """The explanation of each container that `name` means: by its name, or by the beginning of its ID.

    Args:
        reconciler: The engine's.
        backends: Those that run.
        name: What was asked for.
    """
    observed = reconciler.observed
    if observed is None:
        return []
    desired, facts = reconciler.desired(), [_fact(each) for each in backends]
    found = []
    for container in find(observed, name):
        told = explain(desired, observed, reconciler.plan, container, facts)
        found.append(
            {
                "container": told.container,
                "id": told.id,
                "trouble": reconciler.problem,
                "looked_at": iso(reconciler.observed_at),
                "facts": [asdict(each) for each in told.parts],
                "backends": [asdict(each) for each in told.backends],
                "remedies": told.remedies,
            }
        )
    return found


def _fact(running: Running) -> BackendFact:
    spec = running.spec
    state, reason, detail = running.judge()
    why = ": ".join(filter(None, (reason and str(reason), detail)))
    listen = tuple(map(str, spec.listen))
    return BackendFact(spec.name, str(state), why, listen, spec.allow.networks, spec.allow.label)
