"""Resolves host names in dedicated threads.

A lookup blocks its thread until the name server responds. Dedicated threads keep the threads of the event loop's
default executor free. Concurrent requests for one name share one lookup.
"""

import asyncio
import ipaddress
import random
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import groupby
from typing import Any

from gateway.contracts.config_types import HostPort
from gateway.relay.coalesced_lookups import CoalescedLookups
from gateway.relay.per_loop_instances import per_loop

_THREADS = ThreadPoolExecutor(64, thread_name_prefix="resolver")
Addresses = list[Any]
"""A list of addresses in the format of `socket.getaddrinfo`."""


@per_loop
def _lookups(loop: asyncio.AbstractEventLoop) -> CoalescedLookups[HostPort, Addresses]:
    del loop
    return CoalescedLookups(_look_up)


def is_address(host: str) -> bool:
    """Return whether `host` is an IP address, with or without a zone (RFC 4007)."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Return whether `host` is `localhost` or a loopback address. Does not resolve other names."""
    return host == "localhost" or (is_address(host) and ipaddress.ip_address(host.partition("%")[0]).is_loopback)


async def resolve(to: HostPort) -> Addresses:
    """Resolve a host, and return its addresses.

    The addresses of each family are shuffled, so that dials do not all start with the same address.

    Args:
        to: The host and port.

    Raises:
        socket.gaierror: The name does not resolve.
        UnicodeError: The name is not a valid host name.
    """
    literal = numeric_addresses(to)
    if literal:
        return literal
    return _shuffled(await _lookups().result(to))


async def _look_up(to: HostPort) -> Addresses:
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_THREADS, lambda: socket.getaddrinfo(to.host, to.port, type=socket.SOCK_STREAM))


def _shuffled(addresses: Addresses) -> Addresses:
    """Shuffle the addresses of each family, but keep the families in the system's preferred order (RFC 6724)."""
    result: Addresses = []
    for _, group in groupby(addresses, key=lambda each: each[0]):
        same_family = list(group)
        random.shuffle(same_family)
        result += same_family
    return result


@lru_cache(maxsize=1024)
def numeric_addresses(to: HostPort) -> Addresses:
    """Return a list with the address if the host is an IP address; otherwise, an empty list. Never blocks."""
    try:
        return socket.getaddrinfo(to.host, to.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (socket.gaierror, UnicodeError):
        return []
