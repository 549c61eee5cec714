"""Explains why a container can or cannot reach a backend, and suggests a remedy. Does no I/O."""

from collections.abc import Iterable

from gateway.docker.access_explanation.access_conditions import access_conditions
from gateway.docker.access_explanation.explanation import ExplainedBackend, Explanation
from gateway.docker.access_explanation.explanation_input import ExplanationInput
from gateway.docker.access_explanation.reachability import reachability
from gateway.docker.desired_state import DesiredState
from gateway.docker.plan import Plan
from gateway.docker.snapshot import Container, EngineSnapshot


def find(observed: EngineSnapshot, name: str) -> list[Container]:
    """Return the container named `name`; if there is none, all containers whose ID starts with `name`."""
    named = [each for each in observed.containers if each.name == name]
    return named or [each for each in observed.containers if name and each.id.startswith(name)]


def explain(
    desired: DesiredState,
    observed: EngineSnapshot,
    planned: Plan,
    container: Container,
    backends: Iterable[ExplainedBackend],
) -> Explanation:
    """Return for each backend whether a container reaches the backend, and why or why not.

    Args:
        desired: The desired state.
        observed: The observed state.
        planned: The plan that changes `observed` to `desired`.
        container: The container, from `observed`.
        backends: The backends to explain.
    """
    subject = ExplanationInput(desired, observed, planned, container)
    found = [reachability(subject, each) for each in backends]
    return Explanation(container.name, container.id, list(access_conditions(subject)), found)
