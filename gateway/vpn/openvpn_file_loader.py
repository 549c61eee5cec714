"""Loads an OpenVPN client file, and the files to which its directives refer.

The files must be in the directory of the client file, or in a subdirectory. The loader opens each file only once.
Therefore, the file that it reads is the file that it has checked, even if another process replaces the file between
the check and the read.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import FailureReason, GatewayError, TunnelError
from gateway.secret_files import check_owner_only
from gateway.vpn.openvpn_config_parser import parse_directives
from gateway.vpn.openvpn_config_sanitizer import SanitizedOpenVpnFile, parse_client_file
from gateway.vpn.openvpn_directive_allowlist import FILE_DIRECTIVES
from gateway.vpn.options import OpenVpnOptions

_MAX_CONFIG_SIZE = 1 << 18
"""Maximum size of the configuration file, in bytes. Parsing a larger file would take too long."""
_MAX_NAMED_SIZE = 1 << 20
"""Maximum size in bytes of a file that a directive names. Certificate revocation lists can be long."""


@dataclass(frozen=True)
class _LoadedFile:
    """A file that was read, with its path and status.

    Args:
        path: The path of the file, without symbolic links.
        data: The content of the file.
        status: The result of fstat(2) for the open file.
    """

    path: Path
    data: bytes
    status: os.stat_result


def load_client_file(options: OpenVpnOptions) -> SanitizedOpenVpnFile:
    """Load an OpenVPN client file, and generate a configuration file for OpenVPN. Can block.

    The function also loads the files to which the client file refers.

    Args:
        options: The options of the tunnel.

    Raises:
        TunnelError: A file cannot be read, other users can read a file with secrets, or a directive or one of its
            values is not allowed; fatal.
    """
    named: dict[str, _LoadedFile] = {}
    try:
        config = _read(options.config, _MAX_CONFIG_SIZE)

        def read_named(name: str) -> bytes:
            if name not in named:
                named[name] = _read_below(config.path.parent, name)
            return named[name].data

        file = parse_client_file(_decode(config.data), read_named)
    except (OSError, GatewayError) as error:
        raise TunnelError(FailureReason.PROTOCOL, f"config: {options.config}: {error}", fatal=True) from error
    if file.has_secrets:
        check_owner_only(options.config, config.status)
    for name in file.secret_files:
        check_owner_only(config.path.parent / name, named[name].status)
    return file


def named_files(options: OpenVpnOptions) -> set[Path]:
    """Return the paths of all files to which the configuration file refers. Can block.

    Args:
        options: The options of the tunnel.

    Returns:
        The paths, including the paths of files that do not exist. If the configuration file contains an error, only
        the paths before the error.
    """
    found: set[Path] = set()
    try:
        config = _read(options.config, _MAX_CONFIG_SIZE)
        for each in parse_directives(_decode(config.data)):
            if each.name in FILE_DIRECTIVES and each.block is None and each.values and each.values[0] != "[inline]":
                found.add(config.path.parent / each.values[0])
    except (OSError, GatewayError):
        return found
    return found


def _decode(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise GatewayError(f"line {line} is not UTF-8: convert the file to UTF-8") from None


def _read_below(directory: Path, name: str) -> _LoadedFile:
    """Read a file that must be in a directory or in one of its subdirectories."""
    try:
        return _read(directory / name, _MAX_NAMED_SIZE, directory)
    except OSError as error:
        raise GatewayError(f"{name}: {error.strerror}") from None


def _read(path: Path, max_size: int, directory: Path | None = None) -> _LoadedFile:
    """Read a regular file.

    The function checks the type of the file with O_PATH (open(2)), so it never opens a device or FIFO for reading.

    Args:
        path: Path of the file.
        max_size: Maximum size, in bytes.
        directory: The file must be in this directory or in a subdirectory, even if `path` contains symbolic links.
            The path of the directory must not contain symbolic links. None permits all directories.

    Raises:
        OSError: The file is missing or not readable.
        GatewayError: The file is outside the directory, not a regular file, or too large.
    """
    handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        link = Path(f"/proc/self/fd/{handle}")
        status, target = os.fstat(handle), link.readlink()
        if directory is not None and not target.is_relative_to(directory):
            raise GatewayError(
                f"{path} is not in {directory}: copy it there, or put its content into an inline block"
            )
        if stat.S_ISREG(status.st_mode):
            with link.open("rb") as file:
                data = file.read(max_size + 1)
            if len(data) <= max_size:
                return _LoadedFile(target, data, status)
        raise GatewayError(f"{target} is not a regular file of at most {max_size >> 10} KiB")
    finally:
        os.close(handle)
