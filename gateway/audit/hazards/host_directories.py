"""Recognizes host directories that belong to the operating system, or that several users share. Does no I/O."""

import re
from collections.abc import Iterable

from gateway.audit.storage_behind_mount import is_below

SYSTEM = ("/", "/bin", "/boot", "/etc", "/lib", "/lib64", "/root", "/sbin", "/usr", "/var", "/var/lib", "/home")
"""Directories of the operating system. Directories below them can contain data of applications."""
SYSTEM_TREES = ("/bin", "/boot", "/dev", "/etc", "/lib", "/proc", "/sbin", "/sys", "/usr", "/var/spool/cron",
                "/var/lib/containerd", "/var/lib/containers", "/var/lib/docker", "/var/lib/kubelet")  # fmt: skip
"""Directories of the operating system, with everything below them."""
SOCKET_DIRECTORIES = ("/", "/run", "/var/run", "/var")
_SHARED = re.compile(
    r"/(?:srv|opt|mnt|media|tmp|data|home/[^/]+|root/[^/]+|var/(?:log|spool|cache|tmp|mail|www|backups))"
)
"""Matches directories that several programs or users share, and home directories."""


def belongs_to_host(path: str) -> bool:
    """Return whether a directory is part of the host's operating system.

    A fix must neither change the owner of such a directory nor write files into it.
    """
    return path in (*SYSTEM, *SOCKET_DIRECTORIES) or below_any(path, SYSTEM_TREES)


def is_shared(path: str) -> bool:
    """Return whether several programs or users probably share a directory, so that its owner must not change."""
    return _SHARED.fullmatch(path) is not None


def below_any(path: str, directories: Iterable[str]) -> bool:
    """Return whether a path is one of the directories, or is below one of them."""
    return any(is_below(path, each) for each in directories)
