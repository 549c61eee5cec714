"""Renders the lines that NFS servers need in /etc/exports to accept mounts through the gateway. Does no I/O."""

import ipaddress
import posixpath
import re
import shlex
from collections.abc import Callable, Sequence
from typing import Any

from gateway.backends import KINDS
from gateway.config import Config
from gateway.contracts.config_types import HostPort
from gateway.errors import UsageError
from gateway.relay.resolver import is_address

_ExportRenderer = Callable[[Sequence[tuple[Any, Sequence[str]]]], str]
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_CLIENT = re.compile(r"@[\w.-]+|(?!-)[\w.*?-]+(\[[\w-]+\][\w.*?-]*)*|[\da-fA-F.:]+(/[\d.]+)?")
"""Matches a client in exports(5): a netgroup, a name with wildcards, an address or a network."""


def exports(config: Config, origins: Sequence[str]) -> list[str]:
    """Return the lines that each server needs in /etc/exports to accept mounts through the gateway.

    A comment with the server's name and instructions precedes the lines of each server.

    Args:
        config: The configuration.
        origins: The hosts that connect to the servers, as source addresses, networks or names. With an SSH tunnel,
            the bastion connects to the servers. Empty to derive the hosts from the configuration.

    Raises:
        UsageError: No backend needs a line in /etc/exports, or an origin is not valid. Also raised if `origins` is
            empty and the configuration does not show which host connects to a server.
    """
    for origin in origins:
        if not _CLIENT.fullmatch(origin) or ("/" in origin and _network(origin) is None):
            raise UsageError(
                f"--from {origin!r} is not an address, a network or a name: write one of these, without options"
                " such as (rw)"
            )
    servers: dict[str, dict[tuple[_ExportRenderer, str], list[tuple[Any, Sequence[str]]]]] = {}
    for name, spec in config.backends.items():
        mount = spec.kind.mount
        if mount is None or mount.render_export is None:
            continue
        for target in spec.targets:
            clients = list(origins) or _clients(config, name, spec.paths(target), target)
            export = (mount.render_export, posixpath.normpath(getattr(spec.options, mount.path_key)))
            servers.setdefault(target.host.lower(), {}).setdefault(export, []).append((spec.options, clients))
    if not servers:
        kinds = " or ".join(name for name, kind in KINDS.items() if kind.mount and kind.mount.render_export)
        raise UsageError(f"no backend of kind {kinds} is configured: add one, or choose another file with -c")
    lines: list[str] = []
    for host, found in servers.items():
        lines.append(f"# {host}: add to /etc/exports, then run: exportfs -ra")
        lines += (render(uses) for (render, _), uses in found.items())
    return lines


def open_origins(origins: Sequence[str]) -> list[str]:
    """Return the origins that match every host. An export to one of these origins is open to all hosts."""
    networks = {origin: _network(origin) for origin in origins}
    return [origin for origin, network in networks.items() if origin == "*" or (network and network.prefixlen == 0)]


def _network(origin: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(origin, strict=False)
    except ValueError:
        return None


def _clients(config: Config, name: str, paths: Sequence[str], target: HostPort) -> list[str]:
    """Return the hosts that connect to a target: the servers of the tunnels in `paths`.

    If the target is a loopback address, return only `localhost`. If the target has the same host name as a tunnel's
    server, add `localhost`, because the server can connect to itself from a loopback address. IPv6 addresses have no
    brackets, because exports(5) defines brackets as a wildcard.

    Raises:
        UsageError: The configuration does not show which hosts connect to the target.
    """
    if target.host in _LOOPBACK:
        return ["localhost"]
    tunnels = [config.tunnels[tunnel] for tunnel in paths]
    if not tunnels or not all(tunnel.kind.server_dials_targets for tunnel in tunnels):
        raise UsageError(
            f"backends.{name}: the configuration does not show from which address the gateway's connections reach"
            f" {target.host}: add this address with --from"
        )
    servers = dict.fromkeys(next(iter(tunnel.kind.servers(tunnel.options))).host.lower() for tunnel in tunnels)
    is_on_server = target.host.lower() in servers and not is_address(target.host)
    clients = [host if is_address(host) else shlex.quote(host) for host in servers]
    return [*clients, *(["localhost"] if is_on_server else [])]
