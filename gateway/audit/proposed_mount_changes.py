"""Defines changes to a container's mounts, and converts the new mounts to `docker create` options. Does no I/O."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.audit.snapshot_model import AuditedContainer, AuditedMount


@dataclass(frozen=True)
class ProposedMountChanges:
    """Changes to a container's mounts: new sources, removed mounts, read-only mounts, and data to copy.

    Args:
        mounts: The new source (a volume's name, or a path on the host) for each path inside the container.
        dropped: Paths of the mounts that the new container does not have.
        read_only: Paths that the new container mounts read-only.
        copied: Paths of directories whose content the fix copies from the old container to the new mount.
        vanishes: Whether the content of the paths in `copied` is lost when the container stops.
        driver_options: Options of `docker volume create` for the new volumes.
        setup: Commands to run before the changes.
    """

    mounts: Mapping[str, str] = field(default_factory=dict)
    dropped: frozenset[str] = frozenset()
    read_only: frozenset[str] = frozenset()
    copied: tuple[str, ...] = ()
    vanishes: bool = False
    driver_options: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()


def unmounted_paths(change: ProposedMountChanges) -> set[str]:
    """Return the paths of the mounts that the change removes or replaces."""
    return {*change.mounts, *change.dropped}


def new_volumes(change: ProposedMountChanges) -> list[str]:
    """Return the names of the volumes that the change mounts."""
    return sorted({each for each in change.mounts.values() if not each.startswith("/")})


def volume_options(container: AuditedContainer, change: ProposedMountChanges) -> list[str]:
    """Return the options of `docker create` for the mounts that a container has after the change."""
    given = tmpfs_options(container)
    found: list[str] = []
    for mount in container.mounts:
        if mount.kind == "tmpfs" and mount.path not in unmounted_paths(change):
            found += ["--tmpfs", f"{mount.path}{given.get(mount.path, '')}"]
    return [*found, *(argument for each in short_mounts(container, change) for argument in ("-v", each))]


def short_mounts(container: AuditedContainer, change: ProposedMountChanges) -> Iterator[str]:
    """Yield each mount that a container has after the change, in the syntax of `-v`. Omit tmpfs mounts."""
    given = _given_options(container)
    for mount in container.mounts:
        if mount.kind != "tmpfs" and mount.path not in unmounted_paths(change):
            yield _short(mount.volume or mount.source, mount, given.get(mount.path, ()), change)
    for path, source in change.mounts.items():
        yield _short(source, AuditedMount("volume", path), (), change)


def _short(source: str, mount: AuditedMount, given: Iterable[str], change: ProposedMountChanges) -> str:
    more = [each for each in given if each not in ("ro", "rw")]
    if mount.path in change.read_only or not mount.writable:
        more.insert(0, "ro")
    return ":".join((source, mount.path, *([",".join(more)] if more else [])))


def tmpfs_options(container: AuditedContainer) -> dict[str, str]:
    """Return the options of each tmpfs by its path, in the syntax of `--tmpfs`, such as `:size=1g`."""
    host = container.inspection.get("HostConfig") or {}
    found = {str(path): str(options) for path, options in (host.get("Tmpfs") or {}).items()}
    for mount in given_mounts(container, "tmpfs"):
        options = mount.get("TmpfsOptions") or {}
        size, mode = options.get("SizeBytes"), options.get("Mode")
        words = ([f"size={size}"] if size else []) + ([f"mode={mode:o}"] if mode else [])
        found[str(mount.get("Target"))] = ",".join(words)
    return {path: f":{options}" if options else "" for path, options in found.items()}


def possible_secret_paths(container: AuditedContainer, *, overridden: bool) -> set[str]:
    """Return the paths of all mounts that Compose possibly created from `secrets` or `configs`.

    Compose creates read-only bind mounts from these two lists. The engine does not report which mounts these are, so
    the result can contain other read-only bind mounts.

    Args:
        container: The container.
        overridden: Whether Compose created the container with an override file that an earlier fix proposed. Such a
            file can list the mounts of `secrets` and `configs` under `volumes`. Therefore, if true, the function
            returns all read-only bind mounts.
    """
    if overridden:
        return {each.path for each in container.mounts if each.kind == "bind" and not each.writable}
    return {str(each.get("Target")) for each in given_mounts(container, "bind") if each.get("ReadOnly")}


def needs_long_syntax(container: AuditedContainer) -> bool:
    """Return whether a mount has options that the short syntax of `-v` cannot express."""
    return any(
        (each.get("VolumeOptions") or {}).get("Subpath") or (each.get("BindOptions") or {}).get("NonRecursive")
        for each in given_mounts(container, "bind", "volume")
    )


def _given_options(container: AuditedContainer) -> dict[str, list[str]]:
    """Return the options of each bind or volume mount by its path, in the syntax of `-v`, such as `ro`."""
    found = {}
    for bind in (container.inspection.get("HostConfig") or {}).get("Binds") or ():
        parts = str(bind).split(":")
        if len(parts) == 3:
            found[parts[1]] = parts[2].split(",")
    for mount in given_mounts(container, "bind", "volume"):
        propagation = (mount.get("BindOptions") or {}).get("Propagation")
        no_copy = (mount.get("VolumeOptions") or {}).get("NoCopy")
        options = [*([str(propagation)] if propagation else []), *(["nocopy"] if no_copy else [])]
        found[str(mount.get("Target"))] = options
    return found


def given_mounts(container: AuditedContainer, *kinds: str) -> Iterator[Mapping[str, Any]]:
    """Return the mounts of certain kinds that a container was created with, as in the engine's API."""
    mounts = (container.inspection.get("HostConfig") or {}).get("Mounts") or ()
    return (each for each in mounts if each.get("Type") in kinds)
