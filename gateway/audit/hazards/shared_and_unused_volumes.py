"""Finds volumes and host directories that several containers write to, and unused volumes. Does no I/O."""

from collections.abc import Iterator

from gateway.audit import hazard_rules
from gateway.audit.data_copy_commands import END, on_exit
from gateway.audit.hazards.finding_builders import database_in, mounts, on_container
from gateway.audit.hazards.host_directories import below_any
from gateway.audit.proposed_mount_changes import ProposedMountChanges
from gateway.audit.report import Finding, Severity
from gateway.audit.shell_command_builder import NEW_FILES, command, script
from gateway.audit.snapshot_model import AuditedContainer, AuditedMount, AuditedVolume, AuditSnapshot
from gateway.audit.storage_behind_mount import StorageBehindMount, StorageMedium, of_volume
from gateway.text_sanitizer import format_bytes, one_line


def find(snapshot: AuditSnapshot) -> Iterator[Finding]:
    """Yield a finding for each volume or host directory with several writers, and for each unused volume."""
    yield from _writers(snapshot)
    used = {mount.volume for container in snapshot.containers for mount in container.mounts}
    for volume in snapshot.volumes.values():
        # Ignore a volume that mounts a network file system: its data is not on this host.
        if volume.name not in used and not of_volume(snapshot, volume).medium.is_network:
            yield _unused(snapshot, volume)


def _writers(snapshot: AuditSnapshot) -> Iterator[Finding]:
    groups: dict[str, list[tuple[AuditedContainer, AuditedMount, StorageBehindMount]]] = {}
    for container, mount, store in mounts(snapshot):
        if mount.writable and mount.kind != "tmpfs" and _holds_data(snapshot, mount, store):
            groups.setdefault(store.identity, []).append((container, mount, store))
    for group in groups.values():
        names = sorted({container.name for container, _, _ in group})
        services = {container.service or container.name for container, _, _ in group}
        database = next(filter(None, (database_in(snapshot, *each) for each in group)), "")
        # Do not report the replicas of a single service: most programs, except databases, can share files among their
        # replicas.
        if len(names) < 2 or (len(services) < 2 and not database):
            continue
        running = len({container.name for container, _, _ in group if container.running})
        severity = Severity.LOW if running < 2 else (Severity.HIGH if database else Severity.MEDIUM)
        store = group[0][2]
        content = f" ({database} files)" if database else ""
        # The fix changes the newest container, because it was probably added to an existing setup.
        container, mount, _ = max(group, key=lambda each: str(each[0].inspection.get("Created", "")))
        what = f"{', '.join(names)} write to {store.title}{content}"
        fix: str | ProposedMountChanges = ProposedMountChanges(read_only=frozenset({mount.path}))
        if running < 2:
            # The newest container can be the only one that runs, so its mount must not become read-only.
            stopped = sorted({each.name for each, _, _ in group if not each.running})
            fix = f"# remove the stopped containers that are not needed: {', '.join(map(one_line, stopped))}"
        elif len(services) < 2:
            fix = f"# run one container of {one_line(container.service)}, or give each container its own volume"
        yield on_container(snapshot, hazard_rules.WRITERS, severity, container, mount.path, what, fix)


def _holds_data(snapshot: AuditSnapshot, mount: AuditedMount, store: StorageBehindMount) -> bool:
    if store.medium is StorageMedium.MEMORY:
        return False
    found = snapshot.paths.get(mount.source)
    system = below_any(mount.source, ("/dev", "/proc", "/sys", "/run", "/var/run", "/etc/localtime"))
    return not system and mount.source != "/" and (found is None or found.kind == "directory")


def _unused(snapshot: AuditSnapshot, volume: AuditedVolume) -> Finding:
    listed = snapshot.paths.get(of_volume(snapshot, volume).host_path)
    database = listed.database if listed is not None else ""
    size = "size unknown" if volume.size is None else format_bytes(volume.size)
    use = volume.last_use or (f"created {volume.created}" if volume.created else "")
    severity = Severity.MEDIUM if database else Severity.LOW
    parts = [size, f"{database} files" if database else "", use]
    what = f"no container uses {volume.name} ({', '.join(filter(None, parts))})"
    remove = command(snapshot.cli, "volume", "rm", volume.name)
    fix = remove if volume.size == 0 else _save_and_remove(snapshot, volume, remove)
    return Finding(hazard_rules.UNUSED, severity, volume.name, "", one_line(what), fix)


def _save_and_remove(snapshot: AuditSnapshot, volume: AuditedVolume, remove: str) -> str:
    archive = command(f"{volume.name}.tar")
    if snapshot.cli == "podman":  # `podman cp` does not keep the owners of files, unlike `podman volume export`
        return script(NEW_FILES, f"{command('podman', 'volume', 'export', volume.name)} > {archive}", remove)
    image = next((each.exact_image for each in snapshot.containers if each.exact_image), "busybox")
    helper = f"save-{volume.name[:20]}"
    create = command(snapshot.cli, "create", "--name", helper, "-v", f"{volume.name}:/volume:ro", image, "none")
    copy = command(snapshot.cli, "cp", "-a", f"{helper}:/volume/.", "-")
    end = command(snapshot.cli, "rm", "-v", helper)
    return script(create, on_exit(end), NEW_FILES, f"{copy} > {archive}", END, end, remove)
