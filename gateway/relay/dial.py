"""A connected socket to a host and port, with the phases timed and every failure named."""

import asyncio
import errno
import os
import re
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import aiohappyeyeballs

from gateway.contracts import Endpoint, Phases, Stream
from gateway.errors import DialError, Reason
from gateway.relay.resolver import resolve
from gateway.relay.sockets import tune

DIAL_TIMEOUT = 10.0
"""Seconds for the lookup and the connection together."""
Resolve = Callable[[Endpoint], Awaitable[list[Any]]]
"""Gives the addresses of an endpoint, as `socket.getaddrinfo` does."""
MakeSocket = Callable[[int, int, int], socket.socket]
"""Makes a socket of a family, type and protocol, in the network that it is to dial from."""
_NEXT_ADDRESS_AFTER = 0.25
"""RFC 8305, section 8: when to try a name's next address beside a silent one."""
_NUMBERS = re.compile(r"\[Errno (\d+)\]")
_REFUSED = {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES, errno.EPERM}


async def dial(
    to: Endpoint,
    timed: Phases,
    timeout: float,  # noqa: ASYNC109 - told apart from the caller's own
    look_up: Resolve = resolve,
    make: MakeSocket = socket.socket,
) -> Stream:
    """A non-blocking socket connected to `to`; counts the phases `dns` and `tcp`.

    Args:
        to: Where.
        timed: Where to count.
        timeout: Seconds for all of it.
        look_up: Finds the addresses.
        make: Makes the socket.

    Raises:
        DialError: It cannot be reached.
    """
    try:
        async with asyncio.timeout(timeout):
            with timed("dns"):
                addresses = await look_up(to)
            with timed("tcp"):
                sock = await _connect(addresses, make)
                _refuse_itself(sock)
    except TimeoutError as error:
        raise DialError(Reason.TIMEOUT, f"{to}: no connection within {timeout:.3g} s") from error
    except socket.gaierror as error:
        raise DialError(Reason.DNS, f"{to.host}: {error.strerror}") from error
    except UnicodeError as error:
        raise DialError(Reason.DNS, f"{to.host}: no host name: {error}") from error
    except OSError as error:
        raise DialError(_reason(error), f"{to}: {error.strerror or error}") from error
    tune(sock)
    return sock


async def _connect(addresses: list[Any], make: MakeSocket) -> Stream:
    """A connection to the first address that answers; several are tried side by side (RFC 8305)."""
    if len(addresses) > 1:
        return await aiohappyeyeballs.start_connection(
            addresses, happy_eyeballs_delay=_NEXT_ADDRESS_AFTER, socket_factory=lambda info: make(*info[:3])
        )
    family, kind, protocol, _, address = addresses[0]
    sock = make(family, kind, protocol)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


def _refuse_itself(sock: Stream) -> None:
    """Nobody listens, and we dialled from the very port (RFC 9293, section 3.5: simultaneous open)."""
    try:
        if sock.getsockname() == sock.getpeername():
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
    except OSError:  # it may be gone already
        sock.close()
        raise


def _reason(error: OSError) -> Reason:
    # Of several addresses that fail differently, aiohappyeyeballs tells in its words only.
    numbers = {error.errno} if error.errno else {int(each) for each in _NUMBERS.findall(str(error))}
    if numbers == {errno.ETIMEDOUT}:
        return Reason.TIMEOUT
    return Reason.REFUSED if numbers and numbers <= _REFUSED else Reason.RESET
