"""Finds the reasons why it is not safe to recreate a container with commands, for example data that would be lost.

Does no I/O.
"""

from collections.abc import Iterator

from gateway.audit.proposed_mount_changes import ProposedMountChanges
from gateway.audit.snapshot_model import AuditedContainer, AuditedMount, AuditSnapshot
from gateway.audit.storage_behind_mount import StorageBehindMount, is_below, store_of

_NAMESPACES = ("NetworkMode", "PidMode", "IpcMode")
"""Keys of `HostConfig` whose value `container:ID` makes a container use a namespace of another container."""


def obstacles(snapshot: AuditSnapshot, container: AuditedContainer, change: ProposedMountChanges) -> list[str]:
    """Return the reasons why commands cannot replace the container safely; empty if there are none.

    Args:
        snapshot: The snapshot, which also contains the other containers.
        container: The container to replace.
        change: The changes to the mounts.
    """
    return [
        *_owners(snapshot, change), *_nested(container, change), *_shared(snapshot, container, change),
        *_dependants(snapshot, container), *_linked(snapshot, container),
    ]  # fmt: skip


def _owners(snapshot: AuditSnapshot, change: ProposedMountChanges) -> Iterator[str]:
    if change.copied and snapshot.cli == "podman":
        yield "podman cp does not keep the owners of files: copy the files as root, with a program that keeps owners"


def _nested(container: AuditedContainer, change: ProposedMountChanges) -> Iterator[str]:
    """Yield an obstacle for each mount above or below a copied path.

    A copy would mix the files of the two paths.
    """
    for path in change.copied:
        for mount in container.mounts:
            if mount.path != path and (is_below(mount.path, path) or is_below(path, mount.path)):
                inner, outer = (mount.path, path) if is_below(mount.path, path) else (path, mount.path)
                yield f"{inner} is mounted below {outer}, and a copy would mix the files of both"


def _shared(snapshot: AuditSnapshot, container: AuditedContainer, change: ProposedMountChanges) -> Iterator[str]:
    """Yield an obstacle for each copied path whose data other containers also use.

    After the copy, the other containers would still use the old data.
    """
    stores = {each.path: store_of(snapshot, each) for each in container.mounts}
    for path in change.copied:
        store = stores.get(path)
        if store is None:
            continue
        names = sorted(
            other.name
            for other in _others(snapshot, container)
            if any(
                _is_same(store, store_of(snapshot, each)) and not _reads_all_volumes(snapshot, each)
                for each in other.mounts
            )
        )
        if names:
            yield f"{', '.join(names)} also {'uses' if len(names) == 1 else 'use'} the data of {path}"


def _reads_all_volumes(snapshot: AuditSnapshot, mount: AuditedMount) -> bool:
    """Return whether a mount is a read-only bind mount that contains the engine's volume directory.

    Such a mount is not an obstacle, because it also contains the new volume to which the fix copies the data.
    """
    return not mount.writable and mount.kind == "bind" and is_below(snapshot.volume_directory, mount.source)


def _is_same(one: StorageBehindMount, other: StorageBehindMount) -> bool:
    """Return whether two mounts store the same data, or the directory of one contains the directory of the other."""
    if one.identity and one.identity == other.identity:
        return True
    first, second = one.host_path, other.host_path
    return bool(first and second) and (is_below(first, second) or is_below(second, first))


def _dependants(snapshot: AuditSnapshot, container: AuditedContainer) -> Iterator[str]:
    """Yield an obstacle if other containers use a namespace of the container.

    The namespace ends when the container is replaced.
    """
    names = sorted(
        other.name
        for other in _others(snapshot, container)
        if any(
            _refers(str((other.inspection.get("HostConfig") or {}).get(key, "")), container) for key in _NAMESPACES
        )
    )
    if names:
        verb = "uses" if len(names) == 1 else "use"
        yield f"{', '.join(names)} {verb} a namespace of {container.name}, which ends when the container is replaced"


def _linked(snapshot: AuditSnapshot, container: AuditedContainer) -> Iterator[str]:
    """Yield an obstacle if other containers have a legacy link (`--link`) to the container.

    The link would still refer to the old, renamed container, and not to the new one.
    """
    names = sorted(
        {
            other.name
            for other in _others(snapshot, container)
            for link in (other.inspection.get("HostConfig") or {}).get("Links") or ()
            if str(link).partition(":")[0].lstrip("/") == container.name
        }
    )
    if names:
        yield f"{', '.join(names)} {'has' if len(names) == 1 else 'have'} a link (--link) to the old {container.name}"


def _refers(mode: str, container: AuditedContainer) -> bool:
    kind, _, target = mode.partition(":")
    return kind == "container" and bool(target) and (target == container.name or container.id.startswith(target))


def _others(snapshot: AuditSnapshot, container: AuditedContainer) -> Iterator[AuditedContainer]:
    return (each for each in snapshot.containers if each.id != container.id and not each.is_former_task)
