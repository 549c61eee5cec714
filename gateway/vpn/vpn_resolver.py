"""Resolves host names with the name servers of a VPN. Sends the queries through the VPN, with dnspython."""

import asyncio
import socket
from collections.abc import Sequence
from functools import partial
from typing import Any

import dns.exception
import dns.message
import dns.query
import dns.rdatatype

from gateway.contracts.config_types import HostPort, IpAddress
from gateway.relay.resolver import is_address, resolve
from gateway.vpn.device_settings import DeviceSettings
from gateway.vpn.vpn_device_isolation import VpnDeviceIsolation

_QUERY_TIMEOUT = 2.0
"""Time limit for one query to one name server, in seconds."""
_FAMILIES = ((dns.rdatatype.A, socket.AF_INET), (dns.rdatatype.AAAA, socket.AF_INET6))


class VpnResolver:
    """Resolves names with the VPN's name servers, or with the host's resolver if the VPN has no name servers.

    Args:
        isolation: Creates the sockets for the queries.
    """

    def __init__(self, isolation: VpnDeviceIsolation) -> None:
        self._isolation = isolation
        self._name_servers: tuple[IpAddress, ...] = ()
        self._search_domains: tuple[str, ...] = ()

    def configure(self, settings: DeviceSettings) -> None:
        """Use the name servers and search domains of `settings` for further queries."""
        self._name_servers, self._search_domains = settings.name_servers, settings.search_domains

    async def resolve(self, to: HostPort) -> list[Any]:
        """Resolve the host of `to`.

        Args:
            to: A host name or an IP address, and the port.

        Returns:
            A list in the format of `socket.getaddrinfo`.

        Raises:
            socket.gaierror: No name server responds, or the name has no address.
            UnicodeError: The name is not a valid host name.
        """
        if not self._name_servers or is_address(to.host):
            return await resolve(to)
        failure = "no name server of the VPN responds"
        for name in self._candidates(to.host):
            for server in self._name_servers:
                try:
                    found = await self._query_server(name, server)
                except (OSError, dns.exception.DNSException) as error:
                    failure = f"name server {server}: {str(error) or type(error).__name__}"
                    continue
                if found:
                    return [(family, socket.SOCK_STREAM, 6, "", (address, to.port)) for family, address in found]
                failure = f"name server {server} has no address for the name"
                break
        raise socket.gaierror(socket.EAI_NONAME, failure)

    def _candidates(self, host: str) -> list[str]:
        """Return the names to look up, in the order that resolv.conf(5) defines for `ndots:1`."""
        if host.endswith("."):
            return [host]
        qualified = [f"{host}.{domain}" for domain in self._search_domains]
        return [host, *qualified] if "." in host else [*qualified, host]

    async def _query_server(self, name: str, server: IpAddress) -> list[tuple[int, str]]:
        """Query one name server for the IPv4 and IPv6 addresses of a name.

        Returns:
            The address family and the address of each record; empty if the name has no address.
        """
        both = await asyncio.gather(
            *(self._isolation.run_blocking(partial(self._query, name, kind, server)) for kind, _ in _FAMILIES),
            return_exceptions=True,
        )
        if all(isinstance(each, BaseException) for each in both):
            raise next(each for each in both if isinstance(each, BaseException))
        return [
            (family, address)
            for (_, family), each in zip(_FAMILIES, both, strict=True)
            if not isinstance(each, BaseException)
            for address in each
        ]

    def _query(self, name: str, kind: dns.rdatatype.RdataType, server: IpAddress) -> Sequence[str]:
        """Send a query over UDP, and repeat it over TCP if the response is truncated. The call blocks."""
        query = dns.message.make_query(name, kind)
        family = socket.AF_INET if server.version == 4 else socket.AF_INET6
        with self._isolation.create_socket(family, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            answer = dns.query.udp(query, str(server), timeout=_QUERY_TIMEOUT, sock=sock, ignore_unexpected=True)
        if answer.flags & dns.flags.TC:
            with self._isolation.create_socket(family, socket.SOCK_STREAM) as sock:
                sock.settimeout(_QUERY_TIMEOUT)
                sock.connect((str(server), 53))
                sock.setblocking(False)
                answer = dns.query.tcp(query, str(server), timeout=_QUERY_TIMEOUT, sock=sock)
        if not isinstance(answer, dns.message.QueryMessage) or answer.rcode() not in (0, 3):
            raise OSError(f"the response code is {dns.rcode.to_text(answer.rcode())}")
        records = answer.resolve_chaining().answer
        return [str(each.address) for each in records] if records else []
