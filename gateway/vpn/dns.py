"""Names that are looked up through the VPN, at the name servers that it gave (dnspython)."""

import asyncio
import socket
from collections.abc import Sequence
from functools import partial
from typing import Any

import dns.exception
import dns.message
import dns.query
import dns.rdatatype

from gateway.contracts import Endpoint
from gateway.relay.resolver import is_address, resolve
from gateway.vpn.addressing import Address, Addressing
from gateway.vpn.network_context import Place

_ONE_SERVER = 2.0
"""Seconds for one answer of one server."""
_FAMILIES = ((dns.rdatatype.A, socket.AF_INET), (dns.rdatatype.AAAA, socket.AF_INET6))


class Names:
    """Looks names up.

    Args:
        place: Where the questions leave from.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self.servers: tuple[Address, ...] = ()
        self.domains: tuple[str, ...] = ()

    def learn(self, wanted: Addressing) -> None:
        """Use these servers from now on."""
        self.servers, self.domains = wanted.servers, wanted.domains

    async def resolve(self, to: Endpoint) -> list[Any]:
        """The addresses of `to`, as `socket.getaddrinfo` gives them; by this host's resolver where the VPN has none.

        Raises:
            socket.gaierror, UnicodeError: There are none.
        """
        if not self.servers or is_address(to.host):
            return await resolve(to)
        trouble = "no name server of the VPN answers"
        for name in self._candidates(to.host):
            for server in self.servers:
                try:
                    found = await self._ask(name, server)
                except (OSError, dns.exception.DNSException) as error:
                    trouble = f"name server {server}: {str(error) or type(error).__name__}"
                    continue
                if found:
                    return [(family, socket.SOCK_STREAM, 6, "", (each, to.port)) for family, each in found]
                trouble = f"name server {server} knows no such name"
                break
        raise socket.gaierror(socket.EAI_NONAME, trouble)

    def _candidates(self, host: str) -> list[str]:
        if host.endswith("."):
            return [host]
        longer = [f"{host}.{domain}" for domain in self.domains]
        return [host, *longer] if "." in host else [*longer, host]

    async def _ask(self, name: str, server: Address) -> list[tuple[int, str]]:
        both = await asyncio.gather(
            *(self._place.run(partial(self._query, name, kind, server)) for kind, _ in _FAMILIES),
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

    def _query(self, name: str, kind: dns.rdatatype.RdataType, server: Address) -> Sequence[str]:
        question = dns.message.make_query(name, kind)
        family = socket.AF_INET if server.version == 4 else socket.AF_INET6
        with self._place.make(family, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            answer = dns.query.udp(question, str(server), timeout=_ONE_SERVER, sock=sock, ignore_unexpected=True)
        if answer.flags & dns.flags.TC:
            with self._place.make(family, socket.SOCK_STREAM) as sock:
                sock.settimeout(_ONE_SERVER)
                sock.connect((str(server), 53))
                sock.setblocking(False)
                answer = dns.query.tcp(question, str(server), timeout=_ONE_SERVER, sock=sock)
        if not isinstance(answer, dns.message.QueryMessage) or answer.rcode() not in (0, 3):
            raise OSError(f"answers {dns.rcode.to_text(answer.rcode())}")
        found = answer.resolve_chaining().answer
        return [str(each.address) for each in found] if found else []
