"""A private loopback address in front of a link, for libraries that insist on dialling by themselves."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from gateway.contracts import CloseReason, Endpoint, Link, Phases, Relay
from gateway.measure import Histogram
from gateway.relay.redial import retry_dial
from gateway.relay.sockets import tune


@dataclass(frozen=True)
class Doorway:
    """A loopback port that lets one connection of ours through.

    Args:
        port: Where to connect to, on 127.0.0.1.
        admit: Call with our own end's address once it is dialled: joins it, and nobody else, to the target.
    """

    port: int
    admit: "Callable[[tuple[str, int]], asyncio.Task[Relay]]"


@asynccontextmanager
async def doorway(link: Link, target: Endpoint, phases: Phases) -> AsyncIterator[Doorway]:
    """Open a doorway to `target`; whatever went through it ends with the block."""
    listener = socket.socket()
    admissions: list[asyncio.Task[Relay]] = []
    try:
        listener.setblocking(False)
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)

        def admit(ours: tuple[str, int]) -> "asyncio.Task[Relay]":
            task = asyncio.ensure_future(_admit(listener, ours, link, target, phases))
            admissions.append(task)
            return task

        yield Doorway(listener.getsockname()[1], admit)
    finally:
        listener.close()
        for task in admissions:
            if not task.done():
                task.cancel()
            elif not task.cancelled() and task.exception() is None:
                task.result().abort(CloseReason.ABORTED)
        await asyncio.gather(*admissions, return_exceptions=True)


async def _admit(
    listener: socket.socket, ours: tuple[str, int], link: Link, target: Endpoint, phases: Phases
) -> Relay:
    while True:
        accepted, peer = await _accept(listener)
        if peer == ours:
            break
        accepted.close()  # another local process; only our own connection goes through
    tune(accepted)
    try:
        with phases(link.dial_phase):
            return await retry_dial(
                lambda within: link.join(accepted, target, Histogram(), within), phases.on_abandoned
            )
    except BaseException:
        accepted.close()
        raise


async def _accept(listener: socket.socket) -> tuple[socket.socket, tuple[str, int]]:
    """Accept a connection; unlike `loop.sock_accept`, a cancellation loses none that was accepted already."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            accepted, peer = listener.accept()
        except BlockingIOError:
            arrived = asyncio.Event()
            loop.add_reader(listener, arrived.set)
            try:
                await arrived.wait()
            finally:
                loop.remove_reader(listener)
        else:
            return accepted, peer
