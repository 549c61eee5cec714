"""What each consumer uses of a backend: connections, bytes, latency; bounded, however many there are."""

from collections import Counter
from dataclasses import dataclass, field

from gateway.contracts import Relay
from gateway.measure import Histogram, Tally

MOST = 256
"""Consumers that are told apart; the connections of any further one count as those of `OTHERS`."""
OTHERS = "others"
UNKNOWN = "unknown"
"""Who is no container that we know."""


@dataclass
class Usage:
    """One consumer's.

    Args:
        id: The container's ID; empty where there is none.
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
        """Connections now, those included that wait."""
        return self.waiting + len(self.relays)

    @property
    def to_backend(self) -> int:
        """Bytes sent towards the backend."""
        return self.ended_to_backend + sum(relay.to_backend for relay in self.relays)

    @property
    def from_backend(self) -> int:
        """Bytes sent towards the consumer."""
        return self.ended_from_backend + sum(relay.from_backend for relay in self.relays)

    def ended(self, relay: Relay) -> None:
        """A connection is over."""
        self.relays.discard(relay)
        self.ended_to_backend += relay.to_backend
        self.ended_from_backend += relay.from_backend


class Seat:
    """One connection of one consumer, from its admission to its end.

    Args:
        live: Connections of each consumer, this one to be counted among them.
        name: The consumer's.
        usage: Where it is accounted for, which may be that of `OTHERS`.
    """

    def __init__(self, live: Counter[str], name: str, usage: Usage) -> None:
        self.usage = usage
        self._live = live
        self._name = name
        self._relay: Relay | None = None
        self._taken = True
        live[name] += 1
        usage.total += 1
        usage.waiting += 1

    def join(self, relay: Relay) -> None:
        """It waits no longer."""
        self.usage.waiting -= 1
        self.usage.relays.add(relay)
        self._relay = relay

    def give_up(self) -> None:
        """It will not come to anything, unless it has."""
        if self._relay is None and self._taken:
            self.usage.waiting -= 1
            self._leave()

    def end(self) -> None:
        """Its relay is over."""
        if self._relay is not None and self._taken:
            self.usage.ended(self._relay)
            self._leave()

    def _leave(self) -> None:
        self._taken = False
        self._live[self._name] -= 1
        if not self._live[self._name]:
            del self._live[self._name]


class Ledger(dict[str, Usage]):
    """By the consumer's name."""

    def __init__(self) -> None:
        super().__init__()
        self.live: Counter[str] = Counter()
        """Connections now of each consumer, those too that are not told apart; nobody without one is in it."""

    def admit(self, name: str, identifier: str) -> Seat:
        """One more connection of a consumer's."""
        return Seat(self.live, name, self.of(name, identifier))

    def of(self, name: str, identifier: str) -> Usage:
        """A consumer's; one that is gone makes room for another."""
        found = self.get(name)
        if found is None:
            if len(self) >= MOST:
                idle = next((each for each, usage in self.items() if not usage.active and each != OTHERS), None)
                if idle is None:
                    return self._others()
                self._merge(self.pop(idle))
            found = self[name] = Usage(identifier)
        found.id = identifier or found.id  # a consumer may also come through a unix socket, which names no container
        return found

    def _others(self) -> Usage:
        return self.get(OTHERS) or self.setdefault(OTHERS, Usage())

    def _merge(self, gone: Usage) -> None:
        """What has been counted stays counted."""
        others = self._others()
        others.total += gone.total
        others.rejected += gone.rejected
        # In place: the relays of others hold on to their histogram.
        others.latency.add(gone.latency)
        others.ended_to_backend += gone.ended_to_backend
        others.ended_from_backend += gone.ended_from_backend
