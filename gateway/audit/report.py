"""Defines the result of an audit: the findings, and the storage locations of the containers' data."""

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """The severity of a hazard.

    High: a routine event loses or corrupts data, or a container has access to the host. Medium: a mistake or a reboot
    loses data, or a container has a secret that it does not need. Low: the hazard does harm only together with
    another problem.
    """

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"

    def reaches(self, least: "Severity") -> bool:
        """Return whether this severity is at least as high as `least`."""
        order = tuple(Severity)
        return order.index(self) <= order.index(least)


@dataclass(frozen=True)
class StorageLocation:
    """A path at which a container stores data.

    Args:
        container: The container's name.
        path: The path inside the container.
        mode: `rw` or `ro`.
        kind: `volume`, `anonymous volume`, `network volume`, `bind`, `network bind`, `tmpfs` or `layer`.
        place: The storage that holds the data: the name of a volume, a path on the host, or a server.
        lost_by: The commands and events that destroy the data.
    """

    container: str
    path: str
    mode: str
    kind: str
    place: str
    lost_by: str


@dataclass(frozen=True)
class HazardRule:
    """A rule of the audit: the ID, title and consequences of one kind of hazard.

    Args:
        id: The hazard's name in reports, and its anchor in docs/audit.md.
        title: A short description of the hazard.
        why: The consequences of the hazard.
    """

    id: str
    title: str
    why: str


@dataclass(frozen=True)
class Finding:
    """A hazard that the audit has found in a container or a volume.

    Args:
        rule: The kind of hazard.
        severity: The severity of the hazard.
        subject: The name of the container or of the volume.
        path: The path inside the container; empty if the finding concerns a whole volume.
        what: A description of the setting or the data that the audit found.
        fix: The shell commands that remove the hazard.
        source: The Compose file that defines the subject; empty if there is no such file.
    """

    rule: HazardRule
    severity: Severity
    subject: str
    path: str
    what: str
    fix: str
    source: str = ""


@dataclass(frozen=True)
class AuditReport:
    """The result of an audit.

    Args:
        findings: The hazards, most severe first.
        places: The storage locations of the containers' data.
        unchecked: Messages about data that the audit could not read. See `AuditSnapshot.unchecked`.
    """

    findings: tuple[Finding, ...]
    places: tuple[StorageLocation, ...]
    unchecked: tuple[str, ...]
