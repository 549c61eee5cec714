"""Determines the user of a container's process, and whether this user ignores the permission bits of files.

Does no I/O.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from gateway.audit.snapshot_model import ContainerProcessUser

_OVERRIDE = "DAC_OVERRIDE"
_OVERRIDE_BIT = 1 << 1
"""The bit of CAP_DAC_OVERRIDE in a set of capabilities (linux/capability.h)."""


def ignores_permissions(host: Mapping[str, Any]) -> bool:
    """Return whether root in a container ignores the permission bits of files (capabilities(7), CAP_DAC_OVERRIDE).

    Args:
        host: The container's `HostConfig`, as in `docker inspect`.
    """
    added, dropped = _names(host.get("CapAdd")), _names(host.get("CapDrop"))
    if host.get("Privileged") or _OVERRIDE in added:
        return True
    return _OVERRIDE not in dropped and ("ALL" not in dropped or "ALL" in added)


def user_of_process(status: str) -> ContainerProcessUser | None:
    """Return the user with which a process accesses files; None if the text lacks the user.

    Args:
        status: The content of /proc/PID/status (proc_pid_status(5)).
    """
    fields = dict(re.findall(r"(?m)^(\w+):[ \t]*(.*)$", status))
    uids, gids = fields.get("Uid", "").split(), fields.get("Gid", "").split()
    if len(uids) != 4 or len(gids) != 4:
        return None
    groups = frozenset(map(int, (gids[3], *fields.get("Groups", "").split())))
    capabilities = int(fields.get("CapEff", "0"), 16)
    return ContainerProcessUser(int(uids[3]), groups, ignores_permissions=bool(capabilities & _OVERRIDE_BIT))


def _names(given: Iterable[str] | None) -> set[str]:
    return {each.upper().removeprefix("CAP_") for each in given or ()}
