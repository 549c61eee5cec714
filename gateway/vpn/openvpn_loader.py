"""An OpenVPN client's file from disk, with the files that it names: those of its own folder, and no others.

Each is opened once, and what is checked is what is read, whatever takes its place meanwhile.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import GatewayError, Reason, TunnelError
from gateway.keyfiles import refuse_readable
from gateway.vpn.openvpn_file import ClientFile, read
from gateway.vpn.openvpn_grammar import FILES
from gateway.vpn.openvpn_syntax import directives
from gateway.vpn.options import OpenVpnOptions

_LARGEST = 1 << 18
"""Bytes of the file itself, which takes a moment to be read."""
_LARGEST_NAMED = 1 << 20
"""Bytes of a file that it names: certificates that are revoked may be many."""


@dataclass(frozen=True)
class _Content:
    """What was read, and of what.

    Args:
        path: Without symbolic links.
        data: The bytes.
        status: Of the file from which they were read.
    """

    path: Path
    data: bytes
    status: os.stat_result


def client_file(options: OpenVpnOptions) -> ClientFile:
    """Read the configuration file.

    Raises:
        TunnelError: It is not there, or cannot be used.
    """
    named: dict[str, _Content] = {}
    try:
        config = _content(options.config, _LARGEST)

        def inside(name: str) -> bytes:
            if name not in named:
                named[name] = _inside(config.path.parent, name)
            return named[name].data

        file = read(_text(config.data), inside)
    except (OSError, GatewayError) as error:
        raise TunnelError(Reason.PROTOCOL, f"config: {options.config}: {error}", fatal=True) from error
    if file.private:
        refuse_readable(options.config, config.status)
    for name in file.private_files:
        refuse_readable(config.path.parent / name, named[name].status)
    return file


def named_files(options: OpenVpnOptions) -> set[Path]:
    """The files that the configuration file names, there or not; of one that cannot be read, those that were found.

    It reads the configuration file, which may block.
    """
    found: set[Path] = set()
    try:
        config = _content(options.config, _LARGEST)
        for each in directives(_text(config.data)):
            if each.name in FILES and each.block is None and each.values and each.values[0] != "[inline]":
                found.add(config.path.parent / each.values[0])
    except (OSError, GatewayError):
        return found
    return found


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise GatewayError(f"line {line}: is not UTF-8 text: convert the file") from None


def _inside(folder: Path, name: str) -> _Content:
    """A file that is in `folder` once symbolic links are followed.

    Args:
        folder: Without symbolic links.
        name: Relative to it, or absolute.

    Raises:
        GatewayError: It is elsewhere, or not a regular file, or too large.
    """
    try:
        return _content(folder / name, _LARGEST_NAMED, folder)
    except OSError as error:
        raise GatewayError(f"{name}: {error.strerror}") from None


def _content(path: Path, largest: int, folder: Path | None = None) -> _Content:
    """Read a regular file.

    The descriptor is checked before it is opened for reading, so that a device or a FIFO is left alone (O_PATH in
    open(2)).

    Args:
        path: Where it is.
        largest: Bytes that it may have.
        folder: Where it must be once symbolic links are followed, without such itself; None: anywhere.

    Raises:
        OSError: It is not there, or may not be read.
        GatewayError: It is elsewhere, or not a regular file, or too large.
    """
    handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        itself = Path(f"/proc/self/fd/{handle}")
        status, real = os.fstat(handle), itself.readlink()
        if folder is not None and not real.is_relative_to(folder):
            raise GatewayError(f"{path} is not in {folder}: copy it there, or put its content into a block")
        if stat.S_ISREG(status.st_mode):
            with itself.open("rb") as file:
                data = file.read(largest + 1)
            if len(data) <= largest:
                return _Content(real, data, status)
        raise GatewayError(f"{real} is not a file of at most {largest >> 10} KiB")
    finally:
        os.close(handle)
