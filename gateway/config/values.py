"""Reading single values: durations, sizes, addresses. Each says what it wants when it does not get it."""

import ipaddress
import re
from pathlib import Path
from typing import Literal

from gateway.contracts import Duration, Endpoint, Size

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h|d)")
_SIZES = {
    "": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?")
_MAX_PORT = 65535
_MAX_UNIX_PATH = 107

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
LogTarget = Literal["stdout", "stderr"] | Path
"""Where a log goes: a standard stream or a file."""
_STREAMS: dict[str, LogTarget] = {"stdout": "stdout", "stderr": "stderr"}


class UnquotedError(ValueError):
    """What is wrong with a value, without a part of it."""


def duration(text: str) -> Duration:
    """`500ms`, `10s`, `5m`, `1h30m`: seconds."""
    if text == "0":
        return Duration(0.0)
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        hint = f"; did you mean {text}s?" if re.fullmatch(r"\d+(\.\d+)?", text) else ""
        raise ValueError(f"{text!r} is not a duration such as 500ms, 10s or 5m{hint}")
    return Duration(sum(float(number) * _UNITS[unit] for number, unit in parts))


def size(text: str) -> Size:
    """`64KiB`, `15MiB`, `1GB`: bytes."""
    match = _SIZE.fullmatch(text)
    if not match or match[2] not in _SIZES:
        raise ValueError(f"{text!r} is not a size such as 64KiB, 15MiB or 1GB")
    return Size(int(float(match[1]) * _SIZES[match[2]]))


def boolean(text: str) -> bool:
    """`true` or `false`."""
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
        raise ValueError(f"{text!r} is neither true nor false")
    return known[text.lower()]


def integer(text: str) -> int:
    """A whole number that is not negative."""
    if not re.fullmatch(r"\d+", text):
        raise ValueError(f"{text!r} is not a whole number")
    return int(text)


def name(text: str) -> str:
    """What a tunnel or backend may be called: it becomes a metric label and a DNS alias."""
    if not _NAME.fullmatch(text) or len(text) > 63:
        raise ValueError(f"{text!r} is no name: use letters, digits, '-', '_' and '.', at most 63")
    return text


def endpoint(text: str, default_port: int = 0) -> Endpoint:
    """`host:port`, `[v6]:port`, or a bare host where there is a usual port."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^:\[\]\s/]+))(?::(\d+))?", text)
    if not match:
        hint = " (an IPv6 address goes in brackets)" if text.count(":") > 1 else ""
        raise ValueError(f"{text!r} is not host:port{hint}")
    port = int(match[3]) if match[3] else default_port
    if not 0 < port <= _MAX_PORT:
        raise ValueError(f"{text!r} needs a port from 1 to {_MAX_PORT}, as in HOST:PORT")
    return Endpoint(match[1] or match[2], port)


def listener(text: str) -> Endpoint | Path:
    """`address:port` or the path of a unix socket."""
    if text.startswith(("/", "unix:")):
        return unix_path(Path(text.removeprefix("unix://").removeprefix("unix:")))
    match = re.fullmatch(r":?(\d+)", text)
    found = Endpoint("0.0.0.0", int(match[1])) if match else endpoint(text)  # noqa: S104 - as it was written
    try:
        ipaddress.ip_address(found.host.partition("%")[0])
    except ValueError:
        if found.host != "localhost":
            raise ValueError(f"{text!r} must name an address to listen on, such as 127.0.0.1:{found.port}") from None
    if found.port > _MAX_PORT or found.port == 0:
        raise ValueError(f"{text!r} needs a port from 1 to {_MAX_PORT}")
    return found


def log_target(text: str) -> LogTarget:
    """`stdout`, `stderr` or the absolute path of a file."""
    if text in _STREAMS:
        return _STREAMS[text]
    if not text.startswith("/"):
        raise ValueError(f"{text!r} must be stdout, stderr or the absolute path of a file")
    return Path(text)


def path(text: str) -> Path:
    """The path of a file; never its content, which may be a key that no error should repeat."""
    if "\n" in text or "-----BEGIN" in text:
        raise UnquotedError("holds a file's content: write it to a file, and give the file's path")
    return Path(text)


def unix_path(path: Path) -> Path:
    """The path, if a unix socket can have it."""
    if len(bytes(path)) > _MAX_UNIX_PATH:
        raise ValueError(f"{path} is longer than the {_MAX_UNIX_PATH} bytes that a unix socket's path may have")
    return path


def address(text: str) -> Address:
    """`10.0.0.7` or `fd00::7`."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an IP address such as 10.0.0.7") from None


def network(text: str) -> Network:
    """`10.0.0.0/8`, `fd00::/8` or a single address."""
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        try:
            wider = ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise ValueError(f"{text!r} is not a network such as 10.0.0.0/8") from error
        raise ValueError(f"{text!r} has bits set beyond its prefix; did you mean {wider}?") from error
