"""Files that hold secrets: who else can read them.

Private keys follow OpenSSH's rule: the owner alone. Passwords and configurations with secrets must not be readable by
everybody: a file is when its mode lets others read it and every folder above it lets them pass.

Container runtimes mount secrets with mode 0444 (Docker) or 0644 (Kubernetes), into a container that has no other
users. Files on such a mount are accepted: a mount of the file alone (Docker, Compose, swarm), or, in a pod, a file
system in memory (Kubernetes). On a host a file system in memory is as open to other users as any other.
"""

import errno
import os
import re
import stat
from pathlib import Path

from gateway.errors import Reason, TunnelError

_MOUNTS = Path("/proc/self/mountinfo")
_IN_MEMORY = {"tmpfs", "ramfs"}
_IN_POD = "KUBERNETES_SERVICE_HOST"
"""The kubelet sets this variable in every container (Kubernetes, "Accessing the Kubernetes API from a Pod")."""


class ExposedError(OSError):
    """Everybody can read a file that holds a secret.

    Args:
        path: The file.
        mode: Its permissions.
    """

    def __init__(self, path: Path, mode: int) -> None:
        message = f"everybody can read it (mode {mode:04o}): chmod {mode & 0o770:o} {path}"
        super().__init__(errno.EACCES, message, str(path))


def refuse_exposed(path: Path, status: os.stat_result | None = None) -> None:
    """Refuse a file that everybody can read.

    Args:
        path: The file.
        status: What `stat` says of it; None: it is asked.

    Raises:
        ExposedError: Everybody can read it.
        OSError: There is no such file.
    """
    mode = stat.S_IMODE((status or path.stat()).st_mode)
    if mode & stat.S_IROTH and _reachable(path) and not _mounted_by_runtime(path):
        raise ExposedError(path, mode)


def read_secret(path: Path) -> bytes:
    """Read a password, unless everybody can; what is checked is what is read.

    Raises:
        ExposedError: Everybody can read it.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        refuse_exposed(path, os.fstat(file.fileno()))
        return file.read()


def check_private(path: Path, what: str = "private key") -> bytes:
    """Read a private key, or `what` else it is, unless others can read it too, as OpenSSH does.

    A file that belongs to another user (a mounted secret) may be readable by its group, never by everybody. It is
    opened once: what is checked is what is read, whatever takes its place meanwhile.

    Raises:
        TunnelError: With the command that corrects it; fatal.
    """
    try:
        with path.open("rb") as file:
            refuse_readable(path, os.fstat(file.fileno()), what)
            return file.read()
    except OSError as error:
        raise TunnelError(Reason.AUTH, f"{path}: {unreadable(path, error)}", fatal=True) from error


def unreadable(path: Path, error: OSError, shown: str | None = None) -> str:
    """Why a file cannot be read, and what to do about it.

    Args:
        path: The file.
        error: What opening or reading it raised.
        shown: How messages name it; None: by its path.
    """
    if error.errno not in (errno.EACCES, errno.EPERM) or isinstance(error, ExposedError):
        return error.strerror or str(error)
    uid = os.geteuid()
    try:
        status = path.stat()
    except OSError:
        return f"uid {uid}, as which the gateway runs, may not enter a folder above it: chmod o+x the folder"
    mode = stat.S_IMODE(status.st_mode)
    return (
        f"uid {uid}, as which the gateway runs, may not read it (owner {status.st_uid}, mode {mode:04o}): chown {uid}"
        f" {shown or path}, or run the gateway as uid {status.st_uid}"
    )


def refuse_readable(path: Path, status: os.stat_result, what: str = "private key") -> None:
    """Refuse a secret that others can read, where it is known only from its content that it is one.

    Args:
        path: For the message.
        status: Of the descriptor from which the content was read.
        what: What it is, for the message.

    Raises:
        TunnelError: With the command that corrects it; fatal.
    """
    ours = status.st_uid == os.geteuid()
    mode = stat.S_IMODE(status.st_mode)
    if mode & (0o077 if ours else 0o007) and not _mounted_by_runtime(path):
        remedy = f"chmod 600 {path}" if ours else "mount it with mode 0400 (or 0440 for its group)"
        raise TunnelError(
            Reason.AUTH,
            f"{path}: the {what} is readable by others (mode {mode:04o}): {remedy}",
            fatal=True,
        )


def changeable(path: Path) -> str | None:
    """Why everybody can change a program, or put another in its place; None: they cannot.

    Args:
        path: The program, by an absolute path; symbolic links are followed.

    Raises:
        OSError: It is not there.
    """
    real = path.resolve(strict=True)
    for each in dict.fromkeys((real, *real.parents, *path.parents)):
        mode = each.stat().st_mode
        own_files_only = stat.S_ISDIR(mode) and mode & stat.S_ISVTX
        if mode & stat.S_IWOTH and not own_files_only and _reachable(each):
            what = "change it" if each == real else f"replace it in {each}"
            return f"{path}: everybody can {what} (mode {stat.S_IMODE(mode):04o}): chmod o-w {each}"
    return None


def _reachable(path: Path) -> bool:
    """Whether every folder above a file lets others pass."""
    return all(each.stat().st_mode & stat.S_IXOTH for each in path.resolve().parents)


def _mounted_by_runtime(path: Path) -> bool:
    """Whether a container's runtime mounted a file for this container."""
    real = path.resolve()
    point, kind = _mount(real)
    return point == str(real) or (kind in _IN_MEMORY and _IN_POD in os.environ)


def _mount(path: Path) -> tuple[str, str]:
    """The mount that holds a file, by its mount point and type (proc_pid_mountinfo(5)); empty: it is not known."""
    above = {str(path), *map(str, path.parents)}
    found = ("", "")
    try:
        lines = _MOUNTS.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return found
    for line in lines:
        fields, _, source = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields.split()[4])
        # A later mount at the same point covers the earlier one.
        if point in above and len(point) >= len(found[0]):
            found = (point, source.split()[0])
    return found
