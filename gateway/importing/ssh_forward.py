"""Parses the values of `-L` and LocalForward (ssh(1))."""

import ipaddress
import re

from gateway.errors import UsageError

_ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - used only if the command requests all addresses


def read_forward(text: str, *, any_address: bool) -> tuple[str, str]:
    """Parse a local forward: `[bind:]port:host:hostport`, or `[bind:]port host:hostport` as in ssh_config files.

    Args:
        text: The forward.
        any_address: Whether a forward without a bind address listens on all addresses instead of localhost.

    Returns:
        The listener and the target.

    Raises:
        UsageError: The forward is not valid.
    """
    parts = re.findall(r"\[[^\]]*\]|/[^:\s]+|[^:\s]+|(?<![^:])(?=:)", text)
    parts = [part.strip("[]") if not part.startswith("/") else part for part in parts]
    if len(parts) > 1 and (parts[-1].startswith("/") or (len(parts) == 2 and parts[0].startswith("/"))):
        raise UsageError(f"-L {text}: unix sockets on the server are not supported")
    if parts and parts[0].startswith("/") and len(parts) == 3:
        return parts[0], _joined(parts[1], parts[2])
    if len(parts) == 3:
        return _joined(_ANY_ADDRESS if any_address else "127.0.0.1", parts[0]), _joined(parts[1], parts[2])
    if len(parts) == 4:
        bind = {"*": _ANY_ADDRESS, "": _ANY_ADDRESS, "localhost": "127.0.0.1"}.get(parts[0], parts[0])
        try:
            ipaddress.ip_address(bind)
        except ValueError:
            raise UsageError(
                f"-L {text}: {bind} is not an IP address; replace it with the IP address to listen on"
            ) from None
        return _joined(bind, parts[1]), _joined(parts[2], parts[3])
    raise UsageError(f"-L {text}: must have the form [address:]port:host:port")


def _joined(host: str, port: str) -> str:
    return f"[{host}]:{port_number(port)}" if ":" in host else f"{host}:{port_number(port)}"


def port_number(text: str) -> int:
    """Convert a string to a port number.

    Raises:
        UsageError: The string is not a port number.
    """
    if text.startswith("${"):
        raise UsageError(f"no source sets {text}, which must be a port number: write the number in its place")
    if not re.fullmatch("[0-9]{1,5}", text) or not 0 < int(text) < 65536:
        raise UsageError(f"{text!r} is not a port number: write a number from 1 to 65535")
    return int(text)
