"""Lists the servers (directive `remote`) in an OpenVPN configuration file. Does no I/O."""

from collections.abc import Iterable, Iterator

from gateway.contracts.config_types import HostPort
from gateway.vpn.openvpn_config_parser import OpenVpnDirective, connection_directives
from gateway.vpn.openvpn_config_sanitizer import SanitizedOpenVpnFile

_DEFAULT_PORT = "1194"


def tcp_remotes(file: SanitizedOpenVpnFile) -> list[HostPort]:
    """Return the servers to which OpenVPN connects over TCP. An outer tunnel (`via`) can forward these connections.

    Args:
        file: The configuration file.
    """
    return [endpoint for endpoint, protocol in _file_remotes(file) if protocol.startswith("tcp")]


def udp_remotes(file: SanitizedOpenVpnFile) -> list[HostPort]:
    """Return the servers to which OpenVPN connects over UDP. No outer tunnel (`via`) can forward these connections.

    Args:
        file: The configuration file.
    """
    return [endpoint for endpoint, protocol in _file_remotes(file) if not protocol.startswith("tcp")]


def _file_remotes(file: SanitizedOpenVpnFile) -> list[tuple[HostPort, str]]:
    """Return each server of the file, with its protocol. Omit duplicates."""
    blocks = [each for each in file.directives if each.name == "connection"]
    common = [each for each in file.directives if each.block is None]
    if not blocks:
        return list(dict.fromkeys(_remotes(common)))
    # If there are <connection> blocks, OpenVPN ignores `remote` outside of them.
    common = [each for each in common if each.name != "remote"]
    return list(
        dict.fromkeys(each for block in blocks for each in _remotes([*common, *connection_directives(block)]))
    )


def _remotes(directives: Iterable[OpenVpnDirective]) -> Iterator[tuple[HostPort, str]]:
    remotes: list[tuple[str, ...]] = []
    port, protocol = _DEFAULT_PORT, "udp"
    for each in directives:
        if each.name == "remote":
            remotes.append(each.values)
        elif each.name in ("port", "rport"):
            port = each.values[0]
        elif each.name == "proto":
            protocol = each.values[0]
    for host, *rest in remotes:
        yield HostPort(host, int(rest[0] if rest else port)), rest[1] if len(rest) > 1 else protocol
