"""Provides functions that create findings about containers, for the other modules in this package. Does no I/O."""

from collections.abc import Iterator

from gateway.audit import database_files
from gateway.audit.container_recreate_commands import recreate
from gateway.audit.proposed_mount_changes import ProposedMountChanges
from gateway.audit.report import Finding, HazardRule, Severity
from gateway.audit.snapshot_model import AuditedContainer, AuditedMount, AuditSnapshot
from gateway.audit.storage_behind_mount import StorageBehindMount, as_bind, store_of
from gateway.docker.compose_command_line import FILES
from gateway.text_sanitizer import one_line


def mounts(snapshot: AuditSnapshot) -> Iterator[tuple[AuditedContainer, AuditedMount, StorageBehindMount]]:
    """Yield each mount of each container, with the storage that holds the mount's data.

    Omit the mounts of former tasks: a fix changes the service, whose current tasks can have other mounts.
    If a volume has the option `o=bind`, yield its mount as a bind mount of the host's directory.
    """
    for container in snapshot.current_containers:
        for mount in (as_bind(snapshot, each) for each in container.mounts):
            yield container, mount, store_of(snapshot, mount)


def database_in(
    snapshot: AuditSnapshot, container: AuditedContainer, mount: AuditedMount, store: StorageBehindMount
) -> str:
    """Return which database stores its files on a mount, such as `PostgreSQL`; empty if none is known.

    If the audit has found no database files, derive the result from the mount point, the image and `PGDATA`.
    """
    listed = snapshot.paths.get(store.host_path)
    found = listed.database if listed is not None else ""
    return found or database_files.at(mount.path, container.image, container.environment.get("PGDATA", ""))


def on_container(
    snapshot: AuditSnapshot,
    rule: HazardRule,
    severity: Severity,
    container: AuditedContainer,
    path: str,
    what: str,
    fix: str | ProposedMountChanges,
) -> Finding:
    """Return a finding about a container.

    Args:
        snapshot: The snapshot.
        rule: The kind of hazard.
        severity: The severity of the hazard.
        container: The container.
        path: The path inside the container.
        what: A description of the finding.
        fix: The commands that fix the hazard; or changes to the mounts, which this function converts to commands.
    """
    commands = fix if isinstance(fix, str) else recreate(snapshot, container, fix)
    source = container.labels.get(FILES, "").partition(",")[0]
    return Finding(rule, severity, container.name, one_line(path), one_line(what), commands, source)
