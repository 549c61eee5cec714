"""Defines the default paths of the service's files, for root and for other users."""

import os
import stat
from pathlib import Path

from gateway.errors import GatewayError

_SYSTEM_RUN = Path("/run/gateway")
_SYSTEM_STATE = Path("/var/lib/gateway")


def admin_socket() -> Path:
    """Return the default path of the admin socket. The service and the commands of one user use the same path.

    The folder is /run/gateway for root and for users with write permission there, such as the user of the container
    image. For other users, the folder is `$XDG_RUNTIME_DIR/gateway`. If this variable is not set or refers to a
    folder of another user, the folder is /tmp/gateway-UID.
    """
    return _runtime_folder() / "admin.sock"


def state_dir() -> Path:
    """Return the default of `gateway.state_dir`.

    It is /var/lib/gateway for root and for users with write permission there. For other users, it is
    `$XDG_STATE_HOME/gateway`, which is usually ~/.local/state/gateway.
    """
    if os.geteuid() == 0 or os.access(_SYSTEM_STATE, os.W_OK):
        return _SYSTEM_STATE
    home = os.environ.get("XDG_STATE_HOME") or f"{os.environ.get('HOME', '')}/.local/state"
    return Path(home) / "gateway"


def make_folder(socket: Path) -> None:
    """Create the folder of a unix socket. The folder /tmp/gateway-UID must be private to this user.

    Raises:
        OSError: The folder cannot be created.
        GatewayError: The folder is /tmp/gateway-UID, and another user owns it or can write to it.
    """
    folder = socket.parent
    folder.mkdir(parents=True, exist_ok=True, mode=0o700 if folder == _private_folder() else 0o777)
    if not is_trusted(socket):
        raise GatewayError(
            f"{folder} belongs to another user, or other users can write to it: remove it, or set XDG_RUNTIME_DIR"
        )


def is_trusted(socket: Path) -> bool:
    """Return whether to trust a unix socket.

    Do not trust a socket in /tmp/gateway-UID if another user owns this folder or can write to it, because that user
    could have created the socket. Trust all other sockets.
    """
    folder = socket.parent
    if folder != _private_folder():
        return True
    try:
        status = folder.lstat()
    except FileNotFoundError:
        return True
    writable = stat.S_IMODE(status.st_mode) & (stat.S_IWGRP | stat.S_IWOTH)
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not writable


def _runtime_folder() -> Path:
    if os.geteuid() == 0 or os.access(_SYSTEM_RUN, os.W_OK):
        return _SYSTEM_RUN
    named = os.environ.get("XDG_RUNTIME_DIR")
    if named and _is_own(Path(named)):
        return Path(named) / "gateway"
    return _private_folder()


def _private_folder() -> Path:
    return Path(f"/tmp/gateway-{os.geteuid()}")  # noqa: S108 - `make_folder` checks the owner of the folder


def _is_own(folder: Path) -> bool:
    try:
        return folder.is_absolute() and folder.stat().st_uid == os.geteuid()
    except OSError:
        return False
