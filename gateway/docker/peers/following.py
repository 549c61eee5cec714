"""The connection to one agent of another node: its reports, until it is silent or gone."""

import asyncio
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.docker.peers.claims import Meeting, Report, read
from gateway.supervision.backoff import Backoff, BackoffPolicy

log = logging.getLogger(__name__)

BEAT = 1.0
"""Seconds after which an agent that has no news says so."""
SILENCE = 5.0
"""Seconds of silence after which nothing that an agent has said counts any more; also the limit for a connection."""
_LONGEST = 64 * 1024 * 1024
"""Bytes of a report: a few hundred for each container of one node."""
_RECONNECT = BackoffPolicy(first=0.25, cap=5.0, floor=0.05)


@dataclass
class Peer:
    """An agent of another node, as it is known here.

    Args:
        meeting: The network on which it is met.
        address: Its address there.
        report: Its last one; None: there is none that counts.
        trouble: Why there is none.
    """

    meeting: Meeting
    address: str
    report: Report | None = None
    trouble: str = "not connected yet"
    seen: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it has connected to us: it listens, then."""


async def follow(
    peer: Peer, port: int, tls: ssl.SSLContext, changed: Callable[[], None], wanted: Callable[[], bool]
) -> None:
    """Keep what an agent reports, and connect again when that ends.

    Args:
        peer: Who; is kept current.
        port: Where it listens.
        tls: For the side that connects.
        changed: Called when what is known of it has changed.
        wanted: Tells whether to try again after the connection has failed.
    """
    backoff = Backoff(_RECONNECT)
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        try:
            await _listen(peer, port, tls, changed)
        except (OSError, TimeoutError, ValueError) as error:
            trouble = _told(error)
        finally:
            peer.report = None
            changed()
        if trouble != peer.trouble:
            log.warning("docker: an agent of another node is not heard", extra={**_named(peer), "detail": trouble})
        peer.trouble = trouble
        if not wanted():
            return
        backoff.succeeded(loop.time() - began)
        await either(peer.seen, backoff.next())
        peer.seen.clear()


async def _listen(peer: Peer, port: int, tls: ssl.SSLContext, changed: Callable[[], None]) -> None:
    """Take in reports; ends with an error only."""
    async with asyncio.timeout(SILENCE):
        reader, writer = await asyncio.open_connection(
            peer.address, port, ssl=tls, limit=_LONGEST, local_addr=(peer.meeting.address, 0)
        )
    try:
        while True:
            async with asyncio.timeout(SILENCE):
                line = await reader.readline()
            if not line.endswith(b"\n"):
                raise ConnectionError("it ended the connection")
            if line == b"\n":
                continue
            told = read(line, peer.meeting, peer.address)
            if peer.report is None:
                log.info("docker: an agent of another node is heard", extra={**_named(peer), "peer": told.instance})
            peer.report, peer.trouble = told, ""
            changed()
    finally:
        writer.transport.abort()


def _named(peer: Peer) -> dict[str, str]:
    return {"network": peer.meeting.name, "address": peer.address}


def _told(error: Exception) -> str:
    """What went wrong, and what to do."""
    if isinstance(error, TimeoutError):
        return f"it has said nothing for {SILENCE:g} s"
    if isinstance(error, ssl.SSLError) or (isinstance(error, ConnectionResetError) and not error.args):
        return "it does not have our key: docker.peers.secret_file must hold the same on every node"
    return str(error) or type(error).__name__


async def either(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, at most so long."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
