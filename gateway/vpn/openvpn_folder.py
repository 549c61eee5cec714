"""An OpenVPN client's file from disk, with the files that it names: those of its own folder, and no others."""

import stat
from pathlib import Path

from gateway.errors import GatewayError, Reason, TunnelError
from gateway.keyfiles import check_private
from gateway.vpn.openvpn_file import ClientFile, read
from gateway.vpn.options import OpenVpnOptions

_LARGEST = 1 << 18
"""Bytes of the file itself, which takes a moment to be read."""
_LARGEST_NAMED = 1 << 20
"""Bytes of a file that it names: certificates that are revoked may be many."""


def client_file(options: OpenVpnOptions) -> ClientFile:
    """Read the configuration file.

    Raises:
        TunnelError: It is not there, or cannot be used.
    """
    try:
        path = options.config.resolve(strict=True)
        file = read(_text(_content(path, _LARGEST)), lambda name: _inside(path.parent, name))
    except (OSError, RuntimeError, GatewayError) as error:  # a loop of links
        raise TunnelError(Reason.PROTOCOL, f"config: {options.config}: {error}", fatal=True) from error
    if file.private:
        check_private(options.config)
    for name in file.private_files:
        check_private(path.parent / name)
    return file


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise GatewayError(f"line {line}: is not UTF-8 text: convert the file") from None


def _inside(folder: Path, name: str) -> bytes:
    """The content of a file that is in `folder` once symbolic links are followed.

    Args:
        folder: Without symbolic links.
        name: Relative to it, or absolute.

    Raises:
        GatewayError: It is elsewhere, or not a regular file, or too large.
    """
    try:
        path = (folder / name).resolve(strict=True)
        if not path.is_relative_to(folder):
            raise GatewayError(f"{name} is not in {folder}: copy it there, or put its content into a block")
        return _content(path, _LARGEST_NAMED)
    except (OSError, RuntimeError) as error:  # a loop of links
        raise GatewayError(f"{name}: {getattr(error, 'strerror', None) or error}") from None


def _content(path: Path, largest: int) -> bytes:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > largest:
        raise GatewayError(f"{path} is not a file of at most {largest >> 10} KiB")
    return path.read_bytes()
