"""Creates the listening sockets of the ops server."""

import asyncio
import socket

from gateway.contracts.config_types import HostPort
from gateway.relay.listening_sockets import NO_IPV6_ERRNOS, listen_tcp

BACKLOG = 1024


async def bind(listen: HostPort) -> list[socket.socket]:
    """Resolve `listen`, and return a non-blocking listening socket for each address. The caller owns the sockets.

    Raises:
        OSError: An address cannot be bound.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(*listen, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    bound: list[socket.socket] = []
    try:
        for family, *_, address in dict.fromkeys(found):
            try:
                bound.append(listen_tcp(family, address, BACKLOG, free_bind=True))
            except OSError as error:
                # On a host without IPv6, skip the IPv6 address, because the IPv4 address is already bound.
                if not bound or error.errno not in NO_IPV6_ERRNOS:
                    raise
            else:
                bound[-1].setblocking(False)
    except BaseException:
        for sock in bound:
            sock.close()
        raise
    return bound
