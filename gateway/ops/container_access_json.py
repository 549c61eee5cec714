"""Builds the JSON response of `/api/v1/containers/NAME`, which explains the access of a container to backends."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from gateway.ops.status_json import iso

if TYPE_CHECKING:
    from gateway.docker.access_explanation.explanation import Explanation


@dataclass(frozen=True)
class ContainerAccessView:
    """A view of one container's access to backends.

    Args:
        explanation: Which backends the container can reach, and why.
        problem: Why the state of the Docker engine cannot be read; None if it can.
        observed_at: When the gateway last read the state of the Docker engine, in seconds since the epoch; None if it
            has not read the state yet.
    """

    explanation: "Explanation"
    problem: str | None
    observed_at: float | None


def container_access_json(view: ContainerAccessView) -> dict[str, Any]:
    """Return the JSON object of a container's access to backends."""
    return {
        "container": view.explanation.container,
        "id": view.explanation.id,
        "trouble": view.problem,
        "looked_at": iso(view.observed_at),
        "facts": [asdict(each) for each in view.explanation.parts],
        "backends": [asdict(each) for each in view.explanation.backends],
        "remedies": view.explanation.remedies,
    }
