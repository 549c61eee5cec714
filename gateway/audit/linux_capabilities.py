"""Determines whether a container has the capability to ignore the permission bits of files. Does no I/O."""

from collections.abc import Iterable, Mapping
from typing import Any

_OVERRIDE = "DAC_OVERRIDE"


def ignores_permissions(host: Mapping[str, Any]) -> bool:
    """Return whether root in a container ignores the permission bits of files (capabilities(7), CAP_DAC_OVERRIDE).

    Args:
        host: The container's `HostConfig`, as in `docker inspect`.
    """
    added, dropped = _names(host.get("CapAdd")), _names(host.get("CapDrop"))
    if host.get("Privileged") or _OVERRIDE in added:
        return True
    return _OVERRIDE not in dropped and ("ALL" not in dropped or "ALL" in added)


def _names(given: Iterable[str] | None) -> set[str]:
    return {each.upper().removeprefix("CAP_") for each in given or ()}
