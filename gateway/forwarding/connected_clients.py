"""Tracks the clients of one backend that are connected to a target. Counts them, and resets their connections."""

import asyncio
import random
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from gateway.contracts.config_types import HostPort
from gateway.contracts.relay import Relay
from gateway.contracts.states import CloseReason
from gateway.forwarding.client_connection_recorder import ConnectionRecord
from gateway.forwarding.consumer_usage import ConnectionSlot
from gateway.forwarding.drain_schedule import DrainSchedule, drain_order
from gateway.forwarding.target_path import LinkProvider, TargetPath
from gateway.query_cancel_parser import CancelKeyTap

_DRAIN_INTERVAL = (0.1, 0.4)


@dataclass(frozen=True)
class ConnectedClient:
    """The connection of a client to a target.

    Args:
        relay: Forwards the bytes.
        target_path: The target, and the uplink used.
        slot: The connection's slot in the quota of its consumer; None if the connection counts toward no quota.
        began: Monotonic time before which the client cannot have logged in: the time when the client was connected,
            or up to about a second earlier.
        login: The tap that reads the session's cancel key from the login; None if the kind has no cancel requests, or
            if the client sends a cancel request instead of a login.
        record: The client's record for the audit log and the trace; None if both are disabled.
    """

    __slots__ = ("began", "login", "record", "relay", "slot", "target_path")
    relay: Relay
    target_path: TargetPath
    slot: ConnectionSlot | None
    began: float
    login: CancelKeyTap | None
    record: ConnectionRecord | None


class ConnectedClients:
    """Tracks the clients of one backend that are connected to a target."""

    def __init__(self) -> None:
        self._by_ended: dict[asyncio.Future[CloseReason], ConnectedClient] = {}
        self._ended_to_backend = 0
        self._ended_from_backend = 0
        self._draining = False
        self.drained_targets: frozenset[HostPort] = frozenset()
        """Targets whose client connections are reset gradually, for example after a change of role. See `drain`."""
        self.superseded_targets: frozenset[HostPort] = frozenset()
        """Superseded primaries. `abort_superseded` resets connections to them immediately, to prevent lost writes."""

    def __len__(self) -> int:
        return len(self._by_ended)

    def __iter__(self) -> Iterator[ConnectedClient]:
        return iter(self._by_ended.values())

    @property
    def to_backend(self) -> int:
        """Number of bytes sent to the backend since the start."""
        return self._ended_to_backend + sum(each.relay.to_backend for each in self)

    @property
    def from_backend(self) -> int:
        """Number of bytes received from the backend since the start."""
        return self._ended_from_backend + sum(each.relay.from_backend for each in self)

    def add(self, connection: ConnectedClient) -> None:
        """Add a connection."""
        self._by_ended[connection.relay.ended] = connection

    def remove(self, ended: asyncio.Future[CloseReason]) -> ConnectedClient:
        """Remove and return the connection whose relay has ended. Its byte counts remain in the totals."""
        connection = self._by_ended.pop(ended)
        self.add_ended(connection.relay.to_backend, connection.relay.from_backend)
        return connection

    def add_ended(self, to_backend: int, from_backend: int) -> None:
        """Add the byte counts of ended connections to the totals."""
        self._ended_to_backend += to_backend
        self._ended_from_backend += from_backend

    def count_on(self, uplink: LinkProvider) -> int:
        """Return the number of clients that are connected to a target through `uplink`."""
        return sum(each.target_path.uplink is uplink for each in self)

    def abort_all(self) -> None:
        """Reset the connection of every client."""
        for each in list(self):
            each.relay.abort(CloseReason.ABORTED)

    def abort_idle(self, seconds: float) -> None:
        """Reset connections of clients that do not wait for a response and have been silent for `seconds`."""
        before = time.monotonic() - seconds
        for relay in [each.relay for each in self]:
            if relay.last_active < before and not relay.awaiting_response:
                relay.abort(CloseReason.ABORTED)

    def stalled(self, before: float) -> Iterator[TargetPath]:
        """Yield the path of each client whose wait for a response began before the monotonic time `before`."""
        for each in self:
            since = each.relay.waiting_since
            if since is not None and since < before:
                yield each.target_path

    def abort_superseded(self) -> None:
        """Reset all client connections to the targets in `superseded_targets`."""
        for relay in self._on(self.superseded_targets):
            relay.abort(CloseReason.MOVED)

    async def drain(self) -> None:
        """Gradually reset the connections to `drained_targets`, so that their clients reconnect to other targets.

        If another call is still running, return immediately: that call also handles targets that were added later.
        """
        if self._draining:
            return
        self._draining = True
        pace, relays = None, self._on(self.drained_targets)
        try:
            while relays:
                now = time.monotonic()
                if pace is None or len(relays) > pace.clients:
                    pace = DrainSchedule(len(relays), now)
                for relay in drain_order(relays, pace.due(now)):
                    relay.abort(CloseReason.MOVED)
                await asyncio.sleep(random.uniform(*_DRAIN_INTERVAL))  # noqa: S311 - jitter, not a secret
                relays = self._on(self.drained_targets)
        finally:
            self._draining = False

    def _on(self, targets: Collection[HostPort]) -> list[Relay]:
        return [each.relay for each in self if each.target_path.target in targets]
