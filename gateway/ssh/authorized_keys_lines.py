"""Renders options for authorized_keys (sshd(8), "AUTHORIZED_KEYS FILE FORMAT") and the matching sshd_config lines."""

import ipaddress
import re
from collections.abc import Sequence

from gateway.contracts.tunnel_destinations import TunnelDestinations
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
        targets: Each permitted `host:port`. If empty, the options permit connections to all addresses and all unix
            sockets.
        sources: Addresses, networks and patterns from which the key is allowed to log in; empty to allow any address.

    Raises:
        UsageError: A target or a source is not valid in authorized_keys.
    """
    for each in targets:
        if not _HOST.fullmatch(each):
            raise UsageError(f"{each!r} is not valid in permitopen: use a name or an address")
    _check_sources(sources)
    permits = [f'permitopen="{each}"' for each in targets]
    origin = [f'from="{",".join(sources)}"'] if sources else []
    # `restrict` does not forbid commands, so `command` replaces the client's command with one that does nothing.
    denials = [f'permitlisten="{_NO_LISTENER}"', 'command="false"']
    return ",".join(["restrict", "port-forwarding", *permits, *denials, *origin])


def _check_sources(sources: Sequence[str]) -> None:
    for each in sources:
        if not _SOURCE.fullmatch(each):
            raise UsageError(f"--from: {each!r} is not valid: use an address, a network or a pattern")
        if "/" not in each:
            continue
        try:
            ipaddress.ip_network(each.removeprefix("!"))
        except ValueError as error:
            # sshd refuses all logins with the key if it cannot parse a network in `from`.
            raise UsageError(f"--from: {error}: write a network such as 192.0.2.0/24") from None
        if not each.rpartition("/")[2].isdecimal():
            raise UsageError(f"--from: {each!r}: write the length of the prefix, as in 192.0.2.0/24")
    if sources and all(each.startswith("!") for each in sources):
        raise UsageError("--from: patterns with ! only exclude addresses: add a network that is permitted")


def sshd_config_lines(user: str, *, unix_sockets: bool) -> list[str]:
    """Return the sshd_config(5) lines that forbid listeners, and allow or forbid connections to unix sockets.

    These lines are necessary, because authorized_keys has no option specifically for unix sockets.

    Args:
        user: The login user.
        unix_sockets: Whether the user's tunnels connect to a unix socket on the server.
    """
    return [
        f"Match User {user}",
        "    AllowTcpForwarding local",  # with `no`, sshd also refuses connections to unix sockets
        f"    AllowStreamLocalForwarding {'local' if unix_sockets else 'no'}",
    ]


def render_authorized_keys(tunnels: Sequence[TunnelDestinations], sources: Sequence[str]) -> list[str]:
    """Return the authorized_keys lines for tunnels, with the matching sshd_config(5) lines in comments.

    If several lines contain the same key, sshd uses only the first line that permits the login. Therefore, the result
    contains one line for all tunnels with the same server, user and key. The call blocks, because it reads the keys
    of the tunnels.

    Args:
        tunnels: What the gateway dials through each tunnel.
        sources: Addresses, networks and patterns from which the keys are allowed to log in; empty to allow any
            address.

    Raises:
        GatewayError: A key cannot be read, a target or source is not valid in authorized_keys, or a key is used for
            both TCP targets and unix sockets.
    """
    keys = {
        each.name: list(dict.fromkeys(public_keys(each.options)))
        for each in tunnels
        if each.targets or each.unix_sockets
    }
    users: dict[tuple[_Account, str], list[TunnelDestinations]] = {}
    for tunnel in tunnels:
        for key in keys.get(tunnel.name, ()):
            users.setdefault((_account(tunnel), _without_comment(key)), []).append(tunnel)
    lines: list[str] = []
    for tunnel in tunnels:
        lines += _instructions(tunnel, tunnels)
        if tunnel.name not in keys:
            lines.append(f"# no backend uses the tunnel {tunnel.name}: add a backend with via: {tunnel.name}")
        elif not keys[tunnel.name]:
            options = key_options(_merged_targets([tunnel]), sources)
            lines.append("# the tunnel has no identity_files: add this line, with the public key that it uses:")
            lines.append(f"# {options} PUBLIC-KEY")
        for key in keys.get(tunnel.name, ()):
            same = users[_account(tunnel), _without_comment(key)]
            if same[0] is tunnel:
                lines.append(f"{key_options(_merged_targets(same), sources)} {key}")
            else:
                lines.append(f"# the line of the tunnel {same[0].name} also permits the connections of this tunnel")
    return lines


_Account = tuple[str, int, str]
"""The server's host and port, and the user."""


def _account(tunnel: TunnelDestinations) -> _Account:
    options: SshOptions = tunnel.options
    return options.host, options.port, options.user


def _without_comment(key: str) -> str:
    return " ".join(key.split()[:2])


def _merged_targets(tunnels: Sequence[TunnelDestinations]) -> list[str]:
    """Return the targets of tunnels that use the same key; empty if they only connect to unix sockets.

    Raises:
        UsageError: The tunnels connect to TCP targets and to unix sockets.
    """
    targets = list(dict.fromkeys(target for each in tunnels for target in each.targets))
    if targets and any(each.unix_sockets for each in tunnels):
        # sshd refuses connections to unix sockets if the line of the key contains permitopen.
        raise UsageError(
            f"tunnels.{tunnels[0].name}: docker.host needs a key without permitopen, and backends need permitopen:"
            " use another tunnel, with another user and another key, for docker.host"
        )
    return targets


def _instructions(tunnel: TunnelDestinations, tunnels: Sequence[TunnelDestinations]) -> list[str]:
    options: SshOptions = tunnel.options
    unix_sockets = any(each.unix_sockets for each in tunnels if _account(each) == _account(tunnel))
    lines = [
        f"# tunnel {tunnel.name}: add to ~{options.user}/.ssh/authorized_keys on {options.host}",
        "# authorized_keys cannot forbid listeners on unix sockets: add these lines to the end of sshd_config:",
        *(f"#   {line}" for line in sshd_config_lines(options.user, unix_sockets=unix_sockets)),
    ]
    if tunnel.unix_sockets:
        lines.append(
            "# authorized_keys cannot limit the unix sockets and the addresses to which this key connects, because"
            " sshd refuses unix sockets to a key with permitopen: use a separate user for the tunnel in docker.host"
        )
    return lines
