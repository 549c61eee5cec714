"""Why a container reaches a backend, or does not, and what to do about it. Pure."""

from collections.abc import Iterable

from gateway.docker.explaining.model import BackendFact, Explanation
from gateway.docker.explaining.parts import parts
from gateway.docker.explaining.reach import reachability
from gateway.docker.explaining.subject import Subject
from gateway.docker.model import Container, Observed
from gateway.docker.plan import Desired, Plan


def find(observed: Observed, name: str) -> list[Container]:
    """Return the container of that name, or those whose IDs begin so."""
    named = [each for each in observed.containers if each.name == name]
    return named or [each for each in observed.containers if name and each.id.startswith(name)]


def explain(
    desired: Desired, observed: Observed, planned: Plan, container: Container, facts: Iterable[BackendFact]
) -> Explanation:
    """Return everything that decides which backends a container reaches.

    Args:
        desired: What is wanted.
        observed: What there is.
        planned: Made of both.
        container: One of `observed`.
        facts: The backends.
    """
    subject = Subject(desired, observed, planned, container)
    found = [reachability(subject, each) for each in facts]
    return Explanation(container.name, container.id, list(parts(subject)), found)
