"""Renders options for authorized_keys (sshd(8), "AUTHORIZED_KEYS FILE FORMAT") and the matching sshd_config lines."""

import re
from collections.abc import Sequence

from gateway.errors import UsageError
from gateway.ssh.options import SshOptions
from gateway.ssh.public_keys import public_keys

_NO_LISTENER = "none.invalid:1"
"""A permitlisten value that permits no usable listener, because its host name never resolves (RFC 6761, section 6.4).
Without permitlisten, sshd permits all listeners. The value `none` is valid only in sshd_config."""
_HOST = re.compile(r"[\w.:%\[\]-]+")
_SOURCE = re.compile(r"!?[\w.:/*?%-]+")


def key_options(targets: Sequence[str], sources: Sequence[str]) -> str:
    """Return key options that permit connections to `targets`, and forbid shells, TCP listeners and agent forwarding.

    No key option forbids listeners on unix sockets. The lines from `sshd_config_lines` forbid them.

    Args:
        targets: At least one `host:port`.
        sources: Addresses, networks and patterns from which the key is allowed to log in; empty to allow any address.

    Raises:
        UsageError: A target or a source is not valid in authorized_keys.
    """
    for each in targets:
        if not _HOST.fullmatch(each):
            raise UsageError(f"{each!r} is not valid in permitopen: use a name or an address")
    for each in sources:
        if not _SOURCE.fullmatch(each):
            raise UsageError(f"--from: {each!r} is not valid: use an address, a network or a pattern")
    permits = [f'permitopen="{each}"' for each in targets]
    origin = [f'from="{",".join(sources)}"'] if sources else []
    # `restrict` does not forbid commands, so `command` replaces the client's command with one that does nothing.
    denials = [f'permitlisten="{_NO_LISTENER}"', 'command="false"']
    return ",".join(["restrict", "port-forwarding", *permits, *denials, *origin])


def sshd_config_lines(user: str, *, unix_sockets: bool) -> list[str]:
    """Return the sshd_config(5) lines that forbid listeners, and allow or forbid forwarding to unix sockets.

    No key option of authorized_keys can restrict forwarding to unix sockets.

    Args:
        user: The login user.
        unix_sockets: Whether the tunnel connects to a unix socket on the server.
    """
    return [
        f"Match User {user}",
        "    AllowTcpForwarding local",
        f"    AllowStreamLocalForwarding {'local' if unix_sockets else 'no'}",
    ]


def render_authorized_keys(
    name: str, options: SshOptions, targets: Sequence[str], sources: Sequence[str], *, unix_sockets: bool
) -> list[str]:
    """Return the authorized_keys lines for a tunnel, with the matching sshd_config(5) lines in comments.

    The call blocks, because it reads the tunnel's keys.

    Args:
        name: The tunnel's name.
        options: The tunnel's options.
        targets: Each `host:port` that the tunnel dials.
        sources: Addresses, networks and patterns from which the key is allowed to log in; empty to allow any address.
        unix_sockets: Whether the tunnel connects to a unix socket on the server.

    Raises:
        GatewayError: A key cannot be read, or a target or source is not valid in authorized_keys.
    """
    lines = [
        f"# tunnel {name}: add to ~{options.user}/.ssh/authorized_keys on {options.host}",
        "# authorized_keys cannot forbid listeners on unix sockets: add these lines to the end of sshd_config:",
        *(f"#   {line}" for line in sshd_config_lines(options.user, unix_sockets=unix_sockets)),
    ]
    if unix_sockets:
        lines.append(
            "# authorized_keys cannot limit the unix sockets that a key can use:"
            " use a separate user for the tunnel in docker.host"
        )
    if not targets:
        return [*lines, f"# no backend uses the tunnel {name}: add a backend with via: {name}"]
    return [*lines, *(f"{key_options(targets, sources)} {key}" for key in public_keys(options))]
