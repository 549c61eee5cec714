"""The errors, named by who must act.

::

    GatewayError
    ├── ConfigError          the operator: the configuration is wrong
    ├── UsageError           the caller of a command: its arguments are wrong
    ├── ServiceUnreachable   the caller of a command: the service does not answer
    └── ReachError           somebody on the path; carries a reason of the closed list
        ├── TunnelError      the operator of the bastion; `fatal` when waiting does not help
        ├── LinkLostError    nobody yet: the path broke and is being rebuilt
        │   └── MovedOnError the caller: dial again at once
        ├── DialError        the operator of the target: the path works, the target cannot be reached
        └── ProbeError       the operator of the target: it answers, and the answer is wrong
"""

from dataclasses import dataclass
from enum import StrEnum

from gateway.text import one_line


class Reason(StrEnum):
    """Why a target, tunnel or connection failed: a closed list, used in metrics, status and HTTP."""

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
    """The root of every error that Gateway raises on purpose."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a configuration.

    Args:
        place: `FILE:line:column`, or the flag or variable that carried the value.
        key: The dotted key, such as `backends.orders.listen`; empty for the document as a whole.
        message: What is wrong, and what to do about it.
    """

    place: str
    key: str
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.place, self.key, self.message) if part)


@dataclass(frozen=True)
class Origin:
    """What a configuration was read from; names only, since values may be secret.

    Args:
        file: The file; None: there is none.
        sha256: The SHA-256 of the file's bytes in hexadecimal, as `sha256sum` prints it; None: it was not read.
        environment: The variables that were used.
        flags: The flags that were used.
    """

    file: str | None = None
    sha256: str | None = None
    environment: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()


class ConfigError(GatewayError):
    """The configuration cannot be used; carries every problem found, not only the first.

    Args:
        problems: All of them.
        origin: What was read, where that is known.
    """

    def __init__(self, problems: list[Problem], origin: Origin | None = None) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems
        self.origin = origin


class UsageError(GatewayError):
    """A command was called with arguments that make no sense together."""


class ServiceUnreachableError(GatewayError):
    """The running service does not answer at the address that was asked."""


class ReachError(GatewayError):
    """Something on the path to a target failed.

    Args:
        reason: Which of the closed list.
        detail: What happened, without secrets; made one line that may be shown, wherever it comes from.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        self.reason = reason
        self.detail = one_line(detail)
        super().__init__(self.detail)


class TunnelError(ReachError):
    """A tunnel could not be opened.

    Args:
        reason: Which of the closed list.
        detail: One line for a person, without secrets.
        fatal: Whether trying again soon is useless (a wrong host key, a refused login).
    """

    def __init__(self, reason: Reason, detail: str, *, fatal: bool = False) -> None:
        super().__init__(reason, detail)
        self.fatal = fatal


class LinkLostError(ReachError):
    """The link died under whoever used it.

    Args:
        detail: One line for a person, without secrets.
        dialled: Whether a dial was under way. The far side may still connect it, and closes the connection then.
    """

    def __init__(self, detail: str = "the link was lost", *, dialled: bool = False) -> None:
        super().__init__(Reason.TUNNEL, detail)
        self.dialled = dialled


class MovedOnError(LinkLostError):
    """The connection that dialled fell silent, and the link has another one: dial again at once."""

    def __init__(self) -> None:
        super().__init__("the connection fell silent during the dial", dialled=True)


class DialError(ReachError):
    """The link works, and the target at its far side cannot be reached."""


class ProbeError(ReachError):
    """The target answers, and the answer says that it cannot be used."""
