"""The types of an audit's result: places and findings."""

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How soon a hazard does harm: by itself, after a routine command, or only together with another event."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"

    def reaches(self, least: "Severity") -> bool:
        """Return whether this severity is at least as high as `least`."""
        order = tuple(Severity)
        return order.index(self) <= order.index(least)


@dataclass(frozen=True)
class Place:
    """Where some of a container's data is stored.

    Args:
        container: The container's name.
        path: The path inside the container.
        mode: `rw` or `ro`.
        kind: `volume`, `anonymous volume`, `network volume`, `bind`, `network bind`, `tmpfs` or `layer`.
        place: What holds the data: the name of a volume, a path of the host, a server.
        lost_by: What loses the data.
    """

    container: str
    path: str
    mode: str
    kind: str
    place: str
    lost_by: str


@dataclass(frozen=True)
class Rule:
    """A kind of hazard.

    Args:
        id: The hazard's name in reports, and its anchor in docs/audit.md.
        title: The hazard in a few words.
        why: What happens because of it.
    """

    id: str
    title: str
    why: str


@dataclass(frozen=True)
class Finding:
    """A hazard that was found.

    Args:
        rule: The kind of hazard.
        severity: How soon the hazard does harm.
        subject: The name of the container or of the volume.
        path: The path inside the container; empty: the finding concerns a whole volume.
        what: What was found.
        fix: The shell commands that remove the hazard.
        source: The Compose file that defines the subject; empty: none.
    """

    rule: Rule
    severity: Severity
    subject: str
    path: str
    what: str
    fix: str
    source: str = ""


@dataclass(frozen=True)
class Report:
    """The result of an audit.

    Args:
        findings: The hazards, the most severe first.
        places: Where each container's data is stored.
        unchecked: See `Snapshot`.
    """

    findings: tuple[Finding, ...]
    places: tuple[Place, ...]
    unchecked: tuple[str, ...]
