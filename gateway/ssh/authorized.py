"""The options before a key in authorized_keys (sshd(8), "AUTHORIZED_KEYS FILE FORMAT"), and what goes with them."""

import re
from collections.abc import Sequence

from gateway.errors import UsageError

_NO_LISTENER = "none.invalid:1"
"""What the key may listen on: without an entry sshd permits every listener, and `none` is valid in sshd_config
(PermitListen) only. This name never resolves (RFC 6761, section 6.4), and the port is root's: root that asks for it
gets it on loopback."""
_HOST = re.compile(r"[\w.:%\[\]-]+")
_SOURCE = re.compile(r"!?[\w.:/*?%-]+")


def options(targets: Sequence[str], sources: Sequence[str]) -> str:
    """What permits connections to `targets`: no shell, no listener on TCP, no agent, no terminal.

    No option forbids listeners on unix sockets: `server_settings` does.

    Args:
        targets: `host:port` each; one at least.
        sources: Addresses, networks and patterns that may log in; empty: any.

    Raises:
        UsageError: A target or a source cannot stand in the file.
    """
    for each in targets:
        if not _HOST.fullmatch(each):
            raise UsageError(f"{each!r} cannot stand in permitopen: use a name or an address")
    for each in sources:
        if not _SOURCE.fullmatch(each):
            raise UsageError(f"--from: {each!r} is not an address, a network or a pattern")
    permits = [f'permitopen="{each}"' for each in targets]
    origin = [f'from="{",".join(sources)}"'] if sources else []
    # `restrict` forbids no commands.
    nothing_else = [f'permitlisten="{_NO_LISTENER}"', 'command="false"']
    return ",".join(["restrict", "port-forwarding", *permits, *nothing_else, *origin])


def server_settings(user: str, *, unix_sockets: bool) -> list[str]:
    """The lines of sshd_config(5) that go with the options, since none of those concerns unix sockets.

    Args:
        user: Who logs in.
        unix_sockets: Whether the tunnel reaches a unix socket on the server.
    """
    return [
        f"Match User {user}",
        "    AllowTcpForwarding local",
        f"    AllowStreamLocalForwarding {'local' if unix_sockets else 'no'}",
    ]
