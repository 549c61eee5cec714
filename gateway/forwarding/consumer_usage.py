"""Counts the connections, bytes and latency of each consumer (container or application) of one backend."""

from collections import Counter
from dataclasses import dataclass, field

from gateway.contracts.relay import Relay
from gateway.metric_types import Histogram, Tally

MAX_CONSUMERS = 256
"""Maximum number of consumers with separate counters. Further consumers share the counters of `OTHERS`."""
OTHERS = "others"
UNKNOWN = "unknown"
"""Consumer name for clients that do not belong to a known container."""


@dataclass
class UsageCounters:
    """The connection, byte and latency counters of one consumer of a backend.

    Args:
        id: The container's ID; empty if there is none.
    """

    id: str = ""
    total: int = 0
    rejected: Tally = field(default_factory=Tally)
    latency: Histogram = field(default_factory=Histogram)
    waiting: int = 0
    relays: set[Relay] = field(default_factory=set)
    ended_to_backend: int = 0
    ended_from_backend: int = 0

    @property
    def active(self) -> int:
        """Number of current connections, including those that are not connected to a target yet."""
        return self.waiting + len(self.relays)

    @property
    def to_backend(self) -> int:
        """Number of bytes sent to the backend."""
        return self.ended_to_backend + sum(relay.to_backend for relay in self.relays)

    @property
    def from_backend(self) -> int:
        """Number of bytes received from the backend."""
        return self.ended_from_backend + sum(relay.from_backend for relay in self.relays)

    def ended(self, relay: Relay) -> None:
        """Remove a relay that has ended, and add its byte counts to the totals."""
        self.relays.discard(relay)
        self.ended_to_backend += relay.to_backend
        self.ended_from_backend += relay.from_backend


class ConnectionSlot:
    """A connection that counts toward the quota of its consumer until the slot is released.

    Args:
        active: The number of current connections of each consumer. The slot updates this number.
        name: The consumer's name.
        usage: The consumer's counters, or the shared counters of `OTHERS`. The slot updates them.
    """

    def __init__(self, active: Counter[str], name: str, usage: UsageCounters) -> None:
        self.usage = usage
        self._active = active
        self._name = name
        self._relay: Relay | None = None
        self._occupied = True
        active[name] += 1
        usage.total += 1
        usage.waiting += 1

    def join(self, relay: Relay) -> None:
        """Record that the client is connected to a target, and that `relay` forwards its bytes."""
        self.usage.waiting -= 1
        self.usage.relays.add(relay)
        self._relay = relay

    def release_unjoined(self) -> None:
        """Release the connection's slot, unless the client was connected to a target."""
        if self._relay is None and self._occupied:
            self.usage.waiting -= 1
            self._release()

    def release(self) -> None:
        """Release the slot of a connection whose relay has ended."""
        if self._relay is not None and self._occupied:
            self.usage.ended(self._relay)
            self._release()

    def _release(self) -> None:
        self._occupied = False
        self._active[self._name] -= 1
        if not self._active[self._name]:
            del self._active[self._name]


class ConsumerUsage(dict[str, UsageCounters]):
    """The usage counters of all consumers of one backend, by the consumer's name."""

    def __init__(self) -> None:
        super().__init__()
        self.active: Counter[str] = Counter()
        """Number of current connections of each consumer, including consumers that share the counters of `OTHERS`."""

    def admit(self, name: str, container_id: str) -> ConnectionSlot:
        """Count a new connection of a consumer, and return the connection's slot. The caller must release the slot.

        Args:
            name: The consumer's name.
            container_id: The container's ID; empty if there is none.
        """
        return ConnectionSlot(self.active, name, self.usage_of(name, container_id))

    def usage_of(self, name: str, container_id: str) -> UsageCounters:
        """Return the counters of a consumer, and create them if necessary.

        If `MAX_CONSUMERS` consumers already have counters, first merge the counters of an idle consumer into those of
        `OTHERS`. If no consumer is idle, return the counters of `OTHERS`.

        Args:
            name: The consumer's name.
            container_id: The container's ID; empty if there is none.
        """
        usage = self.get(name)
        if usage is None:
            if len(self) >= MAX_CONSUMERS:
                idle = next((each for each, usage in self.items() if not usage.active and each != OTHERS), None)
                if idle is None:
                    return self._others()
                self._merge_into_others(self.pop(idle))
            usage = self[name] = UsageCounters(container_id)
        usage.id = container_id or usage.id  # keep the known ID if a client, for example on a unix socket, has none
        return usage

    def _others(self) -> UsageCounters:
        return self.get(OTHERS) or self.setdefault(OTHERS, UsageCounters())

    def _merge_into_others(self, removed: UsageCounters) -> None:
        others = self._others()
        others.total += removed.total
        others.rejected += removed.rejected
        # Change the histogram in place: running relays may hold references to it.
        others.latency.add(removed.latency)
        others.ended_to_backend += removed.ended_to_backend
        others.ended_from_backend += removed.ended_from_backend
