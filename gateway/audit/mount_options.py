"""Applies changes to a container's mounts, and converts the result to options of `docker create`. Does no I/O."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from gateway.audit.model import AuditedContainer, AuditedMount


@dataclass(frozen=True)
class MountOptionChange:
    """The differences between the mounts of the old container and of the new one.

    Args:
        mounts: New sources (a volume's name, or a path of the host) by the path inside the container.
        dropped: Paths of the mounts that the new container does not have.
        read_only: Paths that the new container mounts read-only.
        copied: Paths of directories whose content the fix copies from the old container to the new mount.
        vanishes: Whether the copied content is lost when the container stops.
    """

    mounts: Mapping[str, str] = field(default_factory=dict)
    dropped: frozenset[str] = frozenset()
    read_only: frozenset[str] = frozenset()
    copied: tuple[str, ...] = ()
    vanishes: bool = False


def unmounted_paths(change: MountOptionChange) -> set[str]:
    """Return the paths of the mounts that are removed or replaced."""
    return {*change.mounts, *change.dropped}


def volume_options(container: AuditedContainer, change: MountOptionChange) -> list[str]:
    """Return the options of `docker create` for a container's mounts."""
    host = container.inspection.get("HostConfig") or {}
    tmpfs: Mapping[str, str] = host.get("Tmpfs") or {}
    found: list[str] = []
    for mount in container.mounts:
        if mount.kind == "tmpfs" and mount.path not in unmounted_paths(change):
            more = tmpfs.get(mount.path, "")
            found += ["--tmpfs", f"{mount.path}:{more}" if more else mount.path]
    return [*found, *(argument for each in short_mounts(container, change) for argument in ("-v", each))]


def short_mounts(container: AuditedContainer, change: MountOptionChange) -> Iterator[str]:
    """Yield the mounts in the short syntax of `-v` and Compose."""
    given = _given_options(container)
    for mount in container.mounts:
        if mount.kind != "tmpfs" and mount.path not in unmounted_paths(change):
            yield _short(mount.volume or mount.source, mount, given.get(mount.path, ()), change)
    for path, source in change.mounts.items():
        yield _short(source, AuditedMount("volume", path), (), change)


def _short(source: str, mount: AuditedMount, given: Iterable[str], change: MountOptionChange) -> str:
    more = [each for each in given if each not in ("ro", "rw")]
    if mount.path in change.read_only or not mount.writable:
        more.insert(0, "ro")
    return ":".join((source, mount.path, *([",".join(more)] if more else [])))


def _given_options(container: AuditedContainer) -> dict[str, list[str]]:
    """Return the options that follow the path in each `-v` value of a container, by path."""
    found = {}
    for bind in (container.inspection.get("HostConfig") or {}).get("Binds") or ():
        parts = str(bind).split(":")
        if len(parts) == 3:
            found[parts[1]] = parts[2].split(",")
    return found
