"""Finds the gateways on the other nodes of a swarm (peers), and exchanges container addresses with them."""

import asyncio
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from functools import partial

from gateway.docker.options import SwarmPeerOptions
from gateway.docker.peers.container_address_reports import ContainerAddressReport, PeerNetwork
from gateway.docker.peers.peer_connection import (
    HEARTBEAT_INTERVAL,
    PEER_TIMEOUT,
    SwarmPeer,
    maintain_peer,
)
from gateway.event_wait import wait_at_most
from gateway.relay.sockets import accept_connection

log = logging.getLogger(__name__)

_LOOKUP_INTERVAL = 5.0
"""Seconds between DNS lookups of the peers."""
_LOOKUP_TIMEOUT = 30.0
"""The timeout of one DNS lookup, in seconds."""
_MAX_HANDSHAKES = 2
"""The maximum number of concurrent TLS handshakes with one address, so that one client cannot use all file
descriptors."""
_ACCEPT_RETRY = 0.1
"""Seconds to wait after a failed `accept`."""
_HEARTBEAT = b"\n"


class PeerConnectionManager:
    """Finds the gateways on other swarm nodes (peers), and exchanges reports of container addresses with them.

    The gateway connects to each peer to receive the peer's reports. The gateway sends its own reports over the
    connections that it accepts from the peers.

    Args:
        options: The configuration.
        group: Owns the tasks of the connections.
        tls: The TLS contexts of the server and the client.
        changed: Called when a peer's report changes or is removed.
    """

    def __init__(
        self,
        options: SwarmPeerOptions,
        group: asyncio.TaskGroup,
        tls: tuple[ssl.SSLContext, ssl.SSLContext],
        changed: Callable[[], None],
    ) -> None:
        self._options = options
        self._group = group
        self._listening, self._connecting = tls
        self._changed = changed
        self._lines_changed = asyncio.Event()
        self._lines: dict[str, bytes] = {}
        """For each network ID: the encoded report that this gateway sends."""
        self._servers: dict[PeerNetwork, asyncio.Task[None]] = {}
        self._network_added = asyncio.Event()
        """An `asyncio.Event` that is set when the gateway starts to listen on one more network."""
        self._handshakes: Counter[str] = Counter()
        """The number of TLS handshakes in progress, by the address of the client."""
        self._listed: dict[str, set[str]] = {}
        """For each network ID: the addresses of the peers according to DNS."""
        self._maintained: set[tuple[str, str]] = set()
        self.peers: dict[tuple[str, str], SwarmPeer] = {}
        """The peers, by the network's ID and the peer's address on the network."""
        self.listen_errors: dict[PeerNetwork, str] = {}
        """For each network on which the gateway cannot listen: the reason."""

    def update(self, lines: dict[PeerNetwork, bytes]) -> None:
        """Listen only on the networks in `lines`. On each network, send the network's report to the peers.

        Args:
            lines: The encoded report for each network.
        """
        for network in self._servers.keys() - lines.keys():
            self._servers.pop(network).cancel()
        self.listen_errors = {network: text for network, text in self.listen_errors.items() if network in lines}
        by_id = {network.id: line for network, line in lines.items()}
        if by_id != self._lines:
            self._lines = by_id
            changed, self._lines_changed = self._lines_changed, asyncio.Event()
            changed.set()
        for network in lines.keys() - self._servers.keys():
            self._serve(network)

    def reports(self) -> list[ContainerAddressReport]:
        """Return the latest report of each connected peer, for the networks on which this gateway listens."""
        networks = {network.id for network in self._servers}
        return [each.report for (network, _), each in self.peers.items() if each.report and network in networks]

    async def discover(self) -> None:
        """Look up the peers on each network at intervals, until cancelled."""
        while True:
            for network in list(self._servers):
                found = await self._resolve(network)
                if found is not None:
                    self._listed[network.id] = found - {network.address}
                for address in self._listed.get(network.id, ()):
                    self._add_peer(network, address)
            await wait_at_most(self._network_added, _LOOKUP_INTERVAL)
            self._network_added.clear()

    def _serve(self, network: PeerNetwork) -> None:
        port = self._options.port
        try:
            sock = socket.create_server((network.address, port))
        except OSError as error:
            self.listen_errors[network] = f"docker.peers: cannot listen on {network.address}:{port}: {error.strerror}"
            return
        self.listen_errors.pop(network, None)
        sock.setblocking(False)
        self._network_added.set()
        self._servers[network] = self._group.create_task(self._accept(network, sock))

    async def _accept(self, network: PeerNetwork, sock: socket.socket) -> None:
        with sock:
            while True:
                try:
                    client, (address, *_) = await accept_connection(sock)
                except OSError as error:  # the process has no free descriptors, or the client has disconnected
                    log.debug("docker: cannot accept a connection from a peer", extra={"detail": str(error)})
                    await asyncio.sleep(_ACCEPT_RETRY)
                    continue
                if self._handshakes[address] >= _MAX_HANDSHAKES:
                    client.close()
                    continue
                client.setblocking(False)
                self._handshakes[address] += 1
                accepted = [client]
                task = self._group.create_task(self._handshake(network, accepted, address))
                task.add_done_callback(partial(_close_all, accepted))

    async def _handshake(self, network: PeerNetwork, accepted: list[socket.socket], address: str) -> None:
        """Complete the TLS handshake with a peer, and send reports until the connection closes.

        Args:
            network: The network over which the peer has connected.
            accepted: A list with the accepted socket. This method takes the socket from the list. If this method is
                cancelled before it starts, the socket stays in the list, and the caller must close the socket.
            address: The address of the peer.
        """
        loop, client = asyncio.get_running_loop(), accepted.pop()
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol, client, ssl=self._listening, ssl_handshake_timeout=PEER_TIMEOUT
            )
        except (OSError, TimeoutError) as error:
            detail = {"network": network.name, "address": address, "detail": str(error)}
            log.debug("docker: TLS handshake with a peer failed", extra=detail)
            return
        finally:
            self._handshakes -= Counter({address: 1})
        # A client that completes the handshake has the pre-shared key. Therefore, the client is a peer, even if DNS
        # does not list its address yet.
        self._add_peer(network, address)
        if (peer := self.peers.get((network.id, address))) is not None:
            peer.seen.set()
        await self._send_reports(network, asyncio.StreamWriter(transport, protocol, reader, loop))

    async def _send_reports(self, network: PeerNetwork, writer: asyncio.StreamWriter) -> None:
        """Send a peer the current report for a network, and the new report after each change.

        Send heartbeats between the reports.
        """
        sent = _HEARTBEAT
        try:
            while network in self._servers:
                line, changed = self._lines.get(network.id, _HEARTBEAT), self._lines_changed
                writer.write(line if line != sent else _HEARTBEAT)
                sent = line
                async with asyncio.timeout(PEER_TIMEOUT):
                    await writer.drain()
                await wait_at_most(changed, HEARTBEAT_INTERVAL)
        except (OSError, TimeoutError) as error:
            log.debug("docker: connection to a peer lost", extra={"detail": str(error)})
        finally:
            writer.transport.abort()

    async def _resolve(self, network: PeerNetwork) -> set[str] | None:
        """Return the addresses of the peers on a network, from DNS; None if the lookup failed."""
        name = f"{self._options.name}.{network.name}"
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_LOOKUP_TIMEOUT):
                found = await loop.getaddrinfo(name, self._options.port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            return set() if error.errno == socket.EAI_NONAME else None
        except TimeoutError:
            return None
        return {str(each[4][0]) for each in found}

    def _add_peer(self, network: PeerNetwork, address: str) -> None:
        """Connect to a new peer. Ignore known peers, and addresses that are not on the network."""
        key = (network.id, address)
        if key in self._maintained or not network.holds(address):
            return
        self._maintained.add(key)
        peer = self.peers[key] = SwarmPeer(network, address)

        def wanted() -> bool:
            return address in self._listed.get(network.id, ()) and network in self._servers

        def over(_: "asyncio.Task[None]") -> None:
            self._maintained.discard(key)
            self.peers.pop(key, None)

        task = self._group.create_task(
            maintain_peer(peer, self._options.port, self._connecting, self._changed, wanted)
        )
        task.add_done_callback(over)


def _close_all(accepted: list[socket.socket], _: object) -> None:
    for client in accepted:
        client.close()
