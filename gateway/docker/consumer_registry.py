"""Maps source addresses to the containers that use backends (consumers), to identify clients."""

import asyncio
import time
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from gateway.docker.grants import granted
from gateway.docker.labels import listed
from gateway.docker.options import DockerOptions, Grant
from gateway.docker.snapshot import RUNNING, Container, EngineSnapshot

_UNKNOWN_FOR = 30.0
_MAX_UNKNOWN = 10_000


@dataclass(frozen=True)
class Consumer:
    """A container that uses backends.

    Args:
        name: The container's name.
        id: The container's ID.
        labels: The container's labels that the gateway evaluates, see `gateway.docker.image_labels`.
        granted: The backends that grants allow the container to use.
        strict: The value of `gateway.strict`. If true, only `docker.grants` admits containers; labels do not.
    """

    name: str
    id: str
    labels: dict[str, str] = field(hash=False)
    granted: frozenset[str] = frozenset()
    strict: bool = False

    def has(self, label: str, backend: str) -> bool:
        """Return whether a grant or a label allows the consumer to use a backend. With `strict`, ignore the label."""
        return backend in self.granted or (not self.strict and backend in listed(self.labels.get(label, "")))


def consumer(container: Container, grants: Iterable[Grant], *, strict: bool) -> Consumer:
    """Return the consumer for a container, with the backends that grants allow the container to use.

    Args:
        container: The container.
        grants: The rules in `docker.grants`.
        strict: The value of `gateway.strict`. If true, only `docker.grants` admits containers; labels do not.
    """
    given = granted(grants, container.name, container.labels)
    backends = frozenset(given.backends) if given else frozenset()
    return Consumer(container.name, container.id, dict(container.labels), backends, strict)


def client_networks(observed: EngineSnapshot, options: DockerOptions) -> AbstractSet[str] | None:
    """Return the networks on which a client's address identifies a container of this engine.

    On other networks, a client that is not a container can have the same address as a container.

    Returns:
        The names of the networks; None for all networks. Empty if no address identifies a container, for example
        because the engine runs on another host.
    """
    own = observed.own_container
    if own is not None:
        return None if own.network_mode == "host" else own.endpoints.keys()
    if options.container is None and options.is_local:
        return None  # the gateway runs on the engine's host, which reaches containers on all networks
    return frozenset()


class ConsumerRegistry:
    """Finds the consumer (a container that uses backends) with a given source address.

    Every running container with an address that identifies it (see `client_networks`) counts as a consumer, because
    it can connect to a listener at any time. The reconciler calls `update` after each snapshot.

    Args:
        request_snapshot: Called to request an immediate snapshot of the engine.
    """

    def __init__(self, request_snapshot: Callable[[], None]) -> None:
        self.local: dict[str, Consumer] = {}
        """For each address: the consumer on this engine. Consumers on other swarm nodes are not included."""
        self._remote: dict[str, Consumer] = {}
        self._by_address: dict[str, Consumer] = {}
        self._request_snapshot = request_snapshot
        self._unknown: dict[str, float] = {}
        self._forgotten: dict[str, float] = {}
        self._updated = asyncio.Event()
        self.watchers: list[Callable[[dict[str, Consumer]], None]] = []
        """Functions that the registry calls after each change of the consumers, with all consumers by address."""

    def update(
        self,
        containers: tuple[Container, ...],
        began: float,
        networks: AbstractSet[str] | None,
        grants: tuple[Grant, ...] = (),
        *,
        strict: bool = False,
    ) -> None:
        """Replace the consumers of this engine with the running containers of a snapshot.

        Args:
            containers: The containers in the snapshot.
            began: When the snapshot began, in monotonic seconds. Containers that `forget` removed after that time are
                not added again.
            networks: The networks whose addresses identify containers, see `client_networks`; None for all networks.
            grants: The rules in `docker.grants`.
            strict: The value of `gateway.strict`. If true, only `docker.grants` admits containers; labels do not.
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
        self._replace({**self._remote, **self.local})

    def update_remote(self, consumers: dict[str, Consumer]) -> None:
        """Replace the consumers on other swarm nodes.

        For an address that this engine also uses, the consumer on this engine takes precedence.

        Args:
            consumers: The consumers on other nodes, by address.
        """
        if consumers != self._remote:
            self._remote = consumers
            self._replace({**self._remote, **self.local})

    def consumers(self) -> set[Consumer]:
        """Return all consumers, on this engine and on other swarm nodes."""
        return set(self._by_address.values())

    def _replace(self, consumers: dict[str, Consumer]) -> None:
        changed, self._by_address = consumers != self._by_address, consumers
        if changed:
            self._unknown.clear()
        for watcher in self.watchers if changed else ():
            watcher(dict(consumers))
        updated, self._updated = self._updated, asyncio.Event()
        updated.set()

    def forget(self, container_id: str) -> None:
        """Remove a container that exited or left a network. Another container can get its address at any time."""
        self._forgotten[container_id] = time.monotonic()
        self.local = {address: each for address, each in self.local.items() if each.id != container_id}
        if any(each.id == container_id for each in self._by_address.values()):
            self._replace({address: each for address, each in self._by_address.items() if each.id != container_id})

    def lookup(self, address: str) -> Consumer | None:
        """Return the consumer with this address; None if no known consumer has the address."""
        return self._by_address.get(address)

    def recently_unknown(self, address: str) -> bool:
        """Return whether a call of `wait_for` in the last 30 s found no consumer with the address `address`."""
        return self._unknown.get(address, 0.0) > time.monotonic()

    async def wait_for(self, address: str, within: float) -> Consumer | None:
        """Return the consumer with this address. If the address is unknown, wait for a snapshot that contains it.

        Return None if no such snapshot is taken in time.

        Args:
            address: An IP address.
            within: The maximum time to wait for a snapshot, in seconds.
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
