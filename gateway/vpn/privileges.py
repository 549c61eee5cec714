"""As whom OpenVPN runs: with CAP_NET_ADMIN alone, and where that is possible as a user of its own.

It reads what strangers send, and needs little: to make its device when it starts, and again when a server gives it
another address than before. So CAP_NET_ADMIN stays, and nothing else does.
"""

import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)

USER = 65533
"""User and group of the child: a number without a name, so that no other service runs as it."""
_CAPABILITIES = {"CAP_CHOWN": 0, "CAP_KILL": 5, "CAP_SETGID": 6, "CAP_SETUID": 7}
"""What the switch needs, and to signal the child afterwards (capabilities(7))."""
_OTHERS_READ_WRITE = 0o006
_OTHERS_ENTER = 0o001
_TUN = Path("/dev/net/tun")


def separate_user(folder: Path) -> int | None:
    """The user for a child that has its socket in `folder`, which is opened to it; None: as we are.

    Where we are root and it cannot be another user, a warning says why.
    """
    if os.geteuid() != 0:
        return None
    obstacle = _obstacle(folder)
    if obstacle is not None:
        log.warning("openvpn runs as root, with CAP_NET_ADMIN alone, rather than as user %d: %s", USER, obstacle)
        return None
    give(folder, 0o770)
    return USER


def give(path: Path, mode: int) -> None:
    """Let the child's group use what is there; we keep it."""
    os.chown(path, -1, USER)
    path.chmod(mode)


def _obstacle(folder: Path) -> str | None:
    held = _effective()
    missing = [name for name, bit in _CAPABILITIES.items() if not held >> bit & 1]
    if missing:
        return f"the gateway lacks {', '.join(missing)}"
    if not (_is_mapped("uid") and _is_mapped("gid")):
        return "its user namespace has no such user"
    if _TUN.exists() and not _allows(_TUN, _OTHERS_READ_WRITE):
        return f"{_TUN} is closed to others: chmod 666 {_TUN}"
    closed = [above for above in folder.parents if not _allows(above, _OTHERS_ENTER)]
    return f"{closed[0]} is closed to others: set TMPDIR" if closed else None


def _allows(path: Path, bits: int) -> bool:
    return path.stat().st_mode & bits == bits


def _effective() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _is_mapped(kind: str) -> bool:
    """Whether our user namespace has it (user_namespaces(7))."""
    rows = (line.split() for line in Path(f"/proc/self/{kind}_map").read_text().splitlines())
    return any(int(first) <= USER < int(first) + int(count) for first, _, count in rows)
