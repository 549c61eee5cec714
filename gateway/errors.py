"""Defines the exceptions. The class of an exception shows who must act: an operator, a user, or the calling code.

::

    GatewayError
    ├── ConfigError                   the operator: the configuration is invalid
    ├── UsageError                    the caller of a command: its arguments are invalid
    ├── ServiceUnreachableError       the caller of a command: the service does not respond
    └── TargetPathError               depends on the subclass; has a `FailureReason`
        ├── TunnelError               the operator of the tunnel; `fatal` if retries fail until the operator acts
        ├── LinkLostError             no one: the uplink opens a new link
        │   └── RedialRequiredError   the calling code: dial again immediately
        ├── DialError                 the operator of the target: the link works, the target cannot be reached
        └── UnusableTargetError       the operator of the target: it responds, but clients cannot use it
"""

from dataclasses import dataclass
from enum import StrEnum

from gateway.text_sanitizer import one_line


class FailureReason(StrEnum):
    """Why a target, tunnel or connection failed. Metrics, status and HTTP responses contain these values."""

    TIMEOUT = "timeout"
    REFUSED = "refused"
    RESET = "reset"
    DNS = "dns"
    HOST_KEY = "host_key"
    AUTH = "auth"
    UNAUTHENTICATED = "unauthenticated"
    CHANNEL_PROHIBITED = "channel_prohibited"
    CHANNEL_FAILED = "channel_failed"
    TLS = "tls"
    TOO_MANY_CONNECTIONS = "too_many_connections"
    HOST_BLOCKED = "host_blocked"
    STARTING = "starting"
    ROLE = "role"
    LAG = "lag"
    QUERY = "query"
    PROTOCOL = "protocol"
    EXPORT = "export"
    PERMISSION = "permission"
    READ_ONLY = "read_only"
    NO_SPACE = "no_space"
    TUNNEL = "tunnel"


class GatewayError(Exception):
    """The base class of the errors whose messages are for a user or an operator."""


@dataclass(frozen=True)
class ConfigProblem:
    """One error in a configuration: where it is, and how to fix it.

    Args:
        place: `FILE:line:column`, or the flag or environment variable that set the value.
        key: The dotted key, such as `backends.orders.listen`; empty for the whole document.
        message: The error and how to fix it.
    """

    place: str
    key: str
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.place, self.key, self.message) if part)


@dataclass(frozen=True)
class ConfigOrigin:
    """Where a configuration comes from: the file, environment variables and flags.

    For variables and flags, `ConfigOrigin` contains only the names, because the values can be secret.

    Args:
        file: The configuration file; None if the configuration has no file.
        sha256: SHA-256 of the file's content in hexadecimal, as `sha256sum` prints it; None if no file was read.
        environment: Names of the environment variables used.
        flags: Names of the flags used.
    """

    file: str | None = None
    sha256: str | None = None
    environment: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()


class ConfigError(GatewayError):
    """The configuration is invalid. Contains all errors that were found, not only the first.

    Args:
        problems: All problems found.
        origin: The file, variables and flags that were read; None if they are not known.
    """

    def __init__(self, problems: list[ConfigProblem], origin: ConfigOrigin | None = None) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems
        self.origin = origin


class UsageError(GatewayError):
    """A command or a reload received invalid or conflicting input."""


class ServiceUnreachableError(GatewayError):
    """No service responds at the given address or socket."""


class TargetPathError(GatewayError):
    """A step on the path to a target failed, such as the tunnel or the dial.

    Args:
        reason: The reason, for metrics and status.
        detail: A description of the failure, without secrets. The constructor sanitizes it to one printable line,
            because it can contain strings from a server.
    """

    def __init__(self, reason: FailureReason, detail: str) -> None:
        self.reason = reason
        self.detail = one_line(detail)
        super().__init__(self.detail)


class TunnelError(TargetPathError):
    """A tunnel could not be opened.

    Args:
        reason: The reason, for metrics and status.
        detail: A description of the failure, see `TargetPathError`.
        fatal: Whether an operator must act before a retry can succeed, for example after a host key mismatch.
    """

    def __init__(self, reason: FailureReason, detail: str, *, fatal: bool = False) -> None:
        super().__init__(reason, detail)
        self.fatal = fatal


class LinkLostError(TargetPathError):
    """The link failed while it was in use.

    Args:
        detail: A description of the failure, see `TargetPathError`.
        dial_in_progress: Whether the tunnel's server was dialing the target. The server may still connect to the
            target, and then close the new connection without sending data.
    """

    def __init__(self, detail: str = "the link was lost", *, dial_in_progress: bool = False) -> None:
        super().__init__(FailureReason.TUNNEL, detail)
        self.dial_in_progress = dial_in_progress


class RedialRequiredError(LinkLostError):
    """The SSH connection stopped responding during a dial. The caller must dial again over another connection."""

    def __init__(self) -> None:
        super().__init__("the connection stopped responding during the dial", dial_in_progress=True)


class DialError(TargetPathError):
    """The link works, but the target cannot be reached."""


class UnusableTargetError(TargetPathError):
    """The target responds, but clients cannot use it: for example, it is read-only or a replica.

    Args:
        reason: The reason, for metrics and status.
        detail: A description of the failure, see `TargetPathError`.
        remedy: The remedy for this specific failure, in the imperative. It is appended to `detail`. If empty, the
            general remedy for `reason` applies.
    """

    def __init__(self, reason: FailureReason, detail: str, remedy: str = "") -> None:
        super().__init__(reason, f"{detail}: {remedy}" if remedy else detail)
        self.remedy = remedy
