"""Sends peers the addresses of this node's containers, and adds theirs to the directory of consumers."""

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterator, Mapping

from gateway.docker.consumers import Consumer, Directory
from gateway.docker.model import Observed
from gateway.docker.options import Grant, PeerOptions
from gateway.docker.peers.claims import Meeting, Report, consumers, meetings, merged, report, written
from gateway.docker.peers.exchange import Exchange
from gateway.docker.peers.following import BEAT, Peer, either
from gateway.docker.peers.keys import contexts
from gateway.errors import GatewayError

log = logging.getLogger(__name__)

_AGAIN = 10.0
"""Seconds between two attempts to read the secret."""


class Peers:
    """The agents of other nodes; a `gateway.contracts.Unit`.

    Args:
        options: What is configured.
        instance: This agent's name.
        grants: This gateway's.
        strict: Returns whether only grants count.
        observed: Returns the last observation of this node's engine.
        directory: Consumers by address: this node's part is sent to peers, and theirs is added to it.
    """

    def __init__(
        self,
        options: PeerOptions,
        instance: str,
        grants: tuple[Grant, ...],
        strict: Callable[[], bool],
        observed: Callable[[], Observed | None],
        directory: Directory,
    ) -> None:
        self._options = options
        self._instance = instance
        self._grants = grants
        self._strict = strict
        self._observed = observed
        self._directory = directory
        self._dirty = asyncio.Event()
        self._exchange: Exchange | None = None
        self._trouble = ""
        self._seen: tuple[Observed | None, Mapping[str, Consumer]] = None, {}
        """What the lines were made from."""
        self._lines: dict[Meeting, bytes] = {}
        self._reports: list[tuple[Report, dict[str, Consumer]]] = []
        """The last reports, with their consumers."""
        self._only_grants = False

    async def run(self, ready: Callable[[], None]) -> None:
        """Exchange reports until cancelled."""
        tls = await self._keys()
        self._directory.watchers.append(self._wake)
        try:
            async with asyncio.TaskGroup() as group:
                exchange = self._exchange = Exchange(self._options, group, tls, self._dirty.set)
                group.create_task(exchange.discover())
                while True:
                    self._dirty.clear()
                    self._look(exchange)
                    ready()
                    await either(self._dirty, BEAT)
        finally:
            self._exchange, self._reports = None, []
            self._directory.watchers.remove(self._wake)
            self._directory.elsewhere({})

    @property
    def known(self) -> list[Peer]:
        """Every peer that was found."""
        return list(self._exchange.peers.values()) if self._exchange else []

    def warnings(self) -> Iterator[str]:
        """Yield a line for each problem."""
        if self._trouble:
            yield self._trouble
        yield from self._exchange.trouble.values() if self._exchange else ()
        for each in self.known:
            who = f"peer {each.address} on network {each.meeting.name}"
            if each.trouble:
                yield f"{who}: {each.trouble}"
            elif each.report is not None and each.report.instance == self._instance:
                yield f"{who} has the same gateway.instance, {self._instance}: give each agent its own"

    def _wake(self, _: dict[str, Consumer]) -> None:
        self._dirty.set()

    async def _keys(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        """Read the secret; retry until it can be used, since the rest of the gateway works without it."""
        while True:
            try:
                found = await asyncio.to_thread(contexts, self._options.secret)
            except GatewayError as error:
                if self._trouble != str(error):
                    log.warning("docker: peers are not available", extra={"detail": str(error)})
                self._trouble = str(error)
                await asyncio.sleep(_AGAIN)
            else:
                self._trouble = ""
                return found

    def _look(self, exchange: Exchange) -> None:
        """Send what changed on this node, and take over what peers report."""
        observed, here = self._observed(), self._directory.here
        if observed is not None and (observed is not self._seen[0] or here is not self._seen[1]):
            self._seen = observed, here
            self._lines = {each: written(report(self._instance, each, observed, here)) for each in meetings(observed)}
        exchange.update(self._lines)
        reports, strict = exchange.reports(), self._strict()
        if strict is not self._only_grants:
            self._reports, self._only_grants = [], strict
        if [id(each) for each in reports] == [id(each) for each, _ in self._reports]:
            return
        before = {id(each): found for each, found in self._reports}
        self._reports = [
            (each, before[id(each)] if id(each) in before else consumers(each, self._grants, strict=strict))
            for each in reports
        ]
        self._directory.elsewhere(merged(found for _, found in self._reports))
