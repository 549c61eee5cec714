"""Reads files of the engine's host, and adds the results to a snapshot."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gateway.audit import layer_data
from gateway.audit.engine_host_files import EngineHostFiles, stale_files
from gateway.audit.host_filesystem_model import HostPath
from gateway.audit.image_layer_files import changes, image_names, user_of
from gateway.audit.process_permissions import ignores_permissions, user_of_process
from gateway.audit.snapshot_model import AuditedContainer, AuditedMount, AuditSnapshot, ContainerProcessUser
from gateway.audit.storage_behind_mount import bound_directory, is_below, of_volume
from gateway.audit.storage_locations import VOLATILE
from gateway.text_sanitizer import one_line

_READING = 1.5
"""The maximum total time to read all directories, in seconds."""
_NAMED = 5
"""The maximum number of directories that one message lists."""


def with_files(snapshot: AuditSnapshot, info: Mapping[str, Any], unchecked: list[str]) -> AuditSnapshot:
    """Return a copy of the snapshot with data from this host's files. Blocks while it reads them.

    Args:
        snapshot: The data that the engine reported.
        info: The engine's response to `/info`.
        unchecked: Messages about data that the audit could not read. The function appends to this list.
    """
    host = EngineHostFiles(snapshot.mounts_by_point, time.monotonic() + _READING)
    volumes = {
        name: replace(each, options={**each.options, "device": host.resolve(each.options["device"])})
        if bound_directory(each)
        else each
        for name, each in snapshot.volumes.items()
    }
    maps_users = any("userns" in str(each) or "rootless" in str(each) for each in info.get("SecurityOptions") or ())
    if maps_users:
        unchecked.append(
            "the engine maps containers' users to other users of the host: the audit cannot find mounts to which a"
            " container's user cannot write"
        )
    knows_users = bool(info) and not maps_users
    paths: dict[str, HostPath] = {}
    volume_paths = [of_volume(snapshot, each).host_path for each in volumes.values()]
    sources = [
        host.resolve(mount.source) for each in snapshot.containers for mount in each.mounts if mount.kind == "bind"
    ]
    unread = 0
    for path in filter(None, dict.fromkeys((*volume_paths, *sources))):
        if (found := host.inspect(path)) is not None:
            paths[path] = found
        is_unread = found is None or (found.kind == "directory" and found.entries is None)
        unread += host.is_local(path) and is_unread and path not in host.truncated
    hidden_layers = False
    containers = []
    for each in snapshot.containers:
        layers = _layers(each)
        hidden_layers |= not layers or not host.is_local(layers[0])
        containers.append(_container_files(host, each, layers, paths, snapshot, knows_users=knows_users))
    if hidden_layers:
        unchecked.append("the layers of some images cannot be read: the audit cannot find files that a mount hides")
    if host.is_late:
        unchecked.append(
            f"the audit stopped reading files after {_READING:g} s: databases and keys in mounted directories, and "
            "databases in layers and /dev/shm, may be missing from the report"
        )
    elif unread:
        unchecked.append(
            f"{unread} mounted paths do not exist or cannot be read by this user: their content is not known"
        )
    if host.truncated:
        named = ", ".join(map(one_line, host.truncated[:_NAMED]))
        more = f" and {len(host.truncated) - _NAMED} more" if len(host.truncated) > _NAMED else ""
        unchecked.append(f"too many files in {named}{more}: databases and keys there may be missing from the report")
    return replace(snapshot, containers=tuple(containers), volumes=volumes, paths=paths, unchecked=tuple(unchecked))


def _layers(container: AuditedContainer) -> list[str]:
    """Return the directories of a container's layers, uppermost first; empty if the engine does not report them."""
    data = (container.inspection.get("GraphDriver") or {}).get("Data") or {}
    return [each for each in (data.get("UpperDir"), *str(data.get("LowerDir") or "").split(":")) if each]


def _container_files(
    host: EngineHostFiles, container: AuditedContainer, layers: list[str], paths: Mapping[str, HostPath],
    snapshot: AuditSnapshot, *, knows_users: bool,
) -> AuditedContainer:  # fmt: skip
    pid = int((container.inspection.get("State") or {}).get("Pid") or 0)
    try:
        stale = stale_files(Path(f"/proc/{pid}/mountinfo").read_text(errors="surrogateescape")) if pid else set()
    except OSError:
        stale = set()
    changed = container.changes
    if changed is None and layers:
        changed = changes(host, layers[0], f"the layer of {container.name}")
    image = [each for each in layers[1:] if not each.endswith("-init/diff")]
    directory = layer_data.find(changed or {}, [each.path for each in container.mounts]).directory
    in_image = bool(directory) and image_names(host, image, directory) != set()
    mounts = []
    for mount in container.mounts:
        source = host.resolve(mount.source) if mount.kind == "bind" else mount.source
        resolved = replace(mount, source=source, is_stale=mount.path in stale)
        mounts.append(replace(resolved, hides=_hidden(host, resolved, image, paths, snapshot)))
    user = _process_user(host, container, layers, pid) if knows_users else None
    shared = ""
    if pid and not _mounts_shared(container):
        shared = host.database_below(f"/proc/{pid}/root/dev/shm", f"shared memory of {container.name}")
    layer = container.layer or sum((changed or {}).values())
    return replace(
        container, mounts=tuple(mounts), layer=layer, changes=changed, image_has_layer_directory=in_image, user=user,
        shared_memory=shared,
    )  # fmt: skip


def _process_user(
    host: EngineHostFiles, container: AuditedContainer, layers: list[str], pid: int
) -> ContainerProcessUser | None:
    """Return the user of a container's main process; of a stopped container, the user with which it starts.

    The two can differ, because many entrypoints start as root and then switch to another user. Return None if the
    user is not known.
    """
    config, given = container.inspection.get("Config") or {}, container.inspection.get("HostConfig") or {}
    user = user_of(host, layers, str(config.get("User") or ""), given.get("GroupAdd") or ())
    if pid:
        try:
            current = user_of_process(Path(f"/proc/{pid}/status").read_text(errors="replace"))
        except OSError:
            return None
        is_configured = user is not None and current is not None and user.uid == current.uid
        return replace(current, is_configured=is_configured) if current is not None else None
    if user is not None and user.uid == 0:
        user = replace(user, ignores_permissions=ignores_permissions(given))
    return user


def _mounts_shared(container: AuditedContainer) -> bool:
    return any(is_below(each.path, "/dev") for each in container.mounts)


def _hidden(
    host: EngineHostFiles,
    mount: AuditedMount,
    image: Iterable[str],
    paths: Mapping[str, HostPath],
    snapshot: AuditSnapshot,
) -> tuple[str, ...]:
    names = set() if mount.path in VOLATILE else image_names(host, image, mount.path)
    if not names:
        return ()
    volume = snapshot.volumes.get(mount.volume)
    place = of_volume(snapshot, volume).host_path if volume is not None else mount.source
    there = paths.get(place)
    if mount.kind == "tmpfs":
        return tuple(sorted(names))
    return tuple(sorted(names - there.entries)) if there is not None and there.entries is not None else ()
