"""Explains why a container reaches a backend or not, and what to do. Does no I/O."""

from collections.abc import Iterable

from gateway.docker.explaining.model import BackendFact, Explanation
from gateway.docker.explaining.parts import parts
from gateway.docker.explaining.reach import reachability
from gateway.docker.explaining.subject import Subject
from gateway.docker.model import Container, Observed
from gateway.docker.plan import Desired, Plan


def find(observed: Observed, name: str) -> list[Container]:
    """Return the container with this name, or all containers with an ID that starts with it."""
    named = [each for each in observed.containers if each.name == name]
    return named or [each for each in observed.containers if name and each.id.startswith(name)]


def explain(
    desired: Desired, observed: Observed, planned: Plan, container: Container, facts: Iterable[BackendFact]
) -> Explanation:
    """Explain which backends a container reaches.

    Args:
        desired: The desired state.
        observed: The observed state.
        planned: The plan for these two.
        container: The container, from `observed`.
        facts: The properties of the backends.
    """
    subject = Subject(desired, observed, planned, container)
    found = [reachability(subject, each) for each in facts]
    return Explanation(container.name, container.id, list(parts(subject)), found)
