"""Defines the errors of requests to an engine."""

import errno
import os
import re
import ssl
from enum import StrEnum

import aiohttp
from aiodocker.exceptions import DockerError

from gateway.docker.attachment_obstacle import AttachmentObstacle
from gateway.errors import GatewayError
from gateway.text_sanitizer import error_text, one_line


class EngineErrorKind(StrEnum):
    """The category of an `EngineError`, such as a timeout or a conflict. The values appear as a label of metrics."""

    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    FORBIDDEN = "forbidden"
    REFUSED = "refused"
    FAILED = "failed"
    API = "api"


class EngineError(GatewayError):
    """A request to an engine failed.

    Args:
        kind: The category of the error.
        message: The engine's message, which is converted to one line.
    """

    def __init__(self, kind: EngineErrorKind, message: str) -> None:
        self.kind = kind
        self.message = one_line(message)
        super().__init__(self.message)

    @property
    def blocked(self) -> AttachmentObstacle:
        """The reason why an attachment failed; `REFUSED` if the engine's message is not known.

        The reason is derived from the engine's message, because the engine reports no error code for the reason.
        """
        return next(
            (reason for pattern, reason in _BLOCKED if pattern.search(self.message)), AttachmentObstacle.REFUSED
        )

    @property
    def may_be_address(self) -> bool:
        """Whether the error may mean that the engine refused an address.

        If a swarm manager refuses an address, the engine reports only that attaching to the network failed.
        """
        return self.blocked is AttachmentObstacle.ADDRESS_REFUSED or "attaching to network failed" in self.message


_BLOCKED = [
    (re.compile(r"no available (IPv[46] )?address|find an available|find free IP", re.IGNORECASE),
     AttachmentObstacle.IP_EXHAUSTED),
    (re.compile(r"address pools have been fully subnetted", re.IGNORECASE), AttachmentObstacle.IP_EXHAUSTED),
    (re.compile(r"address already in use|no configured subnet", re.IGNORECASE), AttachmentObstacle.ADDRESS_REFUSED),
    # Podman's messages about a refused address:
    (re.compile(r"ip address \S+ is already allocated|static ip \S+ not in any subnet", re.IGNORECASE),
     AttachmentObstacle.ADDRESS_REFUSED),
    (re.compile(r"not manually attachable|not attachable", re.IGNORECASE), AttachmentObstacle.NOT_ATTACHABLE),
    (re.compile(r"sharing network namespace|container sharing", re.IGNORECASE), AttachmentObstacle.SHARED_NETWORK),
    (re.compile(r"host network", re.IGNORECASE), AttachmentObstacle.HOST_NETWORK),
    (re.compile(r"private \(none\)|\(none\) mode", re.IGNORECASE), AttachmentObstacle.NO_NETWORK),
    (
        re.compile(r"not a swarm manager|not part of a swarm|only.* manager", re.IGNORECASE),
        AttachmentObstacle.NOT_MANAGER,
    ),
    (re.compile(r"network .*not found|no such network", re.IGNORECASE), AttachmentObstacle.UNKNOWN_NETWORK),
]  # fmt: skip

_KINDS = {
    400: EngineErrorKind.REFUSED,
    401: EngineErrorKind.FORBIDDEN,
    403: EngineErrorKind.FORBIDDEN,
    404: EngineErrorKind.NOT_FOUND,
    405: EngineErrorKind.FORBIDDEN,
    406: EngineErrorKind.REFUSED,
    409: EngineErrorKind.CONFLICT,
    502: EngineErrorKind.UNREACHABLE,
    503: EngineErrorKind.UNREACHABLE,
    504: EngineErrorKind.UNREACHABLE,
    900: EngineErrorKind.UNREACHABLE,
}
"""The `EngineErrorKind` for each HTTP status of the engine, or of a proxy in front of the engine. aiodocker uses
status 900 if it cannot connect to the engine."""


def as_engine_error(error: Exception) -> EngineError:
    """Convert any error of a request to an `EngineError`."""
    if isinstance(error, EngineError):
        return error
    if isinstance(error, TimeoutError):
        return EngineError(EngineErrorKind.TIMEOUT, "no response in time")
    if isinstance(error, DockerError) and isinstance(error.__context__, aiohttp.ClientConnectorError):
        return as_engine_error(error.__context__)
    if isinstance(error, DockerError):
        message = str(error.message).strip()
        return EngineError(_KINDS.get(error.status, EngineErrorKind.FAILED), message)
    if isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
        code = cause.errno or 0  # the error codes of getaddrinfo(3) are negative
        text = os.strerror(code) if code > 0 and not isinstance(cause, ssl.SSLError) else error_text(cause)
        return EngineError(EngineErrorKind.UNREACHABLE, f"{text}: {_remedy(cause)}")
    if isinstance(error, aiohttp.ClientError | OSError):
        return EngineError(EngineErrorKind.UNREACHABLE, str(error) or type(error).__name__)
    return EngineError(EngineErrorKind.FAILED, f"{type(error).__name__}: {error}")


def _remedy(error: OSError) -> str:
    if error.errno == errno.EACCES:
        group = "--group-add $(stat -c %g SOCKET) with docker run, group_add with Compose"
        return f"give the gateway the group of the engine's socket ({group})"
    return "start the engine, or correct docker.host"


REQUEST_ERRORS = (
    DockerError,
    aiohttp.ClientError,
    OSError,
    TimeoutError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
)
"""The exceptions that can occur while the gateway sends a request, or parses a response in an unknown format."""
