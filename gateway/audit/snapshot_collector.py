"""Takes a snapshot of an engine and its host for an audit. Changes nothing on the engine or the host."""

import asyncio
import contextlib
import posixpath
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gateway.audit import layer_data
from gateway.audit.engine_host_files import MOUNT_TABLE, parse_mounts
from gateway.audit.engine_responses import container_of, volumes_of
from gateway.audit.host_snapshot_collector import with_files
from gateway.audit.snapshot_model import AuditedContainer, AuditSnapshot
from gateway.audit.volume_last_use import last_uses
from gateway.docker.engine_client import EngineClient
from gateway.docker.errors import EngineError, EngineErrorKind
from gateway.docker.own_container_id import mounted_id
from gateway.text_sanitizer import one_line

_PARALLEL = 8
_COMPARING = 15.0
"""The maximum total time, in seconds, of all requests for the changed files of containers."""
_MODIFIED, _REMOVED = 0, 2
"""Values of `Kind` in the engine's list of changes. A directory that is also in the image is modified, even if it is
empty in the image."""


@dataclass(frozen=True)
class AuditScope:
    """Information that the audit needs and that the engine does not report.

    Args:
        forwards: For each port on which the gateway listens, the name of the backend.
        socket: The path of the engine's socket; empty if this host has no socket of the engine.
        is_local: Whether the configured address of the engine is on this host.
        mounts: The mount table of the engine's host. None: the audit reads /proc/self/mountinfo if the engine
            runs on this host.
        own: The IDs of the gateway's containers.
    """

    forwards: Mapping[int, str]
    socket: str = "/var/run/docker.sock"
    is_local: bool = True
    mounts: str | None = None
    own: frozenset[str] = frozenset()


async def take_snapshot(engine: EngineClient, scope: AuditScope) -> AuditSnapshot:
    """Query the engine, read files of its host, and return the snapshot.

    Args:
        engine: The engine.
        scope: Information that the audit needs and that the engine does not report.

    Raises:
        EngineError: A required request failed.
    """
    requests = _OptionalEngineRequests(engine)
    unchecked = requests.unchecked
    (listed, has_sizes), volume_list, usage, info = await asyncio.gather(
        _list_containers(engine, unchecked),
        requests.get("volumes", "the audit cannot check the options of volumes, and cannot find unused volumes"),
        requests.get("system/df", "the sizes of volumes are not known", type="volume"),
        requests.get("info", "the audit cannot find mounts to which a container's user cannot write"),
    )
    images: dict[str, Mapping[str, Any] | None] = {}
    turns = asyncio.Semaphore(_PARALLEL)

    async def one(each: Mapping[str, Any]) -> AuditedContainer | None:
        async with turns:
            layer = int(each.get("SizeRw") or 0) if has_sizes else None
            return await _container(requests, each, layer, images, is_own=each["Id"] in scope.own)

    containers = [each for each in await asyncio.gather(*map(one, listed)) if each is not None]
    uses, known = await last_uses(engine, {each.id: each.name for each in containers})
    if not known:
        unchecked.append("the engine's events cannot be read: the last use of each volume is not known")
    volumes = {
        each.name: replace(each, last_use=uses.get(each.name, ""))
        for each in volumes_of(volume_list or {}, usage or {})
    }
    # Even with a local socket, the engine can run in a virtual machine, as in Docker Desktop, or on another host.
    # Therefore, compare the host names.
    is_here = scope.is_local and not mounted_id() and (info or {}).get("Name") == socket.gethostname()
    table = scope.mounts
    if table is None and is_here:
        table = MOUNT_TABLE.read_text(errors="surrogateescape")
    data = str((info or {}).get("DockerRootDir") or "")
    found = AuditSnapshot(
        tuple(containers), volumes, scope.forwards, parse_mounts(table) if table is not None else None,
        cli=engine.flavor.command, socket=scope.socket,
        cgroup_mode="host" if (info or {}).get("CgroupVersion") == "1" else "private",
        volume_directory=posixpath.join(data, "volumes") if data else "",
    )  # fmt: skip
    if table is None:
        unchecked.append(
            "the audit cannot read the mount table of the engine's host, and cannot find bind mounts of network file "
            "systems: pass a copy of the host's /proc/self/mountinfo with --mount-table"
        )
    if not is_here:
        unchecked.append(
            "the host's files cannot be read: the audit recognizes databases only by image and path, and cannot find "
            "replaced files, mounts to which a container's user cannot write, and files that a mount hides"
        )
    else:
        found = await asyncio.to_thread(with_files, found, info or {}, unchecked)
    complete = await _with_changes(engine, found.containers, unchecked)
    return replace(found, containers=complete, unchecked=tuple(unchecked))


async def _with_changes(
    engine: EngineClient, containers: tuple[AuditedContainer, ...], unchecked: list[str]
) -> tuple[AuditedContainer, ...]:
    """Query the engine for the changed files of each container whose `changes` is None. Return all containers.

    A query takes seconds if the image is large, because the engine compares the container's layer with the whole
    image. The queries stop after `_COMPARING` seconds. If a query fails or is not sent, `changes` stays None.
    """
    queried: dict[str, AuditedContainer] = {}
    waiting = sorted((each for each in containers if each.changes is None), key=lambda each: each.layer, reverse=True)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_COMPARING):
            for each in waiting:
                with contextlib.suppress(EngineError):
                    found = await engine.get(f"containers/{each.id}/changes")
                    queried[each.id] = _with_found_changes(each, found)
    if len(queried) < len(waiting):
        unchecked.append(
            f"the changed files of {len(waiting) - len(queried)} containers are not known: the audit cannot find "
            "databases in the layers of these containers"
        )
    return tuple(queried.get(each.id, each) for each in containers)


def _with_found_changes(container: AuditedContainer, found: Iterable[Mapping[str, Any]]) -> AuditedContainer:
    kinds = {str(each["Path"]): each["Kind"] for each in found}
    changes = {path: 1 for path, kind in kinds.items() if kind != _REMOVED}
    directory = layer_data.find(changes, [each.path for each in container.mounts]).directory
    return replace(container, changes=changes, image_has_layer_directory=kinds.get(directory) == _MODIFIED)


class _OptionalEngineRequests:
    """Sends requests whose failure does not end the audit. Records in `unchecked` what the audit cannot check.

    Args:
        engine: The engine.
    """

    def __init__(self, engine: EngineClient) -> None:
        self.unchecked: list[str] = []
        self.engine = engine

    async def get(self, path: str, missing: str, **params: Any) -> Any:
        """Return the response to a GET request; None if the request fails, for example because a proxy refuses it.

        Args:
            path: The path below the API version.
            missing: What the audit cannot check without the response, for the message in `unchecked`.
            params: The query parameters.

        Raises:
            EngineError: The engine cannot be reached.
        """
        try:
            return await self.engine.get(path, **params)
        except EngineError as error:
            if error.kind is EngineErrorKind.UNREACHABLE:
                raise
            is_slow = error.kind is EngineErrorKind.TIMEOUT
            verb = "does not respond to" if is_slow else "or a proxy in front of it, refuses"
            self.unchecked.append(f"the engine{' ' if is_slow else ', '}{verb} /{path}: {missing}")
            return None


async def _list_containers(engine: EngineClient, unchecked: list[str]) -> tuple[Any, bool]:
    """Return the list of containers, and whether the list contains the sizes of their writable layers.

    If the engine takes too long to determine the sizes, request the list without them.

    Raises:
        EngineError: The request failed.
    """
    try:
        return await engine.get("containers/json", all="1", size="1"), True
    except EngineError as error:
        if error.kind is not EngineErrorKind.TIMEOUT:
            raise
    unchecked.append("the engine does not respond to /containers/json?size=1: sizes of writable layers are not known")
    return await engine.get("containers/json", all="1"), False


async def _container(
    requests: _OptionalEngineRequests, listed: Mapping[str, Any], layer: int | None,
    images: dict[str, Mapping[str, Any] | None], *, is_own: bool,
) -> AuditedContainer | None:  # fmt: skip
    """Inspect a container. Return None if the container was removed.

    If the engine does not respond in time or reports a failure, add a message to `requests.unchecked`, and return
    None.

    Raises:
        EngineError: The engine cannot be reached, or the engine or a proxy refuses the request.
    """
    try:
        inspection = await requests.engine.get(f"containers/{listed['Id']}/json")
    except EngineError as error:
        if error.kind in (EngineErrorKind.TIMEOUT, EngineErrorKind.FAILED):
            name = one_line(", ".join(each.lstrip("/") for each in listed.get("Names") or ()) or str(listed["Id"]))
            requests.unchecked.append(
                f"the engine cannot inspect {name} ({error}): the audit cannot find its hazards"
            )
        elif error.kind is not EngineErrorKind.NOT_FOUND:
            raise
        return None
    config = inspection.get("Config") or {}
    image = str(inspection.get("Image") or config.get("Image") or "")
    if image not in images:
        missing = "for containers of this image, the audit ignores labels, and cannot find files that a mount hides"
        images[image] = await requests.get(f"images/{image}/json", missing)
    return container_of(inspection, images[image], layer, is_own=is_own)
