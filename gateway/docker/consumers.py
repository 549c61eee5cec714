"""The containers of this engine by their addresses, to identify clients."""

import asyncio
import time
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from gateway.docker.grants import granted
from gateway.docker.labels import listed
from gateway.docker.model import RUNNING, Container, Observed
from gateway.docker.options import DockerOptions, Grant

_UNKNOWN_FOR = 30.0
_MAX_UNKNOWN = 10_000


@dataclass(frozen=True)
class Consumer:
    """A container, as a user of backends.

    Args:
        name: Its name.
        id: Its ID.
        labels: Those that count.
        granted: The backends that it is granted.
        strict: Whether only these count, and no label.
    """

    name: str
    id: str
    labels: dict[str, str] = field(hash=False)
    granted: frozenset[str] = frozenset()
    strict: bool = False

    def has(self, label: str, backend: str) -> bool:
        """Return whether it is granted the backend, or its label names the backend where labels count."""
        return backend in self.granted or (not self.strict and backend in listed(self.labels.get(label, "")))


def consumer(container: Container, grants: Iterable[Grant], *, strict: bool) -> Consumer:
    """Return a container as a user of backends.

    Args:
        container: As it was seen.
        grants: The configuration's.
        strict: Whether only these count.
    """
    given = granted(grants, container.name, container.labels)
    backends = frozenset(given.backends) if given else frozenset()
    return Consumer(container.name, container.id, dict(container.labels), backends, strict)


def networks_of_sources(observed: Observed, options: DockerOptions) -> AbstractSet[str] | None:
    """Return the networks on which this engine gives clients their addresses; None: all of them.

    An address on another network, or of another host's engine, may belong to any client.
    """
    own = observed.own_container
    if own is not None:
        return None if own.network_mode == "host" else own.endpoints.keys()
    if options.container is None and options.is_local:
        return None  # on the engine's host, in no container
    return frozenset()


class ConsumerDirectory:
    """Consumers by address, updated at each look at the engine.

    Args:
        request_snapshot: Requests a look at the engine now.
    """

    def __init__(self, request_snapshot: Callable[[], None]) -> None:
        self.local: dict[str, Consumer] = {}
        """Consumers of this engine only."""
        self._remote: dict[str, Consumer] = {}
        self._by_address: dict[str, Consumer] = {}
        self._request_snapshot = request_snapshot
        self._unknown: dict[str, float] = {}
        self._forgotten: dict[str, float] = {}
        self._updated = asyncio.Event()
        self.watchers: list[Callable[[dict[str, Consumer]], None]] = []
        """Called with all consumers, by address, whenever one is added or removed."""

    def update(
        self,
        containers: tuple[Container, ...],
        began: float,
        networks: AbstractSet[str] | None,
        grants: tuple[Grant, ...] = (),
        *,
        strict: bool = False,
    ) -> None:
        """Replace the consumers of this engine.

        Args:
            containers: As they were seen.
            began: When the look at them began, in monotonic seconds: what was forgotten since stays so.
            networks: Those on which clients connect, see `networks_of_sources`; None: all.
            grants: The configuration's.
            strict: Whether only these say who may use what.
        """
        self._forgotten = {key: at for key, at in self._forgotten.items() if at >= began}
        found = {}
        for container in containers:
            if container.state in RUNNING and container.id not in self._forgotten:
                who = consumer(container, grants, strict=strict)
                for name, endpoint in container.endpoints.items():
                    if networks is None or name in networks:
                        found.update(dict.fromkeys(endpoint.addresses, who))
        self.local = found
        self.replace({**self._remote, **self.local})

    def update_remote(self, consumers: dict[str, Consumer]) -> None:
        """Replace the consumers of other nodes; this engine's own take precedence.

        Args:
            consumers: All of them, by address.
        """
        if consumers != self._remote:
            self._remote = consumers
            self.replace({**self._remote, **self.local})

    def consumers(self) -> set[Consumer]:
        """Return all consumers."""
        return set(self._by_address.values())

    def replace(self, consumers: dict[str, Consumer]) -> None:
        """Replace all consumers."""
        changed, self._by_address = consumers != self._by_address, consumers
        if changed:
            self._unknown.clear()
        for watcher in self.watchers if changed else ():
            watcher(dict(consumers))
        updated, self._updated = self._updated, asyncio.Event()
        updated.set()

    def forget(self, container_id: str) -> None:
        """Forget a container that ended or left a network: the engine may reuse its address at once."""
        self._forgotten[container_id] = time.monotonic()
        self.local = {address: each for address, each in self.local.items() if each.id != container_id}
        if any(each.id == container_id for each in self._by_address.values()):
            self.replace({address: each for address, each in self._by_address.items() if each.id != container_id})

    def lookup(self, address: str) -> Consumer | None:
        """Return who has the address; None: it is unknown."""
        return self._by_address.get(address)

    def recently_unknown(self, address: str) -> bool:
        """Return whether the address was looked up within the last 30 s, and belongs to no container."""
        return self._unknown.get(address, 0.0) > time.monotonic()

    async def wait_for(self, address: str, within: float) -> Consumer | None:
        """Return who has the address, and wait for a container that has just started.

        Args:
            address: An IP address.
            within: Seconds to wait for the engine.
        """
        try:
            async with asyncio.timeout(within):
                while (found := self.lookup(address)) is None:
                    updated = self._updated
                    self._request_snapshot()
                    await updated.wait()
                return found
        except TimeoutError:
            if len(self._unknown) >= _MAX_UNKNOWN:
                self._unknown.clear()
            self._unknown[address] = time.monotonic() + _UNKNOWN_FOR
            return self.lookup(address)
