"""Names to addresses: one lookup at a time for each name, in threads of their own, all addresses in turn first.

A lookup blocks a thread for as long as its name server is silent. So however many clients ask for the same name, it
takes one thread, and nothing else waits for these.
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
"""What `socket.getaddrinfo` gives."""
_in_flight: dict[tuple[asyncio.AbstractEventLoop, Endpoint], asyncio.Future[Addresses]] = {}


def is_address(host: str) -> bool:
    """Whether it is an IP address, perhaps with a zone (RFC 4007), rather than a name."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


async def resolve(to: Endpoint) -> Addresses:
    """The addresses of `to`; those of one family in another order each time, so that a bad one is not always first.

    Raises:
        socket.gaierror, UnicodeError: There are none.
    """
    literal = _literal(to)
    if literal:
        return literal
    loop = asyncio.get_running_loop()
    key = (loop, to)
    looking = _in_flight.get(key)
    if looking is None:
        looking = _in_flight[key] = asyncio.ensure_future(_look_up(loop, to))
        looking.add_done_callback(lambda done: _landed(key, done))
    return _shuffled(await asyncio.shield(looking))


async def _look_up(loop: asyncio.AbstractEventLoop, to: Endpoint) -> Addresses:
    return await loop.run_in_executor(_THREADS, lambda: socket.getaddrinfo(to.host, to.port, type=socket.SOCK_STREAM))


def _landed(key: tuple[asyncio.AbstractEventLoop, Endpoint], done: "asyncio.Future[Addresses]") -> None:
    _in_flight.pop(key, None)
    if not done.cancelled():
        done.exception()  # whether or not somebody still waits


def _shuffled(addresses: Addresses) -> Addresses:
    """Families in the order that the system prefers (RFC 6724), the addresses of each in any."""
    found: Addresses = []
    for _, group in groupby(addresses, key=lambda each: each[0]):
        same = list(group)
        random.shuffle(same)
        found += same
    return found


@lru_cache(maxsize=1024)
def _literal(to: Endpoint) -> Addresses:
    """The one address that `to` is, or none: an address needs no resolver, and so no thread."""
    try:
        return socket.getaddrinfo(to.host, to.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (socket.gaierror, UnicodeError):
        return []
