"""Parses single values, such as durations and addresses.

Each function raises `ValueError` if the value is not valid. The message shows how to correct the value.
"""

import ipaddress
import re
import sys
from pathlib import Path
from typing import Literal

from gateway.contracts.config_types import (
    Duration,
    HostPort,
    IpAddress,
    IpNetwork,
    ListenAddress,
    Size,
    unix_host_port,
)

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h|d)")
_LONGEST = 100 * 365 * 86400.0
"""The longest duration, in seconds: 100 years. The native engine stores nanoseconds in 64 bits, at most 292 years."""
_SIZES = {
    "": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?")
_MAX_PORT = 65535
_MAX_UNIX_PATH = 107
_MAX_IPV4 = 2**32 - 1
_IPV4_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")

LogTarget = Literal["stdout", "stderr"] | Path
"""The destination of a log: a standard stream or a file."""
ThreadCount = Literal["auto"] | int
"""A number of threads, or `auto` to derive this number from the processors that the process can use."""
_STREAMS: dict[str, LogTarget] = {"stdout": "stdout", "stderr": "stderr"}


class SuspectedSecretError(ValueError):
    """An invalid value that might be a secret. The message contains no part of the value."""


def duration(text: str) -> Duration:
    """Convert a duration, such as `500ms`, `10s`, `5m` or `1h30m`, to seconds."""
    if text == "0":
        return Duration(0.0)
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        hint = f"; did you mean {text}s?" if re.fullmatch(r"\d+(\.\d+)?", text) else ""
        raise ValueError(f"{text!r} is not a duration: write one such as 500ms, 10s or 5m{hint}")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if seconds > _LONGEST:
        raise ValueError("the duration is too long: write at most 36500d (100 years)")
    return Duration(seconds)


def size(text: str) -> Size:
    """Convert a size, such as `64KiB`, `15MiB` or `1GB`, to bytes."""
    match = _SIZE.fullmatch(text)
    if not match or match[2] not in _SIZES:
        raise ValueError(f"{text!r} is not a size: write one such as 64KiB, 15MiB or 1GB")
    found = float(match[1]) * _SIZES[match[2]]
    if found > sys.maxsize:
        raise ValueError("the size is too large: write less than 8388608TiB")
    return Size(int(found))


def boolean(text: str) -> bool:
    """Parse a Boolean value: `true`, `false`, or a synonym such as `yes` or `off`."""
    known = {
        "true": True,
        "yes": True,
        "on": True,
        "1": True,
        "false": False,
        "no": False,
        "off": False,
        "0": False,
    }
    if text.lower() not in known:
        raise ValueError(f"{text!r} is neither true nor false: write one of them")
    return known[text.lower()]


def integer(text: str) -> int:
    """Parse a whole number that is not negative."""
    if not re.fullmatch(r"\d+", text):
        raise ValueError(f"{text!r} is not a whole number: write digits only, such as 10")
    return int(text)


def name(text: str) -> str:
    """Check and return the name of a tunnel or backend. The name must be valid in metric labels and DNS aliases."""
    if not _NAME.fullmatch(text) or len(text) > 63:
        raise ValueError(
            f"{text!r} is not a valid name: use at most 63 letters, digits, '-', '_' and '.', with a letter or digit"
            " at both ends"
        )
    return text


def host_port(text: str, default_port: int = 0) -> HostPort:
    """Parse `host:port` or `[IPv6]:port`. If `default_port` is not 0, the port is optional."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^:\[\]\s/]+))(?::(\d+))?", text)
    if not match:
        hint = ""
        if "://" in text:
            hint = f": remove {text.partition('://')[0]}://"
        elif text.count(":") > 1:
            hint = ": write an IPv6 address in brackets, as in [fd00::1]:3306"
        raise ValueError(f"{text!r} is not host:port{hint or ', as in db.internal:3306'}")
    port = int(match[3]) if match[3] else default_port
    if not 0 < port <= _MAX_PORT:
        raise ValueError(f"{text!r} needs a port from 1 to {_MAX_PORT}, as in db.internal:3306")
    return HostPort(match[1] or match[2], port)


def listener(text: str) -> ListenAddress:
    """Parse `address:port` or the path of a unix socket."""
    if text.startswith(("/", "unix:")):
        path = text.removeprefix("unix://").removeprefix("unix:")
        if not path.startswith("/"):
            raise ValueError(f"{text!r} must contain an absolute path, as in unix:///run/app.sock")
        return ListenAddress(unix_host_port(unix_path(Path(path))))
    match = re.fullmatch(r":?(\d+)", text)
    if match:
        port = match[1]
        raise ValueError(
            f"{text!r} has no address: write 127.0.0.1:{port} for clients on this host, or 0.0.0.0:{port} for all"
        )
    found = host_port(text)
    try:
        ipaddress.ip_address(found.host.partition("%")[0])
    except ValueError:
        if found.host != "localhost":
            raise ValueError(f"{text!r} must be an IP address of this host, as in 127.0.0.1:{found.port}") from None
    if found.port > _MAX_PORT or found.port == 0:
        raise ValueError(f"{text!r} needs a port from 1 to {_MAX_PORT}")
    return ListenAddress(found)


def log_target(text: str) -> LogTarget:
    """Parse `stdout`, `stderr` or the absolute path of a file."""
    if text in _STREAMS:
        return _STREAMS[text]
    if not text.startswith("/"):
        raise ValueError(f"{text!r} must be stdout, stderr or the absolute path of a file")
    return Path(text)


def thread_count(text: str) -> ThreadCount:
    """Parse `auto` or a whole number of at least 1."""
    if text == "auto":
        return "auto"
    if not re.fullmatch(r"[1-9]\d*", text):
        raise ValueError(f"{text!r} is not a number of threads: write auto, or a whole number such as 2")
    return int(text)


def path(text: str) -> Path:
    """Parse the path of a file.

    Raises:
        SuspectedSecretError: The text is the content of a file, such as a private key.
    """
    if "\n" in text or "-----BEGIN" in text:
        raise SuspectedSecretError(
            "contains the content of a file, not a path: save the content to a file, and set the path of that file"
        )
    return Path(text)


def unix_path(path: Path) -> Path:
    """Check that a path is not too long for a unix socket (unix(7)), and return the path."""
    if len(bytes(path)) > _MAX_UNIX_PATH:
        raise ValueError(f"{path} is too long for a unix socket: shorten it to {_MAX_UNIX_PATH} bytes")
    return path


def address(text: str) -> IpAddress:
    """Parse an IP address, such as `10.0.0.7` or `fd00::7`."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an IP address such as 10.0.0.7") from None


def network(text: str) -> IpNetwork:
    """Parse a network, such as `10.0.0.0/8` or `fd00::/8`, or a single IP address.

    Convert a network of IPv4-mapped addresses (`::ffff:0:0/96`, RFC 4291, section 2.5.5.2) to IPv4, because the
    gateway compares networks with the IPv4 addresses of such clients.
    """
    try:
        found = ipaddress.ip_network(text)
    except ValueError as error:
        try:
            wider = ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise ValueError(f"{text!r} is not a network: write one such as 10.0.0.0/8") from error
        raise ValueError(f"{text!r} has host bits set; did you mean {wider}?") from error
    if isinstance(found, ipaddress.IPv6Network) and found.subnet_of(_IPV4_MAPPED):
        return ipaddress.IPv4Network((int(found.network_address) & _MAX_IPV4, found.prefixlen - 96))
    return found
