"""Chooses the user that runs OpenVPN, and gives this user access to files.

OpenVPN parses input from untrusted hosts, so it gets only the capability that it needs: CAP_NET_ADMIN, to create its
device. It keeps this capability, because it creates the device again if the server assigns another address.
"""

import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)

USER = 65533
"""User and group ID of OpenVPN. Usually, no account has this ID, so no other service runs as this user."""
_CAPABILITIES = {"CAP_CHOWN": 0, "CAP_KILL": 5, "CAP_SETGID": 6, "CAP_SETUID": 7}
"""Capabilities that the gateway needs to run OpenVPN as `USER`, and later to send signals to it (capabilities(7))."""
_OTHERS_READ_WRITE = 0o006
_OTHERS_ENTER = 0o001
_TUN = Path("/dev/net/tun")


def unprivileged_user(directory: Path) -> int | None:
    """Choose the user that runs OpenVPN: `USER` if possible, otherwise the gateway's user.

    If the choice is `USER`, give this user access to `directory`. If the gateway runs as root but cannot use `USER`,
    log a warning with the cause.

    Args:
        directory: The directory of OpenVPN's management socket.

    Returns:
        `USER`; None for the gateway's user.
    """
    if os.geteuid() != 0:
        return None
    obstacle = _obstacle(directory)
    if obstacle is not None:
        log.warning("openvpn runs as root with only CAP_NET_ADMIN instead of as user %d: %s", USER, obstacle)
        return None
    grant_access(directory, 0o770)
    return USER


def grant_access(path: Path, mode: int) -> None:
    """Set the group of a file to `USER`, and set the permission bits. The owner does not change.

    Args:
        path: The path of a file, socket or directory.
        mode: The new permission bits.

    Raises:
        OSError: The group or the mode cannot be changed.
    """
    os.chown(path, -1, USER)
    path.chmod(mode)


def _obstacle(directory: Path) -> str | None:
    """Return the reason why OpenVPN cannot run as `USER`; None if it can."""
    effective = _effective_capabilities()
    missing = [name for name, bit in _CAPABILITIES.items() if not effective >> bit & 1]
    if missing:
        return f"the gateway lacks {', '.join(missing)}"
    if not (_is_mapped("uid") and _is_mapped("gid")):
        return "the user namespace does not map this user"
    if _TUN.exists() and not _allows(_TUN, _OTHERS_READ_WRITE):
        return f"other users cannot open {_TUN}: run chmod 666 {_TUN}"
    closed = [parent for parent in directory.parents if not _allows(parent, _OTHERS_ENTER)]
    return f"other users cannot enter {closed[0]}: set TMPDIR to another directory" if closed else None


def _allows(path: Path, bits: int) -> bool:
    return path.stat().st_mode & bits == bits


def _effective_capabilities() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _is_mapped(kind: str) -> bool:
    """Return whether the user namespace maps the ID `USER` (user_namespaces(7))."""
    rows = (line.split() for line in Path(f"/proc/self/{kind}_map").read_text().splitlines())
    return any(int(first) <= USER < int(first) + int(count) for first, _, count in rows)
