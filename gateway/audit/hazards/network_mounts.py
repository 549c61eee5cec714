"""Finds hazardous mounts of network file systems, such as mounts that have unsafe options or contain database files.

Does no I/O.
"""

import re
from collections.abc import Iterator

from gateway.audit import hazard_rules
from gateway.audit.container_recreate_commands import volume_for
from gateway.audit.hazards.finding_builders import database_in, mounts, on_container
from gateway.audit.hazards.network_mount_fixes import (
    changed_options,
    host_mount,
    safe_replacement,
    safe_volume,
    start_engine_after_mount,
)
from gateway.audit.proposed_mount_changes import ProposedMountChanges
from gateway.audit.report import Finding, HazardRule, Severity
from gateway.audit.snapshot_model import AuditedContainer, AuditedMount, AuditedVolume, AuditSnapshot
from gateway.audit.storage_behind_mount import (
    SECRETS,
    StorageBehindMount,
    StorageMedium,
    nfs_version,
    of_volume,
    split_options,
)
from gateway.secret_redaction import hide_secrets, is_secret
from gateway.text_sanitizer import one_line

_NO_SECRET = re.compile(r"(?i)(?:name|id)$|bypass|passthrough|ask_password")
"""Matches names of options that contain a word such as `password`, but whose values are not secrets."""
Issue = tuple[HazardRule, Severity, str]
"""A kind of hazard, its severity, and a description of the finding."""


def find(snapshot: AuditSnapshot) -> Iterator[Finding]:
    """Yield a finding for each hazard of a network mount or of a network volume."""
    for container, mount, store in mounts(snapshot):
        if store.medium.is_network:
            for rule, severity, what in _issues(snapshot, container, mount, store):
                fix = _fix(snapshot, container, mount, store, rule)
                yield on_container(snapshot, rule, severity, container, mount.path, what, fix)
    used = {mount.volume for container in snapshot.containers for mount in container.mounts}
    for volume in snapshot.volumes.values():
        store = of_volume(snapshot, volume)
        if volume.name not in used and store.medium.is_network:
            for rule, severity, what in options(store, writable="ro" not in store.options, database=""):
                yield Finding(
                    rule, severity, volume.name, "", one_line(what), safe_replacement(snapshot, volume, store)
                )
        if store.medium is not StorageMedium.SMB:
            yield from _password(volume)


def _password(volume: AuditedVolume) -> Iterator[Finding]:
    """Yield a finding if an option of a volume is a password. For SMB volumes, `options` finds the passwords."""
    given = {**volume.options, **split_options(volume.options.get("o", ""))}
    names = sorted(name for name, value in given.items() if _is_password(name, value))
    if names:
        what = one_line(f"{', '.join(names)} of {volume.name} ({volume.driver})")
        fix = (
            "# create a new volume without these options: give the password to the driver in a file or in its own "
            "settings\n# if the driver cannot read it there, mount the storage on the host, and use a bind mount"
        )
        yield Finding(hazard_rules.PASSWORD, Severity.MEDIUM, one_line(volume.name), "", what, fix)


def _is_password(name: str, value: str) -> bool:
    is_path = value.startswith("/") and not value.endswith("=")  # base64 can begin with / and end with =
    named = is_secret(name) and not _NO_SECRET.search(name) and value not in ("", "true", "false") and not is_path
    return named or (name != "o" and hide_secrets(value) != value)


def _issues(
    snapshot: AuditSnapshot, container: AuditedContainer, mount: AuditedMount, store: StorageBehindMount
) -> Iterator[Issue]:
    database = database_in(snapshot, container, mount, store)
    yield from options(store, writable=mount.writable, database=database)
    yield from _database(store, database)
    if mount.kind == "bind" and store.host_mount is not None:
        what = f"{mount.source} of the host is on {store.host_mount.source} ({store.file_system})"
        yield hazard_rules.NETWORK_BIND, Severity.MEDIUM, what


def _fix(
    snapshot: AuditSnapshot,
    container: AuditedContainer,
    mount: AuditedMount,
    store: StorageBehindMount,
    rule: HazardRule,
) -> str | ProposedMountChanges:
    if rule is hazard_rules.REMOTE_DATABASE:
        return ProposedMountChanges({mount.path: volume_for(snapshot, container, mount.path)}, copied=(mount.path,))
    if store.host_mount is None and SECRETS & store.options.keys():
        return host_mount(snapshot, container, mount, store)
    if store.host_mount is not None and store.medium is not StorageMedium.NFS:
        return (
            start_engine_after_mount(store.host_mount)
            if rule is hazard_rules.NETWORK_BIND
            else changed_options(store.host_mount)
        )
    return safe_volume(snapshot, container, mount, store)


def options(store: StorageBehindMount, *, writable: bool, database: str) -> Iterator[Issue]:
    """Yield the hazards in the options of a network mount.

    Args:
        store: The network mount.
        writable: Whether the network mount is writable in the container.
        database: The kind of database whose files are on the mount; empty if there is no database.
    """
    found = store.options
    if store.medium is StorageMedium.NFS:
        yield from _nfs(store, writable=writable, database=database)
    elif store.medium is StorageMedium.SMB:
        if found.get("vers", "").startswith("1"):
            yield hazard_rules.SMB_VERSION, Severity.MEDIUM, f"vers={found['vers']} on {store.title}"
        if "nobrl" in found:
            yield hazard_rules.NO_LOCKS, _severity(database), f"nobrl on {store.title}"
        if SECRETS & found.keys() and store.host_mount is None:
            yield hazard_rules.PASSWORD, Severity.MEDIUM, f"the password of {store.title}"


def _nfs(store: StorageBehindMount, *, writable: bool, database: str) -> Iterator[Issue]:
    found = store.options
    soft = next((each for each in ("soft", "softerr") if each in found), None)
    if soft is not None:
        severity = Severity.HIGH if writable else Severity.LOW
        yield hazard_rules.SOFT, severity, f"{soft} on {store.title}"
    if "nolock" in found or found.get("local_lock", "none") != "none":
        option = "nolock" if "nolock" in found else f"local_lock={found['local_lock']}"
        yield hazard_rules.NO_LOCKS, _severity(database), f"{option} on {store.title}"
    version = nfs_version(store)
    if not version:
        yield hazard_rules.OLD_VERSION, Severity.MEDIUM, f"no version on {store.title}, so the kernel uses version 3"
    elif version[0] in "23":
        yield hazard_rules.OLD_VERSION, Severity.MEDIUM, f"version {version} on {store.title}"
    elif version == "4.0":
        yield hazard_rules.OLD_VERSION, Severity.LOW, f"version 4.0 on {store.title}"
    if "udp" in found or found.get("proto", "").startswith("udp"):
        yield hazard_rules.UDP, Severity.HIGH, f"UDP on {store.title}"


def _severity(database: str) -> Severity:
    return Severity.HIGH if database else Severity.MEDIUM


def _database(store: StorageBehindMount, database: str) -> Iterator[Issue]:
    if not database:
        return
    what = f"{database} files on {store.title}"
    if store.medium is not StorageMedium.NFS:
        yield hazard_rules.REMOTE_DATABASE, Severity.HIGH, f"{what} ({store.medium})"
    elif database == "SQLite":
        yield hazard_rules.REMOTE_DATABASE, Severity.HIGH, f"{what} (NFS)"
    elif any(rule is not hazard_rules.OLD_VERSION for rule, _, _ in _nfs(store, writable=True, database=database)):
        yield hazard_rules.REMOTE_DATABASE, Severity.HIGH, f"{what} (NFS with unsafe options)"
