"""Dials a host and port over TCP, measures DNS and connect times, and maps each failure to a reason."""

import asyncio
import errno
import os
import re
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import aiohappyeyeballs

from gateway.contracts.config_types import HostPort
from gateway.contracts.link import Stream
from gateway.contracts.phase_timer import PhaseTimer
from gateway.errors import DialError, FailureReason
from gateway.relay.fd_poller import WRITE, poller
from gateway.relay.resolver import resolve
from gateway.relay.sockets import tune_tcp

DIAL_TIMEOUT = 10.0
"""Default time limit, in seconds, for name resolution and connection establishment together."""
Resolver = Callable[[HostPort], Awaitable[list[Any]]]
"""Resolves a host and port to addresses in the format of `socket.getaddrinfo`."""
SocketFactory = Callable[[int, int, int], socket.socket]
"""Creates a socket from a family, a type and a protocol. The function can select a network namespace or a device."""
_HAPPY_EYEBALLS_DELAY = 0.25
"""Seconds between the starts of two connection attempts (RFC 8305, section 8: Connection Attempt Delay)."""
_ERRNO_PATTERN = re.compile(r"\[Errno (\d+)\]")
_REFUSED = {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES, errno.EPERM}


async def dial(
    to: HostPort,
    phases: PhaseTimer,
    timeout: float,  # noqa: ASYNC109 - on timeout, `dial` raises DialError; `asyncio.timeout` raises TimeoutError
    resolver: Resolver = resolve,
    socket_factory: SocketFactory = socket.socket,
) -> Stream:
    """Connect a non-blocking socket to `to`.

    Args:
        to: The host and port.
        phases: Records the durations of the phases `dns` and `tcp`.
        timeout: Time limit in seconds for name resolution and connection together.
        resolver: Resolves the host.
        socket_factory: Creates the socket.

    Returns:
        The connected socket. The caller owns it.

    Raises:
        DialError: The name does not resolve, or the host does not accept the connection.
    """
    try:
        async with asyncio.timeout(timeout):
            with phases("dns"):
                addresses = await resolver(to)
            with phases("tcp"):
                sock = await _connect(addresses, socket_factory)
                _reject_self_connection(sock)
    except TimeoutError as error:
        raise DialError(
            FailureReason.TIMEOUT,
            f"{to}: no connection within {timeout:.3g} s: check the address, the port and firewalls",
        ) from error
    except socket.gaierror as error:
        raise DialError(
            FailureReason.DNS, f"{to.host}: {error.strerror}: check the spelling and the DNS server"
        ) from error
    except UnicodeError as error:
        raise DialError(FailureReason.DNS, f"{to.host!r} is not a valid host name: correct it") from error
    except OSError as error:
        raise _dial_error(to, error) from error
    tune_tcp(sock)
    return sock


async def _connect(addresses: list[Any], socket_factory: SocketFactory) -> Stream:
    """Connect to the addresses with staggered, parallel attempts; return the first connection (RFC 8305)."""
    if len(addresses) > 1:
        return await aiohappyeyeballs.start_connection(
            addresses,
            happy_eyeballs_delay=_HAPPY_EYEBALLS_DELAY,
            socket_factory=lambda info: socket_factory(*info[:3]),
        )
    family, kind, protocol, _, address = addresses[0]
    sock = socket_factory(family, kind, protocol)
    try:
        sock.setblocking(False)
        await _connect_socket(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


async def _connect_socket(sock: Stream, address: Any) -> None:
    """Connect a non-blocking socket. Use the poller, because the event loop's `sock_connect` is slower.

    Args:
        sock: The socket.
        address: A numeric address, in the format of the socket's family.

    Raises:
        OSError: The connection failed.
    """
    error = sock.connect_ex(address)
    if error in (errno.EINPROGRESS, errno.EINTR):  # the kernel connects in the background (connect(2))
        fd, events = sock.fileno(), poller()
        connected = asyncio.get_running_loop().create_future()

        def on_event(_: int) -> None:
            events.remove(fd)
            if not connected.done():
                connected.set_result(None)

        events.add(fd, on_event, WRITE)
        try:
            await connected
        finally:
            events.remove(fd)
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, os.strerror(error))


def _reject_self_connection(sock: Stream) -> None:
    """If the socket is connected to itself, close the socket and raise an error.

    A socket can connect to itself if the target is on this host, no process listens on the target port, and the
    kernel chooses this port as the source port (RFC 9293, section 3.5: simultaneous open).

    Raises:
        ConnectionRefusedError: The socket is connected to itself.
        OSError: The connection has already failed.
    """
    try:
        if sock.getsockname() == sock.getpeername():
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
    except OSError:
        sock.close()
        raise


def _dial_error(to: HostPort, error: OSError) -> DialError:
    # If several addresses fail with different errors, the exception has no `errno`: find the numbers in its message.
    numbers = {error.errno} if error.errno else {int(each) for each in _ERRNO_PATTERN.findall(str(error))}
    text = ", ".join(sorted(map(os.strerror, numbers))) or str(error)
    if numbers == {errno.ETIMEDOUT}:
        return DialError(FailureReason.TIMEOUT, f"{to}: {text}: check the address, the port and firewalls")
    if numbers and numbers <= _REFUSED:
        return DialError(
            FailureReason.REFUSED, f"{to}: {text}: check firewalls, and that a server listens on this port"
        )
    return DialError(FailureReason.RESET, f"{to}: {text}")
