"""Where each container's data lives, and what would lose it. The judgement is pure; `look` asks the engine."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.backends import kind_of_file_system
from gateway.docker.engine import Engine
from gateway.text import one_line

_ANONYMOUS = "com.docker.volume.anonymous"
_FLEETING = ("/tmp/", "/run/", "/var/run/", "/dev/shm/")  # noqa: S108 - patterns of mounts
_SMALL = 1 << 20
"""Bytes in a writable layer that are not worth a line: a log, a lock."""


@dataclass(frozen=True)
class Stored:
    """Where some of a container's data lives.

    Args:
        container: Its name.
        path: Inside it.
        kind: `volume`, `anonymous volume`, `network volume`, `bind`, `tmpfs` or `layer`.
        place: What holds it: a volume's name, a path of the host, a server.
        lost_by: What would lose it.
        risk: `low`, `medium` or `high`: whether that is done on purpose, by routine, or by itself.
    """

    container: str
    path: str
    kind: str
    place: str
    lost_by: str
    risk: str


async def look(engine: Engine, forwards: Mapping[int, str]) -> list[Stored]:
    """Return every container's data, the most endangered first.

    Args:
        engine: The engine.
        forwards: Names of the gateway's backends by the port at which a volume reaches them.

    Raises:
        EngineError: It cannot be asked.
    """
    listed = await engine.get("containers/json", all="1", size="1")
    volumes = {each["Name"]: each for each in (await engine.get("volumes")).get("Volumes") or ()}
    found: list[Stored] = []
    for each in listed:
        inspection = await engine.get(f"containers/{each['Id']}/json")
        found += judge(inspection, int(each.get("SizeRw") or 0), volumes, forwards)
    order = ("high", "medium", "low")
    return sorted(found, key=lambda one: (order.index(one.risk), one.container, one.path))


def judge(
    inspection: Mapping[str, Any], layer: int, volumes: Mapping[str, Mapping[str, Any]], forwards: Mapping[int, str]
) -> list[Stored]:
    """Judge one container by its inspection.

    Args:
        inspection: Its inspection.
        layer: Bytes that it has written outside of mounts.
        volumes: The engine's volumes by name.
        forwards: Names of the gateway's backends by port.
    """
    name = one_line(str(inspection["Name"]).lstrip("/"))
    host = inspection.get("HostConfig") or {}
    removed = bool(host.get("AutoRemove"))
    mounts: Sequence[Mapping[str, Any]] = inspection.get("Mounts") or ()
    found = [_mount(name, each, volumes.get(each.get("Name", "")), forwards, removed=removed) for each in mounts]
    found += [
        Stored(name, path, "tmpfs", "memory", "its next stop", "high")
        for path in host.get("Tmpfs") or {}
        if path not in {each.path for each in found}
    ]
    found += _layer(name, layer, removed=removed)
    return found


def _layer(name: str, size: int, *, removed: bool) -> Iterator[Stored]:
    if size >= _SMALL:
        how = "its end (--rm)" if removed else "docker rm, compose down, a new image"
        yield Stored(name, "/", "layer", f"writable layer, {size / 1e6:.0f} MB", how, "high")


def _mount(
    name: str,
    mount: Mapping[str, Any],
    volume: Mapping[str, Any] | None,
    forwards: Mapping[int, str],
    *,
    removed: bool,
) -> Stored:
    path, source = str(mount.get("Destination")), str(mount.get("Source") or "")
    if mount.get("Type") == "tmpfs":
        return Stored(name, path, "tmpfs", "memory", "its next stop", "high")
    if mount.get("Type") != "volume" or volume is None:
        if f"{source}/".startswith(_FLEETING):
            return Stored(name, path, "bind", source, "the host's next boot, if that is in memory", "medium")
        return Stored(name, path, "bind", source, "rm on the host, the host's disk", "low")
    options = volume.get("Options") or {}
    if "type" in options and kind_of_file_system(str(options["type"])) is not None:
        place = _server(options, forwards)
        return Stored(name, path, "network volume", place, "the server's disk; not by Docker", "low")
    title = str(volume["Name"])
    if _ANONYMOUS in (volume.get("Labels") or {}) or re.fullmatch(r"[0-9a-f]{64}", title):
        how = "its end (--rm)" if removed else "docker rm -v, compose down -v, docker volume prune"
        return Stored(name, path, "anonymous volume", title[:12], how, "high" if removed else "medium")
    if volume.get("Driver") != "local":
        place = f"{title} ({volume.get('Driver')})"
        return Stored(name, path, "volume", place, "docker volume rm, and what its driver does", "low")
    return Stored(name, path, "volume", title, "docker volume rm, compose down -v, the host's disk", "low")


def _server(options: Mapping[str, str], forwards: Mapping[int, str]) -> str:
    """`server:/export`, or the backend where it goes through the gateway."""
    mount = dict(part.partition("=")[::2] for part in options.get("o", "").split(","))
    device = options.get("device", "")
    port = mount.get("port", "")
    if mount.get("addr", "").startswith("127.") and port.isdecimal() and int(port) in forwards:
        return f"{forwards[int(port)]} of this gateway, {device}"
    return f"{mount['addr']}:{device.rpartition(':')[2]}" if "addr" in mount else device
