"""Renders options for authorized_keys (sshd(8), "AUTHORIZED_KEYS FILE FORMAT") and the matching sshd_config lines."""

import re
from collections.abc import Sequence

from gateway.errors import UsageError

_NO_LISTENER = "none.invalid:1"
"""Value of permitlisten that allows no listener. Without a permitlisten, sshd allows all listeners, and `none` is
valid in sshd_config (PermitListen) only. The name never resolves (RFC 6761, section 6.4). Only root may use the port,
and then gets it on loopback."""
_HOST = re.compile(r"[\w.:%\[\]-]+")
_SOURCE = re.compile(r"!?[\w.:/*?%-]+")


def key_options(targets: Sequence[str], sources: Sequence[str]) -> str:
    """Return key options that permit connections to `targets`, and no shell, TCP listener, agent or terminal.

    No key option forbids listeners on unix sockets; `sshd_config_lines` does.

    Args:
        targets: At least one `host:port`.
        sources: Addresses, networks and patterns from which the key may log in; empty for any.

    Raises:
        UsageError: A target or a source is not valid in authorized_keys.
    """
    for each in targets:
        if not _HOST.fullmatch(each):
            raise UsageError(f"{each!r} is not valid in permitopen: use a name or an address")
    for each in sources:
        if not _SOURCE.fullmatch(each):
            raise UsageError(f"--from: {each!r} is not an address, a network or a pattern")
    permits = [f'permitopen="{each}"' for each in targets]
    origin = [f'from="{",".join(sources)}"'] if sources else []
    # `restrict` does not forbid commands.
    denials = [f'permitlisten="{_NO_LISTENER}"', 'command="false"']
    return ",".join(["restrict", "port-forwarding", *permits, *denials, *origin])


def sshd_config_lines(user: str, *, unix_sockets: bool) -> list[str]:
    """Return the sshd_config(5) lines that complete the key options, none of which covers unix sockets.

    Args:
        user: The login user.
        unix_sockets: Whether the tunnel connects to a unix socket on the server.
    """
    return [
        f"Match User {user}",
        "    AllowTcpForwarding local",
        f"    AllowStreamLocalForwarding {'local' if unix_sockets else 'no'}",
    ]
