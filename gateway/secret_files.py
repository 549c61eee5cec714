"""Checks who can read files that contain secrets, and reads these files.

For private keys, OpenSSH's rule applies: only the owner may read them. Passwords and configurations with secrets must
not be readable by everybody. A file is readable by everybody if its mode lets other users read it, and the modes of
all parent directories let other users traverse them.

Container runtimes mount secrets with mode 0444 (Docker) or 0644 (Kubernetes), because a container has no other users.
The checks accept two kinds of such mounts: a single file (Docker, Compose, Swarm), and an in-memory file system in a
pod (Kubernetes). Outside a pod, the rules above also apply to in-memory file systems, because a host has other users.
"""

import errno
import os
import stat
from pathlib import Path

from gateway.errors import FailureReason, TunnelError
from gateway.octal_escapes import unescaped

_REMEDIES = {
    errno.ENOENT: "create the file, or correct the path",
    errno.ENOTDIR: "correct the path: one of its parents is not a folder",
    errno.EISDIR: "choose a file in this folder",
}
_MOUNTS = Path("/proc/self/mountinfo")
_IN_MEMORY = {"tmpfs", "ramfs"}
_IN_POD = "KUBERNETES_SERVICE_HOST"
"""Environment variable that the kubelet sets in every container (Kubernetes, "Accessing the Kubernetes API from a
Pod")."""


class ExposedSecretError(OSError):
    """A file that contains a secret is readable by every user of the host.

    Args:
        path: The file.
        mode: The file's permission bits.
    """

    def __init__(self, path: Path, mode: int) -> None:
        message = f"everybody can read it (mode {mode:04o}): chmod {mode & 0o770:o} {path}"
        super().__init__(errno.EACCES, message, str(path))


def check_not_exposed(path: Path, status: os.stat_result | None = None) -> None:
    """Raise an error if everybody can read a file.

    Args:
        path: The file.
        status: The file's status; None to call `stat`.

    Raises:
        ExposedSecretError: Everybody can read the file.
        IsADirectoryError: The path names a folder.
        OSError: The file's status cannot be read.
    """
    found = (status or path.stat()).st_mode
    if stat.S_ISDIR(found):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    mode = stat.S_IMODE(found)
    if mode & stat.S_IROTH and _is_traversable(path) and not _is_runtime_mount(path):
        raise ExposedSecretError(path, mode)


def read_secret(path: Path) -> bytes:
    """Read a password file. Open it only once, so that no other file can replace it between the check and the read.

    Raises:
        ExposedSecretError: Everybody can read the file.
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        check_not_exposed(path, os.fstat(file.fileno()))
        return file.read()


def read_private_key(path: Path, what: str = "private key") -> bytes:
    """Return the content of a private key file. Refuse a file that other users can read (see `check_owner_only`).

    Open the file only once, so that no other file can replace it between the check and the read.

    Args:
        path: The file.
        what: A name for the content of the file, for the error message.

    Raises:
        TunnelError: The file cannot be read, or other users can read it. The error is fatal and contains the remedy.
    """
    try:
        with path.open("rb") as file:
            check_owner_only(path, os.fstat(file.fileno()), what)
            return file.read()
    except OSError as error:
        raise TunnelError(FailureReason.AUTH, f"{path}: {unreadable(path, error)}", fatal=True) from error


def unreadable(path: Path, error: OSError, shown: str | None = None) -> str:
    """Return the reason why a file cannot be read, and the remedy.

    Args:
        path: The file.
        error: The error that `open` or `read` raised.
        shown: The file's name for messages; None to use the path.
    """
    if isinstance(error, ExposedSecretError):
        return error.strerror or str(error)
    if error.errno not in (errno.EACCES, errno.EPERM):
        remedy = _REMEDIES.get(error.errno or 0)
        return f"{error.strerror or error}{f': {remedy}' if remedy else ''}"
    uid = os.geteuid()
    try:
        status = path.stat()
    except OSError:
        return f"the gateway runs as uid {uid}, which may not enter a folder above this file: chmod o+x the folder"
    mode = stat.S_IMODE(status.st_mode)
    return (
        f"the gateway runs as uid {uid}, which may not read it (owner {status.st_uid}, mode {mode:04o}):"
        f" chown {uid} {shown or path}, or run the gateway as uid {status.st_uid}"
    )


def check_owner_only(path: Path, status: os.stat_result, what: str = "private key") -> None:
    """Raise an error if users other than the owner can read a file that contains a secret.

    If the file belongs to a user other than the user of this process, as a mounted secret often does, the file's
    group may also read it.

    Args:
        path: The file.
        status: The status of the open file, from `os.fstat`.
        what: A name for the content of the file, for the error message.

    Raises:
        TunnelError: Other users can read the file. The error is fatal and contains the remedy.
    """
    owned = status.st_uid == os.geteuid()
    mode = stat.S_IMODE(status.st_mode)
    if mode & (0o077 if owned else 0o007) and not _is_runtime_mount(path):
        remedy = f"chmod 600 {path}" if owned else "mount it with mode 0400 (or 0440 for its group)"
        raise TunnelError(
            FailureReason.AUTH,
            f"{path}: the {what} is readable by others (mode {mode:04o}): {remedy}",
            fatal=True,
        )


def _is_traversable(path: Path) -> bool:
    return all(each.stat().st_mode & stat.S_IXOTH for each in path.resolve().parents)


def _is_runtime_mount(path: Path) -> bool:
    """Return whether a container runtime has mounted the file for this container."""
    real = path.resolve()
    mount_point, fs_type = _mount(real)
    return mount_point == str(real) or (fs_type in _IN_MEMORY and _IN_POD in os.environ)


def _mount(path: Path) -> tuple[str, str]:
    """Return the mount point and file system type of a file (proc_pid_mountinfo(5)); empty strings if not known."""
    ancestors = {str(path), *map(str, path.parents)}
    mount = ("", "")
    try:
        lines = _MOUNTS.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return mount
    for line in lines:
        fields, _, source = line.partition(" - ")
        point = unescaped(fields.split()[4])
        # If two mounts have the same mount point, use the later mount, because it hides the earlier mount.
        if point in ancestors and len(point) >= len(mount[0]):
            mount = (point, source.split()[0])
    return mount
