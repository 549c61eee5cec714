"""Finds the ID of the container in which this process runs."""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_ID = re.compile(r"containers/([0-9a-f]{64})/\S+ /etc/(?:hostname|hosts|resolv\.conf) ")
"""Matches the line in /proc/self/mountinfo for a file, such as /etc/hosts, that the engine mounts from its directory
for this container. On a host, /proc/self/mountinfo also lists files in such directories. Their lines do not match,
because their mount points differ. In Podman's paths, the name of the storage driver precedes `containers`, as in
`overlay-containers`."""
_SHORT_ID = re.compile(r"[0-9a-f]{12,64}")


def own_id(configured: str | None, listed: Iterable[Mapping[str, Any]]) -> str | None:
    """Find the gateway's own container in an engine's list of containers.

    Args:
        configured: The configured name or ID. If None, the mounted files and the host name identify the container.
        listed: The engine's containers.

    Returns:
        The container's ID; None if this process runs in none of these containers.
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
    """Return a list with only the ID of this process's container; an empty list if no mount shows an ID.

    The engine mounts files such as /etc/hostname from a directory whose path contains the ID.
    """
    try:
        return _ID.findall(Path("/proc/self/mountinfo").read_text(errors="surrogateescape"))[:1]
    except OSError:
        return []
