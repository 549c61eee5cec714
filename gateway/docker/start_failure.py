"""Parses the engine's error messages about failed container starts (`State.Error`).

The patterns match messages of Docker Engine 26.1 (`daemon/start.go`, `volume/local`). Newer engines add a prefix,
which the patterns permit.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

_MOUNT = re.compile(r"failed to mount local volume: mount (.+?), data: (.*)", re.DOTALL)
_SERVER = re.compile(r"//([^/]+)/")
"""Matches the server in a device such as `//server/share`. A device such as `server:/path` does not match: with such
devices, the mount option `addr` contains the server."""
_ERRNO = re.compile(r"[a-z][a-z /-]*")
"""Matches an error description of strerror(3), such as `no route to host`. The gateway does not show text that does
not match, because this text can contain mount options with a password."""
_NETWORK = re.compile(r"network ([0-9a-zA-Z][0-9a-zA-Z_.-]*) not found|Could not find network: (\S+)")
_ATTACHMENT = re.compile(r"Could not attach to network (\S+?):|attaching to network failed")
_OWNER = re.compile(r"cannot join network of a non running container: (\w+)|No such container: ([0-9a-f]{64})")


CANCELED = "context canceled"
"""The end of the engine's error message if the API client disconnected during a start."""


class StartFailureCause(StrEnum):
    """The missing dependency that made a container's start fail. The values appear in the status and in metrics."""

    VOLUME = "volume"
    NETWORK = "network"
    NAMESPACE = "namespace"


class ContainerRevival(NamedTuple):
    """The reason why the gateway starts or restarts an unavailable container.

    Args:
        cause: The dependency that was missing at the earlier start.
        backend: The backend of the volume that was not mounted; empty if the cause is not a volume.
    """

    cause: StartFailureCause
    backend: str


@dataclass(frozen=True)
class StartFailure:
    """The cause of a failed container start, from the engine's error message.

    Args:
        cause: The missing dependency.
        network: The ID or name of the network; empty if it is not known.
        exists: Whether the network may exist. True if the engine reported that it could not attach the container to
            the network. False if the engine reported that the network does not exist, and for other causes.
        owner: The ID of the other container whose network namespace this container uses.
        address: The server of the mount, from the mount option `addr` or the device.
        port: The server's port, from the mount option `port`; 0 if the option is not valid. None if the option is
            absent. The kernel then uses the default port of the file system.
        is_share: Whether the device of the mount has the form `//server/share`.
        detail: The engine's message. For a volume, only the error description at its end, because the rest can
            contain passwords.
    """

    cause: StartFailureCause
    network: str = ""
    exists: bool = False
    owner: str = ""
    address: str = ""
    port: int | None = None
    is_share: bool = False
    detail: str = ""


def read_error(error: str) -> StartFailure | None:
    """Return why a start failed; None if the cause is not a missing volume, network or network namespace.

    Args:
        error: The engine's error message: the container's `State.Error`, or the API's reply to the start.
    """
    if found := _MOUNT.search(error):
        data, _, reason = found[2].rpartition(": ")
        options = dict(part.partition("=")[::2] for part in data.split(","))
        server = _SERVER.match(found[1])
        port = options.get("port")
        number = None if port is None else _port_number(port)
        address = options.get("addr") or (server[1] if server else "")
        detail = reason if _ERRNO.fullmatch(reason) else "the mount failed"
        return StartFailure(
            StartFailureCause.VOLUME, address=address, port=number, is_share=server is not None, detail=detail
        )
    if found := _OWNER.search(error):
        return StartFailure(StartFailureCause.NAMESPACE, owner=found[1] or found[2], detail=error)
    if found := _ATTACHMENT.search(error):
        return StartFailure(StartFailureCause.NETWORK, network=found[1] or "", exists=True, detail=error)
    if found := _NETWORK.search(error):
        return StartFailure(StartFailureCause.NETWORK, network=found[1] or found[2], detail=error)
    return None


def _port_number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 5 else 0
