"""Asks the engine and its host for the snapshot that an audit decides on. Changes nothing."""

import asyncio
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from gateway.audit.files import with_files
from gateway.audit.host import MOUNT_TABLE, parse_mounts
from gateway.audit.last_use import last_uses
from gateway.audit.model import Container, Mount, Snapshot, Volume
from gateway.docker.engine import Engine
from gateway.docker.own_id import mounted_id
from gateway.docker.trouble import EngineError, Kind
from gateway.text import one_line

_ANONYMOUS = "com.docker.volume.anonymous"
_PARALLEL = 8
_GATEWAY = "gateway"


@dataclass(frozen=True)
class Wanted:
    """What an audit is about, beside the engine.

    Args:
        forwards: Names of the gateway's backends by the port of their listener.
        socket: The path of the engine's socket; empty: it has none on this host.
        is_local: Whether the engine runs on this host.
        mounts: The mount table of the engine's host; None: this host's, if the engine is here.
        own: The name or ID of the gateway's container, as configured; None: not configured.
    """

    forwards: Mapping[int, str]
    socket: str = "/var/run/docker.sock"
    is_local: bool = True
    mounts: str | None = None
    own: str | None = None


async def take(engine: Engine, wanted: Wanted) -> Snapshot:
    """Return a snapshot.

    Args:
        engine: The engine.
        wanted: What the audit is about.

    Raises:
        EngineError: The engine cannot be asked.
    """
    unchecked: list[str] = []
    listed, volumes, info = await asyncio.gather(
        engine.get("containers/json", all="1", size="1"), _volumes(engine), _info(engine, unchecked)
    )
    images: dict[str, Mapping[str, Any]] = {}
    turns = asyncio.Semaphore(_PARALLEL)

    async def one(each: Mapping[str, Any]) -> Container | None:
        async with turns:
            return await _container(engine, each, images, wanted.own)

    containers = [each for each in await asyncio.gather(*map(one, listed)) if each is not None]
    uses, known = await last_uses(engine, {each.id: each.name for each in containers})
    if not known:
        unchecked.append("the engine's events cannot be read: what used a volume last is not known")
    volumes = {name: replace(each, last_use=uses.get(name, "")) for name, each in volumes.items()}
    is_here = wanted.is_local and not mounted_id()
    table = MOUNT_TABLE.read_text() if wanted.mounts is None and is_here else wanted.mounts
    found = Snapshot(
        tuple(containers), volumes, wanted.forwards, parse_mounts(table) if table is not None else None,
        client=engine.flavour.command, socket=wanted.socket,
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
        return replace(found, unchecked=tuple(unchecked))
    return await asyncio.to_thread(with_files, found, info, unchecked)


async def _info(engine: Engine, unchecked: list[str]) -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = await engine.get("info")
    except EngineError as trouble:
        if trouble.kind is not Kind.FORBIDDEN:
            raise
        unchecked.append("a proxy before the engine refuses /info: missing permissions are not found")
        return {}
    return found


async def _volumes(engine: Engine) -> dict[str, Volume]:
    answer, usage = await asyncio.gather(engine.get("volumes"), _usage(engine))
    found = {}
    for each in answer.get("Volumes") or ():
        name, labels = str(each["Name"]), each.get("Labels") or {}
        is_anonymous = _ANONYMOUS in labels or (len(name) == 64 and set(name) <= set("0123456789abcdef"))
        size = usage.get(name, -1)
        found[name] = Volume(
            one_line(name), str(each.get("Driver") or "local"), each.get("Options") or {}, labels, is_anonymous,
            str(each.get("Mountpoint") or ""), str(each.get("CreatedAt") or "")[:10], size if size >= 0 else None,
        )  # fmt: skip
    return found


async def _usage(engine: Engine) -> dict[str, int]:
    """Return the size of each volume; the engine gives -1, or nothing, where it does not know it."""
    try:
        answer = await engine.get("system/df", type="volume")
    except EngineError as trouble:
        if trouble.kind is Kind.UNREACHABLE:
            raise
        return {}
    return {
        str(each["Name"]): int((each.get("UsageData") or {}).get("Size", -1)) for each in answer.get("Volumes") or ()
    }


async def _container(
    engine: Engine, listed: Mapping[str, Any], images: dict[str, Mapping[str, Any]], own: str | None
) -> Container | None:
    layer = int(listed.get("SizeRw") or 0)
    try:
        inspection = await engine.get(f"containers/{listed['Id']}/json")
        changes = await _changes(engine, str(listed["Id"])) if layer else ()
    except EngineError as trouble:
        if trouble.kind is Kind.NOT_FOUND:  # removed since the list was made
            return None
        raise
    config, host = inspection.get("Config") or {}, inspection.get("HostConfig") or {}
    image = str(inspection.get("Image") or config.get("Image") or "")
    if image not in images:
        try:
            images[image] = (await engine.get(f"images/{image}/json")).get("Config") or {}
        except EngineError:  # removed, or hidden by a proxy
            images[image] = {}
    name = one_line(str(inspection["Name"]).lstrip("/"))
    tmpfs = (Mount("tmpfs", str(path)) for path in host.get("Tmpfs") or {})
    mounts = {each.path: each for each in (*tmpfs, *map(_mount, inspection.get("Mounts") or ()))}
    identity = str(listed["Id"])
    return Container(
        identity, name, str(config.get("Image") or ""),
        running=bool((inspection.get("State") or {}).get("Running")),
        removed=bool(host.get("AutoRemove")),
        mounts=tuple(mounts.values()),
        layer=layer,
        changes=changes,
        is_gateway=_is_gateway(identity, name, config, own),
        inspection=inspection,
        image_config=images[image],
    )  # fmt: skip


def _is_gateway(identity: str, name: str, config: Mapping[str, Any], own: str | None) -> bool:
    if (own and (own == name or identity.startswith(own))) or identity in mounted_id():
        return True
    words = [str(each) for each in (*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ()))]
    return any(posixpath.basename(each) == _GATEWAY for each in words[:1]) or words[1:3] == ["-m", _GATEWAY]


async def _changes(engine: Engine, identity: str) -> tuple[str, ...] | None:
    """Return the paths that a container added or changed; None: a proxy before the engine refuses the request."""
    try:
        found = await engine.get(f"containers/{identity}/changes")
    except EngineError as trouble:
        if trouble.kind in (Kind.UNREACHABLE, Kind.NOT_FOUND):
            raise
        return None
    removed = 2
    return tuple(str(each["Path"]) for each in found or () if each.get("Kind") != removed)


def _mount(found: Mapping[str, Any]) -> Mount:
    kind = str(found.get("Type") or "bind")
    path, source, writable = (
        str(found.get("Destination")),
        str(found.get("Source") or ""),
        bool(found.get("RW", True)),
    )
    if kind == "volume":
        return Mount("volume", path, source, str(found.get("Name") or ""), writable)
    return (
        Mount("tmpfs", path, writable=writable) if kind == "tmpfs" else Mount("bind", path, source, writable=writable)
    )
