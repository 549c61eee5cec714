"""Takes a snapshot of an engine and its host for an audit. The module changes nothing on the engine or the host."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gateway.audit.host_files import MOUNT_TABLE, parse_mounts
from gateway.audit.model import AuditedContainer, AuditedMount, AuditedVolume, AuditSnapshot
from gateway.audit.snapshot_files import with_files
from gateway.audit.volume_last_use import last_uses
from gateway.docker.engine import Engine
from gateway.docker.errors import EngineError, ErrorKind
from gateway.docker.own_container_id import mounted_id
from gateway.text import one_line

_ANONYMOUS = "com.docker.volume.anonymous"
_PARALLEL = 8
_COMPARING = 15.0
"""The timeout in seconds for all requests for changed files together."""
_REMOVED = 2
"""The value of `Kind`, in the engine's list of changes, for a removed file."""


@dataclass(frozen=True)
class AuditScope:
    """Defines what an audit examines in addition to the engine, and which objects belong to the gateway.

    Args:
        forwards: The name of the gateway's backend for each listener port.
        socket: The path of the engine's socket; empty if this host has no socket of the engine.
        is_local: Whether the engine runs on this host.
        mounts: The mount table of the engine's host; None to read the table of this host if the engine runs here.
        own: The IDs of the gateway's containers.
    """

    forwards: Mapping[int, str]
    socket: str = "/var/run/docker.sock"
    is_local: bool = True
    mounts: str | None = None
    own: frozenset[str] = frozenset()


async def take_snapshot(engine: Engine, scope: AuditScope) -> AuditSnapshot:
    """Query the engine, read files of its host, and return the snapshot.

    Args:
        engine: The engine.
        scope: What the audit examines.

    Raises:
        EngineError: A required request failed.
    """
    unchecked: list[str] = []
    listed, volume_list, usage, info = await asyncio.gather(
        engine.get("containers/json", all="1", size="1"),
        _unless_refused(engine, "volumes"),
        _unless_refused(engine, "system/df", type="volume"),
        _unless_refused(engine, "info"),
    )
    for answer, path, missing in (
        (volume_list, "/volumes", "options of volumes, and volumes that no container uses"),
        (usage, "/system/df", "sizes of volumes"),
        (info, "/info", "missing permissions"),
    ):
        if answer is None:
            unchecked.append(f"the engine, or a proxy before it, refuses {path}: {missing} are not found")
    images: dict[str, Mapping[str, Any] | None] = {}
    turns = asyncio.Semaphore(_PARALLEL)

    async def one(each: Mapping[str, Any]) -> AuditedContainer | None:
        async with turns:
            return await _container(engine, each, images, scope.own)

    containers = [each for each in await asyncio.gather(*map(one, listed)) if each is not None]
    uses, known = await last_uses(engine, {each.id: each.name for each in containers})
    if not known:
        unchecked.append("the engine's events cannot be read: the last use of each volume is not known")
    volumes = {
        each.name: replace(each, last_use=uses.get(each.name, ""))
        for each in _volumes(volume_list or {}, usage or {})
    }
    # The engine behind a local socket can run in a virtual machine, as in Docker Desktop, or on another host.
    is_here = scope.is_local and not mounted_id() and (info or {}).get("Name") == socket.gethostname()
    table = MOUNT_TABLE.read_text() if scope.mounts is None and is_here else scope.mounts
    found = AuditSnapshot(
        tuple(containers), volumes, scope.forwards, parse_mounts(table) if table is not None else None,
        client=engine.flavor.command, socket=scope.socket,
        cgroup_mode="host" if (info or {}).get("CgroupVersion") == "1" else "private",
    )  # fmt: skip
    if table is None:
        unchecked.append(
            "the engine runs on another host or outside of this container: network mounts below binds are not found; "
            "--mount-table takes a copy of the host's /proc/self/mountinfo"
        )
    if not is_here:
        unchecked.append(
            "the host's files cannot be read: databases are recognized by image and path only; hidden files, "
            "replaced files and missing permissions are not found"
        )
    else:
        found = await asyncio.to_thread(with_files, found, info or {}, unchecked)
    complete = await _with_changes(engine, found.containers, unchecked)
    return replace(found, containers=complete, unchecked=tuple(unchecked))


async def _with_changes(
    engine: Engine, containers: tuple[AuditedContainer, ...], unchecked: list[str]
) -> tuple[AuditedContainer, ...]:
    """Request the changed files of those containers whose layers this process cannot read.

    The engine compares a layer with the whole image. This takes seconds for a large image, so there is a timeout.
    """
    changes: dict[str, Mapping[str, int]] = {}
    waiting = sorted((each for each in containers if each.changes is None), key=lambda each: each.layer, reverse=True)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_COMPARING):
            for each in waiting:
                found = await _unless_refused(engine, f"containers/{each.id}/changes")
                if found is not None:
                    changes[each.id] = {str(one["Path"]): 1 for one in found if one["Kind"] != _REMOVED}
    if len(changes) < len(waiting):
        unchecked.append(
            f"the changed files of {len(waiting) - len(changes)} containers are not known: databases in their layers "
            "are not found"
        )
    return tuple(replace(each, changes=changes.get(each.id, each.changes)) for each in containers)


async def _unless_refused(engine: Engine, path: str, **params: Any) -> Any:
    """Return the response to a GET; None if a proxy refuses the request or the engine does not support it."""
    try:
        return await engine.get(path, **params)
    except EngineError as error:
        if error.kind in (ErrorKind.UNREACHABLE, ErrorKind.TIMEOUT):
            raise
        return None


def _volumes(listed: Mapping[str, Any], usage: Mapping[str, Any]) -> Iterator[AuditedVolume]:
    # If the engine has not determined the size, it reports -1 or omits the size.
    sizes = {
        str(each["Name"]): int((each.get("UsageData") or {}).get("Size", -1)) for each in usage.get("Volumes") or ()
    }
    for each in listed.get("Volumes") or ():
        name, labels = str(each["Name"]), each.get("Labels") or {}
        is_anonymous = _ANONYMOUS in labels or (len(name) == 64 and set(name) <= set("0123456789abcdef"))
        size = sizes.get(name, -1)
        yield AuditedVolume(
            one_line(name), str(each.get("Driver") or "local"), each.get("Options") or {}, labels, is_anonymous,
            str(each.get("Mountpoint") or ""), str(each.get("CreatedAt") or "")[:10], size if size >= 0 else None,
        )  # fmt: skip


async def _container(
    engine: Engine, listed: Mapping[str, Any], images: dict[str, Mapping[str, Any] | None], own: frozenset[str]
) -> AuditedContainer | None:
    layer = int(listed.get("SizeRw") or 0)
    try:
        inspection = await engine.get(f"containers/{listed['Id']}/json")
    except EngineError as error:
        if error.kind is ErrorKind.NOT_FOUND:  # the container was removed after the engine listed it
            return None
        raise
    config, host = inspection.get("Config") or {}, inspection.get("HostConfig") or {}
    image = str(inspection.get("Image") or config.get("Image") or "")
    if image not in images:
        found = await _unless_refused(engine, f"images/{image}/json")
        images[image] = (found.get("Config") or {}) if found is not None else None
    name = one_line(str(inspection["Name"]).lstrip("/"))
    tmpfs = (AuditedMount("tmpfs", str(path)) for path in host.get("Tmpfs") or {})
    mounts = {each.path: each for each in (*tmpfs, *map(_mount, inspection.get("Mounts") or ()))}
    identity = str(listed["Id"])
    return AuditedContainer(
        identity, name, str(config.get("Image") or ""),
        running=bool((inspection.get("State") or {}).get("Running")),
        removed=bool(host.get("AutoRemove")),
        mounts=tuple(mounts.values()),
        layer=layer,
        changes=None if layer else {},
        is_own=identity in own,
        inspection=inspection,
        image_config=images[image],
    )  # fmt: skip


def _mount(found: Mapping[str, Any]) -> AuditedMount:
    kind, path, source = str(found.get("Type")), str(found.get("Destination")), str(found.get("Source") or "")
    writable = bool(found.get("RW", True))
    if kind == "volume":
        return AuditedMount("volume", path, source, str(found.get("Name") or ""), writable)
    if kind == "tmpfs":
        return AuditedMount("tmpfs", path, writable=writable)
    return AuditedMount("bind", path, source, writable=writable)
