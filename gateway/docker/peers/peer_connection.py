"""The connection to one peer, the agent of another node, and its reports."""

import asyncio
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.docker.peers.reports import AddressReport, SharedNetwork, decode
from gateway.supervision.backoff import Backoff, BackoffPolicy

log = logging.getLogger(__name__)

HEARTBEAT_INTERVAL = 1.0
"""Seconds between two lines of an agent; an empty line means that nothing changed."""
PEER_TIMEOUT = 5.0
"""Seconds without a line after which a peer's report is dropped; also the time limit for connecting."""
_MAX_REPORT = 64 * 1024 * 1024
"""Bytes of a report: a few hundred for each container of one node."""
_RECONNECT = BackoffPolicy(first=0.25, cap=5.0, floor=0.05)


@dataclass
class PeerAgent:
    """The agent of another node.

    Args:
        network: The shared network.
        address: The peer's address on it.
        report: The last report of the current connection; None: there is none.
        problem: Why there is no report; empty: there is one.
    """

    network: SharedNetwork
    address: str
    report: AddressReport | None = None
    problem: str = "not connected yet"
    seen: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the peer connects to this agent, so that it is worth trying at once."""


async def maintain_peer(
    peer: PeerAgent, port: int, tls: ssl.SSLContext, changed: Callable[[], None], wanted: Callable[[], bool]
) -> None:
    """Keep a peer's report current, and reconnect with backoff.

    Args:
        peer: The peer; its `report` and `problem` are updated.
        port: The port that it listens on.
        tls: The client's context.
        changed: Called when the report changes or is dropped.
        wanted: Returns whether to reconnect after a failure.
    """
    backoff = Backoff(_RECONNECT)
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        try:
            await _listen(peer, port, tls, changed)
        except (OSError, TimeoutError, ValueError) as error:
            problem = _explained(error)
        finally:
            peer.report = None
            changed()
        if problem != peer.problem:
            log.warning("docker: peer not connected", extra={**_named(peer), "detail": problem})
        peer.problem = problem
        if not wanted():
            return
        backoff.succeeded(loop.time() - began)
        await wait_at_most(peer.seen, backoff.next())
        peer.seen.clear()


async def _listen(peer: PeerAgent, port: int, tls: ssl.SSLContext, changed: Callable[[], None]) -> None:
    """Connect and read reports; ends only with an error."""
    async with asyncio.timeout(PEER_TIMEOUT):
        reader, writer = await asyncio.open_connection(
            peer.address, port, ssl=tls, limit=_MAX_REPORT, local_addr=(peer.network.address, 0)
        )
    try:
        while True:
            async with asyncio.timeout(PEER_TIMEOUT):
                line = await reader.readline()
            if not line.endswith(b"\n"):
                raise ConnectionError("the peer closed the connection")
            if line == b"\n":
                continue
            received = decode(line, peer.network, peer.address)
            if peer.report is None:
                log.info("docker: peer connected", extra={**_named(peer), "peer": received.instance})
            peer.report, peer.problem = received, ""
            changed()
    finally:
        writer.transport.abort()


def _named(peer: PeerAgent) -> dict[str, str]:
    return {"network": peer.network.name, "address": peer.address}


def _explained(error: Exception) -> str:
    """Say what went wrong, and what to do."""
    if isinstance(error, TimeoutError):
        return f"no answer for {PEER_TIMEOUT:g} s"
    if isinstance(error, ssl.SSLError) or (isinstance(error, ConnectionResetError) and not error.args):
        return "the TLS handshake failed: docker.peers.secret_file must have the same content on every node"
    return str(error) or type(error).__name__


async def wait_at_most(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, for at most `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
