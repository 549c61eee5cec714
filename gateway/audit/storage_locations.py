"""Lists where each container stores data, and what can delete this data. Does no I/O."""

from collections.abc import Iterator

from gateway.audit.report import StorageLocation
from gateway.audit.snapshot_model import AuditedContainer, AuditedMount, AuditSnapshot
from gateway.audit.storage_behind_mount import (
    StorageBehindMount,
    StorageMedium,
    as_bind,
    is_below,
    memory_of_engine,
    store_of,
)
from gateway.text_sanitizer import format_bytes

EMPTIED_AT_BOOT = ("/tmp", "/run", "/var/run", "/dev/shm")  # noqa: S108 - only compared with the sources of mounts
"""Directories whose content many hosts delete at boot."""
VOLATILE = (
    "/tmp", "/run", "/var/run", "/var/cache", "/var/tmp", "/var/log", "/dev", "/proc", "/sys", "/root/.cache",  # noqa: S108
)  # fmt: skip
"""Directories of a container that usually contain only temporary data."""


def places(snapshot: AuditSnapshot) -> Iterator[StorageLocation]:
    """Yield the storage locations of each container's data, sorted by container and path."""
    for container in sorted(snapshot.containers, key=lambda each: each.name):
        if container.layer:
            how = "the container's stop (--rm)" if container.removed else "docker rm, compose up with a new image"
            size = f"writable layer, {format_bytes(container.layer)}"
            yield StorageLocation(container.name, "/", "rw", "layer", size, how)
        for mount in sorted(container.mounts, key=lambda each: each.path):
            yield _place(snapshot, container, mount)


def _place(snapshot: AuditSnapshot, container: AuditedContainer, mount: AuditedMount) -> StorageLocation:
    store = store_of(snapshot, mount)
    kind, lost_by = _kind_and_loss(snapshot, container, as_bind(snapshot, mount), store)
    return StorageLocation(container.name, mount.path, "rw" if mount.writable else "ro", kind, store.title, lost_by)


def _kind_and_loss(
    snapshot: AuditSnapshot, container: AuditedContainer, mount: AuditedMount, store: StorageBehindMount
) -> tuple[str, str]:
    if mount.kind == "tmpfs":
        return "tmpfs", "the container's next stop"
    if store.medium.is_network:
        server = (
            "a failure of the FUSE program or its server"
            if store.medium is StorageMedium.FUSE
            else "a failure of the server's disk"
        )
        return f"network {mount.kind}", f"{server}, but not by Docker commands"
    volume = snapshot.volumes.get(mount.volume)
    if mount.kind == "bind" or volume is None:
        if store.medium is StorageMedium.MEMORY or any(is_below(mount.source, each) for each in EMPTIED_AT_BOOT):
            return "bind", "the host's next boot"
        return "bind", "rm on the host, a failure of the host's disk"
    if store.medium is StorageMedium.MEMORY:
        return "volume", "the stop of the last container that uses it"
    if volume.anonymous:
        if container.removed:
            return "anonymous volume", "the container's stop (--rm)"
        return (
            "anonymous volume",
            "docker rm -v, docker volume prune; after docker rm, docker run mounts a new, empty volume",
        )
    if volume.driver != "local":
        return "volume", "docker volume rm, actions of the volume driver"
    end = "a failure of the host's disk" if memory_of_engine(snapshot) is None else "the host's next boot"
    return "volume", f"docker volume rm, compose down -v, {end}"
