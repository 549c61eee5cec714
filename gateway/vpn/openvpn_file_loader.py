"""Loads an OpenVPN client file, and the files to which its directives refer.

The files must be in the directory of the client file, or in a subdirectory. The loader opens each file only once.
Therefore, the file that it reads is the file that it has checked, even if another process replaces the file between
the check and the read.
"""

from pathlib import Path

from gateway.errors import FailureReason, GatewayError, TunnelError
from gateway.secret_files import check_owner_only
from gateway.vpn.openvpn_config_parser import parse_directives
from gateway.vpn.openvpn_config_sanitizer import SanitizedOpenVpnFile, parse_client_file
from gateway.vpn.openvpn_directive_allowlist import FILE_DIRECTIVES
from gateway.vpn.options import OpenVpnOptions
from gateway.vpn.regular_file import MAX_CONFIG_SIZE, LoadedFile, read_regular_file

_MAX_NAMED_SIZE = 1 << 20
"""Maximum size in bytes of a file that a directive names. Certificate revocation lists can be long."""


def load_client_file(options: OpenVpnOptions) -> SanitizedOpenVpnFile:
    """Load an OpenVPN client file, and generate a configuration file for OpenVPN. Can block.

    The function also loads the files to which the client file refers.

    Args:
        options: The options of the tunnel.

    Raises:
        TunnelError: A file cannot be read, other users can read a file with secrets, or a directive or one of its
            values is not allowed; fatal.
    """
    named: dict[str, LoadedFile] = {}
    try:
        config = read_regular_file(options.config, MAX_CONFIG_SIZE)

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
        config = read_regular_file(options.config, MAX_CONFIG_SIZE)
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


def _read_below(directory: Path, name: str) -> LoadedFile:
    """Read a file that must be in a directory or in one of its subdirectories."""
    try:
        return read_regular_file(directory / name, _MAX_NAMED_SIZE, directory)
    except OSError as error:
        raise GatewayError(f"{name}: {error.strerror}") from None
