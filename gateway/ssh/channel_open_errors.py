"""Converts CHANNEL_OPEN_FAILURE replies into dial errors. Does no I/O."""

import asyncssh

from gateway.contracts.config_types import HostPort
from gateway.errors import DialError, FailureReason

_CONNECT_REASONS = {
    "refused": FailureReason.REFUSED,
    "timed out": FailureReason.TIMEOUT,
    "timeout": FailureReason.TIMEOUT,
    "name or service not known": FailureReason.DNS,
    "name resolution": FailureReason.DNS,
    "no address": FailureReason.DNS,
    "unknown host": FailureReason.DNS,
    "could not resolve": FailureReason.DNS,
    "reset": FailureReason.RESET,
}


def channel_open_error(error: asyncssh.ChannelOpenError, to: HostPort) -> DialError:
    """Return the dial error for a channel that the server did not open.

    Args:
        error: The failure reply of the server.
        to: The target of the channel.
    """
    text = error.reason
    if error.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
        return DialError(
            FailureReason.CHANNEL_PROHIBITED,
            f"the SSH server does not permit connections to {to} ({text!r}): permit them with permitopen in"
            " authorized_keys, and with PermitOpen and AllowTcpForwarding in sshd_config",
        )
    return DialError(
        _connect_reason(text),
        f"{to}: the SSH server cannot connect ({text!r}): check that this address and port are correct",
    )


def _connect_reason(text: str) -> FailureReason:
    """Return why the SSH server could not connect to the target.

    Args:
        text: The server's message in CHANNEL_OPEN_FAILURE. It often contains the text of strerror(3).
    """
    lowered = text.lower()
    for phrase, reason in _CONNECT_REASONS.items():
        if phrase in lowered:
            return reason
    return FailureReason.CHANNEL_FAILED
