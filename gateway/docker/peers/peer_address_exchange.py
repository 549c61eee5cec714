"""Exchanges the addresses of containers with the gateways on other swarm nodes (peers)."""

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterator, Mapping

from gateway.docker.consumer_registry import Consumer, ConsumerRegistry
from gateway.docker.options import Grant, SwarmPeerOptions
from gateway.docker.peers.container_address_reports import (
    ContainerAddressReport,
    PeerNetwork,
    build_report,
    consumers_of,
    encode,
    merge_consumers,
    shared_networks,
)
from gateway.docker.peers.peer_connection import HEARTBEAT_INTERVAL, SwarmPeer
from gateway.docker.peers.peer_connection_manager import PeerConnectionManager
from gateway.docker.peers.tls_contexts import contexts
from gateway.docker.snapshot import EngineSnapshot
from gateway.errors import GatewayError
from gateway.event_wait import wait_at_most

log = logging.getLogger(__name__)

_SECRET_RETRY = 10.0
"""Seconds between attempts to read the secret."""


class PeerAddressExchange:
    """Exchanges container addresses with gateways on other nodes; implements `SupervisedComponent`.

    Args:
        options: The configuration.
        instance: This gateway's name.
        grants: The rules in `docker.grants`.
        strict: Returns `gateway.strict`. If true, only `docker.grants` admits containers; labels do not.
        observed: Returns the most recent snapshot of this node's engine.
        registry: The consumers (containers that use backends) by address. `PeerAddressExchange` sends this node's
            consumers to the peers, and adds the peers' consumers.
    """

    def __init__(
        self,
        options: SwarmPeerOptions,
        instance: str,
        grants: tuple[Grant, ...],
        strict: Callable[[], bool],
        observed: Callable[[], EngineSnapshot | None],
        registry: ConsumerRegistry,
    ) -> None:
        self._options = options
        self._instance = instance
        self._grants = grants
        self._strict = strict
        self._observed = observed
        self._registry = registry
        self._dirty = asyncio.Event()
        self._connections: PeerConnectionManager | None = None
        self._problem = ""
        self._encoded_from: tuple[EngineSnapshot | None, Mapping[str, Consumer]] = None, {}
        """The snapshot and the consumers from which the current reports of this gateway (`_lines`) were built."""
        self._lines: dict[PeerNetwork, bytes] = {}
        self._reports: list[tuple[ContainerAddressReport, dict[str, Consumer]]] = []
        """The most recent report of each peer, and the consumers in the report."""
        self._only_grants = False

    async def run(self, ready: Callable[[], None]) -> None:
        """Exchange reports until cancelled. Call `ready` after reading the secret, without waiting for peers."""
        tls = await self._keys()
        self._registry.watchers.append(self._wake)
        try:
            async with asyncio.TaskGroup() as group:
                connections = self._connections = PeerConnectionManager(self._options, group, tls, self._dirty.set)
                group.create_task(connections.discover())
                while True:
                    self._dirty.clear()
                    self._update(connections)
                    ready()
                    await wait_at_most(self._dirty, HEARTBEAT_INTERVAL)
        finally:
            self._connections, self._reports = None, []
            self._registry.watchers.remove(self._wake)
            self._registry.update_remote({})

    @property
    def known(self) -> list[SwarmPeer]:
        """All discovered peers."""
        return list(self._connections.peers.values()) if self._connections else []

    def warnings(self) -> Iterator[str]:
        """Yield a warning for each problem, such as a peer that is not connected."""
        if self._problem:
            yield self._problem
        yield from self._connections.listen_errors.values() if self._connections else ()
        for each in self.known:
            who = f"peer {each.address} on network {each.network.name}"
            if each.problem:
                yield f"{who}: {each.problem}"
            elif each.report is not None and each.report.instance == self._instance:
                yield f"{who} has the same gateway.instance, {self._instance}: give each gateway its own"

    def _wake(self, _: dict[str, Consumer]) -> None:
        self._dirty.set()

    async def _keys(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        """Read the secret, and return the TLS contexts. Retry until the secret is valid.

        An invalid secret raises no error, because the rest of the gateway works without peers.
        """
        while True:
            try:
                found = await asyncio.to_thread(contexts, self._options.secret)
            except GatewayError as error:
                if self._problem != str(error):
                    log.warning("docker: peers are not available", extra={"detail": str(error)})
                self._problem = str(error)
                await asyncio.sleep(_SECRET_RETRY)
            else:
                self._problem = ""
                return found

    def _update(self, connections: PeerConnectionManager) -> None:
        """Send this node's reports to the peers, and update the peers' consumers in the consumer registry."""
        observed, here = self._observed(), self._registry.local
        if observed is not None and (observed is not self._encoded_from[0] or here is not self._encoded_from[1]):
            self._encoded_from = observed, here
            self._lines = {
                each: encode(build_report(self._instance, each, observed, here)) for each in shared_networks(observed)
            }
        connections.update(self._lines)
        reports, strict = connections.reports(), self._strict()
        if strict is not self._only_grants:
            self._reports, self._only_grants = [], strict
        if [id(each) for each in reports] == [id(each) for each, _ in self._reports]:
            return
        before = {id(each): found for each, found in self._reports}
        self._reports = [
            (each, before[id(each)] if id(each) in before else consumers_of(each, self._grants, strict=strict))
            for each in reports
        ]
        self._registry.update_remote(merge_consumers(found for _, found in self._reports))
