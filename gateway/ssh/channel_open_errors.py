"""Converts the failure replies to CHANNEL_OPEN requests to dial errors. Does no I/O."""

import asyncssh

from gateway.contracts.config_types import Endpoint
from gateway.errors import DialError, Reason

_CONNECT_REASONS = {
    "refused": Reason.REFUSED,
    "timed out": Reason.TIMEOUT,
    "timeout": Reason.TIMEOUT,
    "name or service not known": Reason.DNS,
    "name resolution": Reason.DNS,
    "no address": Reason.DNS,
    "unknown host": Reason.DNS,
    "could not resolve": Reason.DNS,
    "reset": Reason.RESET,
}


def channel_open_error(error: asyncssh.ChannelOpenError, to: Endpoint) -> DialError:
    """Return the dial error for a channel that the server did not open.

    Args:
        error: The failure reply of the server.
        to: The target of the channel.
    """
    text = error.reason
    if error.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
        return DialError(
            Reason.CHANNEL_PROHIBITED,
            f"the SSH server does not permit connections to {to} ({text!r}): permit them with permitopen in"
            " authorized_keys, and with PermitOpen and AllowTcpForwarding in sshd_config",
        )
    return DialError(
        _connect_reason(text),
        f"{to}: the SSH server cannot connect ({text!r}): check that this address and port are correct",
    )


def _connect_reason(text: str) -> Reason:
    """Derive a reason from the message of a CHANNEL_OPEN_FAILURE, which often contains the text of strerror(3)."""
    lowered = text.lower()
    for phrase, reason in _CONNECT_REASONS.items():
        if phrase in lowered:
            return reason
    return Reason.CHANNEL_FAILED
