"""Resolves the host names of fleet members in separate threads, with at most one concurrent lookup for each name.

A lookup blocks its thread until the name server responds. Because each name has a separate thread, a slow lookup
delays no other lookup. `MAX_MEMBERS` limits the number of names, and therefore of threads.
"""

import asyncio
import socket
from typing import Any

from gateway.daemon_thread import run_in_daemon_thread
from gateway.relay.coalesced_lookups import CoalescedLookups
from gateway.relay.per_loop_instances import per_loop

_Name = tuple[str, socket.AddressFamily]


@per_loop
def _lookups(loop: asyncio.AbstractEventLoop) -> CoalescedLookups[_Name, list[Any]]:
    del loop
    return CoalescedLookups(_start)


async def lookup(
    host: str, port: int, family: socket.AddressFamily = socket.AF_UNSPEC
) -> list[tuple[socket.AddressFamily, tuple[str, int]]]:
    """Look up a host name, and return the address family and the socket address of each result.

    If the same lookup is already in progress, wait for its result. The caller must set a deadline.

    Raises:
        OSError: The name does not resolve, or no thread can be started.
        UnicodeError: The name is not a valid host name.
    """
    found = await _lookups().result((host, family))
    return [(family, (str(address[0]), port)) for family, _, _, _, address in found]


def _start(name: _Name) -> "asyncio.Future[list[Any]]":
    host, family = name
    return asyncio.wrap_future(
        run_in_daemon_thread(
            lambda: socket.getaddrinfo(host, None, family=family, type=socket.SOCK_STREAM), "fleet-lookup"
        )
    )
