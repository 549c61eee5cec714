"""Resolves host names in dedicated threads, with one lookup at a time per name.

A lookup blocks its thread while the name server does not answer. Concurrent requests for one name share one lookup,
so they occupy one thread, and lookups do not block other users of the loop's default executor.
"""

import asyncio
import ipaddress
import random
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import groupby
from typing import Any

from gateway.contracts import Endpoint

_THREADS = ThreadPoolExecutor(64, thread_name_prefix="resolver")
Addresses = list[Any]
"""Address list in the format of `socket.getaddrinfo`."""
_in_flight: dict[tuple[asyncio.AbstractEventLoop, Endpoint], asyncio.Future[Addresses]] = {}


def is_address(host: str) -> bool:
    """Return whether `host` is an IP address, possibly with a zone (RFC 4007), and not a name."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Return whether `host` is `localhost` or a loopback address. Other names are not resolved."""
    return host == "localhost" or (is_address(host) and ipaddress.ip_address(host.partition("%")[0]).is_loopback)


async def resolve(to: Endpoint) -> Addresses:
    """Resolve `to`. Addresses of one family are shuffled, so that an unreachable one is not always tried first.

    Raises:
        socket.gaierror: The name does not resolve.
        UnicodeError: The name is not a valid host name.
    """
    literal = _literal(to)
    if literal:
        return literal
    loop = asyncio.get_running_loop()
    key = (loop, to)
    lookup = _in_flight.get(key)
    if lookup is None:
        lookup = _in_flight[key] = asyncio.ensure_future(_look_up(loop, to))
        lookup.add_done_callback(lambda done: _on_lookup_done(key, done))
    return _shuffled(await asyncio.shield(lookup))


async def _look_up(loop: asyncio.AbstractEventLoop, to: Endpoint) -> Addresses:
    return await loop.run_in_executor(_THREADS, lambda: socket.getaddrinfo(to.host, to.port, type=socket.SOCK_STREAM))


def _on_lookup_done(key: tuple[asyncio.AbstractEventLoop, Endpoint], done: "asyncio.Future[Addresses]") -> None:
    _in_flight.pop(key, None)
    if not done.cancelled():
        done.exception()  # mark it as retrieved: every waiter may have been cancelled


def _shuffled(addresses: Addresses) -> Addresses:
    """Shuffle the addresses of each family; keep the families in the system's preferred order (RFC 6724)."""
    result: Addresses = []
    for _, group in groupby(addresses, key=lambda each: each[0]):
        same_family = list(group)
        random.shuffle(same_family)
        result += same_family
    return result


@lru_cache(maxsize=1024)
def _literal(to: Endpoint) -> Addresses:
    """Return the address if the host is an IP address, else an empty list. This never blocks."""
    try:
        return socket.getaddrinfo(to.host, to.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (socket.gaierror, UnicodeError):
        return []
