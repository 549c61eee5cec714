"""Recognizes failures in OpenVPN's log messages, and returns the reason for each failure. Does no I/O."""

import re
from dataclasses import dataclass

from gateway.errors import FailureReason


@dataclass(frozen=True)
class OpenVpnFailure:
    """A failure of an OpenVPN process, which OpenVPN has reported or the gateway has detected.

    Args:
        reason: The category of the failure, which the tunnel's status and the metrics show.
        detail: The log message without its time, or the gateway's own description, for the operator.
        fatal: Whether the operator must change something before a retry can succeed.
        specificity: How precisely `detail` explains the failure, from 1 (lowest) to 5 (highest).
    """

    reason: FailureReason
    detail: str
    fatal: bool = False
    specificity: int = 1


_PATTERNS: list[tuple[str, FailureReason, bool, int]] = [
    (r"Options error: Please correct these errors", FailureReason.PROTOCOL, True, 1),
    (r"Options error|Unrecognized option", FailureReason.PROTOCOL, True, 4),
    (r"OPTIONS ERROR: server pushed", FailureReason.PROTOCOL, True, 4),
    (r"/dev/net/tun|Cannot (open|ioctl|allocate) TUN|TUNSETIFF|TUNSETPERSIST", FailureReason.PERMISSION, True, 5),
    (r"Cannot load (certificate|private key|CA)|cannot be read|No such file", FailureReason.PROTOCOL, True, 4),
    (r"private key password verification failed", FailureReason.AUTH, True, 4),
    (r"AUTH_FAILED|auth-failure", FailureReason.AUTH, True, 4),
    (r"VERIFY (KU |EKU |X509NAME |SCRIPT )?ERROR", FailureReason.TLS, True, 4),
    (r"certificate (has )?expired|certificate verify failed", FailureReason.TLS, True, 3),
    (r"alert (unknown ca|bad certificate|certificate)", FailureReason.TLS, True, 3),
    (r"tls-crypt unwrap error|HMAC authentication failed|Authenticate/Decrypt packet", FailureReason.TLS, False, 3),
    (r"RESOLVE: Cannot resolve|Cannot resolve host", FailureReason.DNS, False, 2),
    (r"Connection refused|[Nn]o route to host|Network is unreachable", FailureReason.REFUSED, False, 2),
    (r"[Cc]onnection reset", FailureReason.RESET, False, 2),
    (r"TLS key negotiation failed to occur|[Tt]imed out|[Ss]erver.poll.timeout", FailureReason.TIMEOUT, False, 2),
    (r"Inactivity timeout|\[soft,ping-restart\]", FailureReason.TIMEOUT, False, 2),
    (r"TLS (Error|handshake failed|object)", FailureReason.TLS, False, 1),
]
"""For each log message: its pattern, and the fields `reason`, `fatal` and `specificity` of the failure."""


def parse_failure(line: str) -> OpenVpnFailure | None:
    """Return the failure that a log line reports; None if it reports no failure."""
    if re.match(r"\S*\s*\S*\s*(MANAGEMENT|PUSH|OPTIONS IMPORT|Timers)\b", line):
        return None  # such a line quotes a command or options, and reports no failure
    for pattern, reason, fatal, specificity in _PATTERNS:
        if re.search(pattern, line):
            detail = re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", "", line.strip())
            return OpenVpnFailure(reason, detail, fatal, specificity)
    return None


def more_specific(old: OpenVpnFailure | None, new: OpenVpnFailure) -> OpenVpnFailure:
    """Return the failure with the higher specificity. If both have the same specificity, return `new`."""
    return old if old is not None and old.specificity > new.specificity else new
