"""Connects to one peer (the gateway on another swarm node), and receives its reports of container addresses."""

import asyncio
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.backoff import Backoff, BackoffPolicy
from gateway.docker.peers.container_address_reports import ContainerAddressReport, PeerNetwork, decode
from gateway.event_wait import wait_at_most

log = logging.getLogger(__name__)

HEARTBEAT_INTERVAL = 1.0
"""The maximum time between two lines that a gateway sends to a peer, in seconds. An empty line is a heartbeat."""
PEER_TIMEOUT = 5.0
"""Time limit for the next line from a peer, in seconds. When it expires, the gateway disconnects, and removes the
peer's report. Also the time limit for connecting."""
_MAX_REPORT = 64 * 1024 * 1024
"""The maximum size of a report, in bytes. One container takes a few hundred bytes."""
_RECONNECT = BackoffPolicy(first=0.25, cap=5.0, floor=0.05)


@dataclass
class SwarmPeer:
    """The gateway on another swarm node, with its latest report.

    Args:
        network: A network that this gateway and the peer are on.
        address: The peer's address on this network.
        report: The latest report on the current connection; None if no report was received.
        problem: The reason why `report` is None; empty if a report was received.
    """

    network: PeerNetwork
    address: str
    report: ContainerAddressReport | None = None
    problem: str = "not connected yet"
    seen: asyncio.Event = field(default_factory=asyncio.Event)
    """An event that is set when the peer connects to this gateway. This gateway then reconnects to the peer without
    waiting."""


async def maintain_peer(
    peer: SwarmPeer, port: int, tls: ssl.SSLContext, changed: Callable[[], None], wanted: Callable[[], bool]
) -> None:
    """Keep the connection to a peer open and the peer's report current. Reconnect with backoff.

    Args:
        peer: The peer; its `report` and `problem` are updated.
        port: The port that the peer listens on.
        tls: The TLS context for the connection to the peer.
        changed: Called when the report changes or is removed.
        wanted: Returns whether to reconnect after a failure.
    """
    backoff = Backoff(_RECONNECT)
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        try:
            await _read_reports(peer, port, tls, changed)
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


async def _read_reports(peer: SwarmPeer, port: int, tls: ssl.SSLContext, changed: Callable[[], None]) -> None:
    """Connect to a peer, and read its reports until an error occurs."""
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


def _named(peer: SwarmPeer) -> dict[str, str]:
    return {"network": peer.network.name, "address": peer.address}


def _explained(error: Exception) -> str:
    """Return a message about a failed connection, with a remedy if one is known."""
    if isinstance(error, TimeoutError):
        return f"no data for {PEER_TIMEOUT:g} s"
    if isinstance(error, ssl.SSLError) or (isinstance(error, ConnectionResetError) and not error.args):
        return "the TLS handshake failed: docker.peers.secret_file must have the same content on every node"
    return str(error) or type(error).__name__
