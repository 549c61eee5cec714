"""No tunnel: the network that this host is in. The outermost link of every chain."""

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator
from math import inf
from typing import Any

import aiohappyeyeballs

from gateway.contracts import Endpoint, Link, Phases, Progress, Relay, Stream, TunnelState
from gateway.errors import DialError, Reason
from gateway.measure import Histogram
from gateway.relay.resolver import resolve
from gateway.relay.sockets import tune
from gateway.relay.straight import StraightRelay

DIAL_TIMEOUT = 10.0
"""Seconds for the lookup and the connection together."""
_NEXT_ADDRESS_AFTER = 0.25
"""RFC 8305, section 8: when to try a name's next address beside a silent one."""
_REFUSED = {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES, errno.EPERM}


class DirectLink:
    """Dials from this host; never lost.

    Args:
        timeout: Seconds for one dial.
    """

    dial_phase = "tcp"
    leads_to = "here"

    def __init__(self, timeout: float = DIAL_TIMEOUT) -> None:
        self._timeout = timeout

    async def socket(self, to: Endpoint, phases: Phases | None = None) -> Stream:
        """See `gateway.contracts.Link`; counts the phases `dns` and `tcp`."""
        return await self._dial(to, phases or Phases(), self._timeout)

    async def _dial(self, to: Endpoint, timed: Phases, timeout: float) -> Stream:  # noqa: ASYNC109
        try:
            async with asyncio.timeout(timeout):
                with timed("dns"):
                    addresses = await resolve(to)
                with timed("tcp"):
                    sock = await _connect(addresses)
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

    async def join(self, client: Stream, to: Endpoint, latency: Histogram, within: float = inf) -> Relay:
        """See `gateway.contracts.Link`."""
        return StraightRelay(client, await self._dial(to, Phases(), min(self._timeout, within)), latency)

    async def lost(self) -> str:
        """Never returns."""
        await asyncio.Event().wait()
        return "never"

    def renew(self) -> None:
        """Nothing was proved to anybody."""

    def rtt(self) -> float | None:
        """Not measured: there is no far side."""
        return None

    def details(self) -> dict[str, object]:
        """Nothing to tell."""
        return {}


class DirectTunnel:
    """The tunnel that is always open."""

    far_side = "this host"

    @contextlib.asynccontextmanager
    async def open(self, via: Link, progress: Progress) -> AsyncIterator[Link]:
        """See `gateway.contracts.Tunnel`."""
        del via
        progress(TunnelState.CONNECTING)
        yield DirectLink()


async def _connect(addresses: list[Any]) -> Stream:
    """A connection to the first address that answers; several are tried side by side (RFC 8305)."""
    if len(addresses) > 1:
        return await aiohappyeyeballs.start_connection(addresses, happy_eyeballs_delay=_NEXT_ADDRESS_AFTER)
    family, kind, protocol, _, address = addresses[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


def _reason(error: OSError) -> Reason:
    if error.errno == errno.ETIMEDOUT:
        return Reason.TIMEOUT
    return Reason.REFUSED if error.errno in _REFUSED else Reason.RESET
