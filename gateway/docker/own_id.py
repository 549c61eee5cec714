"""The ID of the container that this process runs in."""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_ID = re.compile(r"containers/([0-9a-f]{64})/\S+ /etc/(?:hostname|hosts|resolv\.conf) ")
"""In /proc/self/mountinfo: files that Docker mounts into a container, and not those that a host has of others.

Podman's are in `overlay-containers`, or another storage driver's."""
_SHORT_ID = re.compile(r"[0-9a-f]{12,64}")


def own_id(configured: str | None, listed: Iterable[Mapping[str, Any]]) -> str | None:
    """Find the gateway's own container among those of an engine.

    Args:
        configured: The name or ID in the configuration; None: find it by the mounted files or the hostname.
        listed: The engine's containers.

    Returns:
        Its ID; None if this process runs in none of them.
    """
    ids: dict[str, list[str]] = {
        each["Id"]: [name.lstrip("/") for name in each.get("Names") or []] for each in listed
    }
    if configured:
        by_id = (each for each in ids if each.startswith(configured))
        return next((each for each, names in ids.items() if configured in names), None) or next(by_id, None)
    hostname = os.environ.get("HOSTNAME", "")
    for name in (*mounted_id(), hostname if _SHORT_ID.fullmatch(hostname) else ""):
        found = next((each for each in ids if name and each.startswith(name)), None)
        if found is not None:
            return found
    return None


def mounted_id() -> list[str]:
    """Return the ID in the paths of the files that Docker mounts into each container; empty: there is none."""
    try:
        return _ID.findall(Path("/proc/self/mountinfo").read_text())[:1]
    except OSError:
        return []
