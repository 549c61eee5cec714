"""Forwards connections from a loopback port to a target, for libraries that cannot use an existing socket."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from gateway.contracts.config_types import HostPort
from gateway.contracts.link import SocketConnector
from gateway.contracts.phase_timer import PhaseTimer
from gateway.contracts.relay import Relay
from gateway.contracts.states import CloseReason
from gateway.metric_types import Histogram
from gateway.relay.socket_relay import SocketRelay
from gateway.relay.sockets import accept_connection, tune


@dataclass(frozen=True)
class LoopbackForwarder:
    """A loopback port that forwards this process's connections to a target, and closes other processes' connections.

    Args:
        port: The port on 127.0.0.1 to connect to.
        join: Receives the local address of a socket. Accepts the connection of this socket, and relays it to the
            target. Before you call `join`, start to connect the socket to `port`. The returned task ends when the
            relay has started.
    """

    port: int
    join: "Callable[[tuple[str, int]], asyncio.Task[Relay]]"


@asynccontextmanager
async def loopback_forwarder(
    link: SocketConnector, target: HostPort, phases: PhaseTimer
) -> AsyncIterator[LoopbackForwarder]:
    """Open a loopback port to a target. At the end of the `with` block, abort all connections through the port.

    Args:
        link: The link through which to connect to the target.
        target: The target.
        phases: Receives the duration of each phase of the connection attempt to the target.
    """
    listener = socket.socket()
    joins: list[asyncio.Task[Relay]] = []
    try:
        listener.setblocking(False)
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)

        def join(local: tuple[str, int]) -> "asyncio.Task[Relay]":
            task = asyncio.ensure_future(_join(listener, local, link, target, phases))
            joins.append(task)
            return task

        yield LoopbackForwarder(listener.getsockname()[1], join)
    finally:
        listener.close()
        for task in joins:
            if not task.done():
                task.cancel()
            elif not task.cancelled() and task.exception() is None:
                task.result().abort(CloseReason.ABORTED)
        await asyncio.gather(*joins, return_exceptions=True)


async def _join(
    listener: socket.socket, local: tuple[str, int], link: SocketConnector, target: HostPort, phases: PhaseTimer
) -> Relay:
    while True:
        accepted, peer = await accept_connection(listener)
        if peer == local:
            break
        accepted.close()  # another process has connected to the port
    tune(accepted)
    try:
        return SocketRelay(accepted, await link.socket(target, phases), Histogram())
    except BaseException:
        accepted.close()
        raise
