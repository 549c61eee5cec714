"""Converts responses of the engine to containers and volumes of a snapshot. Does no I/O."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from gateway.audit.snapshot_model import AuditedContainer, AuditedMount, AuditedVolume
from gateway.text_sanitizer import one_line

_ANONYMOUS = "com.docker.volume.anonymous"
_SHORT_ID = 12
"""Length of the short ID of an image. A shorter string is treated as a name, not as an ID."""


def container_of(
    inspection: Mapping[str, Any], image: Mapping[str, Any] | None, layer: int | None, *, is_own: bool
) -> AuditedContainer:
    """Return the container that an inspect response describes.

    Args:
        inspection: The response to an inspect request for the container.
        image: The response to an inspect request for the image; None if it is not known.
        layer: The size of the writable layer in bytes; None if it is not known.
        is_own: Whether the container runs the gateway itself.
    """
    config, host = inspection.get("Config") or {}, inspection.get("HostConfig") or {}
    name, image_id = str(config.get("Image") or ""), str(inspection.get("Image") or "")
    tmpfs = (AuditedMount("tmpfs", str(path)) for path in host.get("Tmpfs") or {})
    mounts = {each.path: each for each in (*tmpfs, *map(_mount, inspection.get("Mounts") or ()))}
    return AuditedContainer(
        str(inspection["Id"]), one_line(str(inspection["Name"]).lstrip("/")), name,
        running=bool((inspection.get("State") or {}).get("Running")),
        removed=bool(host.get("AutoRemove")),
        mounts=tuple(mounts.values()),
        layer=layer or 0,
        changes={} if layer == 0 else None,
        is_own=is_own,
        inspection=inspection,
        image_config=None if image is None else image.get("Config") or {},
        image_reference=image_reference(name, image_id, None if image is None else image.get("RepoTags") or ()),
    )  # fmt: skip


def image_reference(name: str, image_id: str, tags: Collection[str] | None) -> str:
    """Return the name of a container's image, or the image's ID if the name may now refer to another image.

    Args:
        name: The name with which the container was created.
        image_id: The ID of the image; empty if it is not known.
        tags: The current names of the image; None if they are not known.
    """
    short = name.removeprefix("sha256:")
    is_fixed = "@" in name or (len(short) >= _SHORT_ID and image_id.removeprefix("sha256:").startswith(short))
    is_current = _normalized_name(name) in map(_normalized_name, tags or ())
    return name if is_fixed or is_current or not image_id else image_id


def _normalized_name(name: str) -> str:
    """Return an image name in the form NAME:TAG: without `docker.io/library/`, and with `latest` as default tag."""
    short = name.removeprefix("docker.io/").removeprefix("library/")
    return short if ":" in short.rpartition("/")[2] else f"{short}:latest"


def _mount(found: Mapping[str, Any]) -> AuditedMount:
    kind, path, source = str(found.get("Type")), str(found.get("Destination")), str(found.get("Source") or "")
    writable = bool(found.get("RW", True))
    if kind == "volume":
        return AuditedMount("volume", path, source, str(found.get("Name") or ""), writable)
    if kind == "tmpfs":
        return AuditedMount("tmpfs", path, writable=writable)
    return AuditedMount("bind", path, source, writable=writable)


def volumes_of(listed: Mapping[str, Any], usage: Mapping[str, Any]) -> Iterator[AuditedVolume]:
    """Yield the volumes of an engine. Leave the field `last_use` of each volume empty.

    Args:
        listed: The response to `/volumes`.
        usage: The response to `/system/df`.
    """
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
