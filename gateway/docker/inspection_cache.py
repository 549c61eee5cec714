"""Caches values from inspections of containers, so that the gateway does not inspect a container repeatedly.

Only one of these values can change after the first inspection: the result of the last start.

While the engine starts a container or copies files from it (`docker cp`), the container is locked: the engine does
not respond to inspections of it. This can take minutes, for example while the engine waits for a mount. A snapshot
therefore waits only briefly for a locked container.
"""

import asyncio
import math
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.docker.consumer_identity_warnings import can_spoof
from gateway.docker.container_last_start import ContainerLastStart
from gateway.docker.engine_client import EngineClient, get_required
from gateway.docker.engine_flavor import DOCKER
from gateway.docker.errors import EngineError, EngineErrorKind
from gateway.docker.inspection_conversion import last_start
from gateway.docker.name_resolution import hostname_of, hosts_of

_MAX_LOCKED, _MIN_WAIT = 1.0, 0.1
"""Limits, in seconds, on the time that one snapshot waits for locked containers (see the module's docstring). After a
total of `_MAX_LOCKED`, the snapshot waits at most `_MIN_WAIT` for each remaining container."""
_RUNNING_FACTOR = 3.0
"""The maximum wait for a running container is the maximum wait for other containers times this factor. A running
container is rarely locked, so a long inspection probably means that the engine is slow."""
RETRY = 10.0
"""Seconds after which a container is inspected again if its inspection timed out or failed."""
NEVER = -math.inf
"""Used instead of the time of an inspection if there was none, or if its result has expired. The value is not 0,
because on the monotonic clock, 0 is the time of the host's start."""


@dataclass(frozen=True)
class Inspection:
    """The values that the gateway uses from the inspection of a container.

    Args:
        can_spoof: Whether the container can spoof its source address.
        hostname: The host name that the configuration of the container sets, in lower case; empty if it sets none.
        hosts: The names in the container's hosts file.
        network_mode: The container's network mode.
        reported_hostname: The container's host name as the engine reports it. If the configuration of the container
            sets no host name, the engine reports the container's short ID.
    """

    can_spoof: bool
    hostname: str
    hosts: frozenset[str]
    network_mode: str
    reported_hostname: str


class InspectionCache:
    """Caches inspections by container ID, and aliases by endpoint ID."""

    def __init__(self) -> None:
        self._found: dict[str, Inspection] = {}
        self._aliases: dict[str, frozenset[str]] = {}
        self._starts: dict[str, tuple[float, ContainerLastStart]] = {}
        """For each container ID: the container's last start, and the monotonic time of the inspection."""
        self._locked: dict[str, float] = {}
        """For each container ID: the monotonic time at which an inspection of the container timed out or failed."""
        self._problems: dict[str, str] = {}
        """For each container ID: why the last inspection of the container failed; see `problem`."""
        self._idle: frozenset[str] = frozenset()
        self._starting: frozenset[str] = frozenset()
        self._left = 0.0
        """How long, in seconds, the current snapshot may still wait for inspections of locked containers."""

    def begin(self, idle: Collection[str], starting: Collection[str]) -> None:
        """Prepare the cache for a new snapshot.

        Args:
            idle: IDs of the containers that are not running. Some can be locked, because the engine is starting them.
            starting: IDs of the containers that the gateway is starting now. They are not inspected.
        """
        self._idle, self._starting, self._left = frozenset(idle), frozenset(starting), _MAX_LOCKED

    def is_locked(self, container: str) -> bool:
        """Return whether a container is probably locked. The cached values of a locked container can be outdated.

        A container counts as locked while the gateway starts it, and for `RETRY` seconds after an inspection of the
        container timed out or failed.
        """
        locked_at = self._locked.get(container)
        return container in self._starting or (locked_at is not None and locked_at + RETRY > time.monotonic())

    def problem(self, container: str) -> str:
        """Return why the engine cannot inspect a container; empty if the engine reported no error."""
        return self._problems.get(container, "")

    def cached(self, container: str) -> Inspection | None:
        """Return the cached inspection of a container; None if the container is not in the cache."""
        return self._found.get(container)

    def aliases(self, endpoint: str) -> frozenset[str] | None:
        """Return the cached aliases of an endpoint; None if the endpoint is not in the cache."""
        return self._aliases.get(endpoint)

    def last_start(self, container: str) -> ContainerLastStart | None:
        """Return the cached last start of a container; None if the container was not inspected."""
        return self._starts[container][1] if container in self._starts else None

    def start_inspected_at(self, container: str) -> float:
        """Return when the engine reported the cached start time of a container, on the monotonic clock.

        Return `NEVER` if no start time of the container is cached, or if it has expired (see `expire_start`).
        """
        return self._starts[container][0] if container in self._starts else NEVER

    def expire_starts(self) -> None:
        """Mark all cached last starts as expired, so that the next snapshots inspect these containers again.

        Call this if the gateway may have missed start events.
        """
        self._starts = {key: (NEVER, start) for key, (_, start) in self._starts.items()}

    def expire_start(self, container: str) -> None:
        """Mark the cached last start of a container as expired, so that a snapshot inspects the container again.

        Call this if the container may have been started since its last inspection.
        """
        if container in self._starts:
            self._starts[container] = NEVER, self._starts[container][1]

    def forget_start(self, container: str) -> None:
        """Remove the last start of a container from the cache, and no longer treat the container as locked.

        Call this after each start of the container.
        """
        self._starts.pop(container, None)
        self._locked.pop(container, None)

    def retain(self, containers: Collection[str], endpoints: Collection[str]) -> None:
        """Remove all containers and endpoints from the cache, except the given ones."""
        self._found = {key: each for key, each in self._found.items() if key in containers}
        self._starts = {key: each for key, each in self._starts.items() if key in containers}
        self._locked = {key: each for key, each in self._locked.items() if key in containers}
        self._problems = {key: each for key, each in self._problems.items() if key in containers}
        self._aliases = {key: aliases for key, aliases in self._aliases.items() if key in endpoints}

    async def get(self, engine: EngineClient, container: str) -> Inspection | None:
        """Return the inspection of a container, from the cache if possible.

        Returns:
            The inspection; None if the container was removed, if it is locked (see `is_locked`), or if the engine is
                Docker and reports an error about this container.

        Raises:
            EngineError: The engine is not available, a proxy in front of it refuses the request, or the engine is
                Podman and reports an error about this container.
        """
        if container not in self._found:
            await self.inspect(engine, container)
        return self._found.get(container)

    async def inspect(self, engine: EngineClient, container: str) -> Mapping[str, Any] | None:
        """Inspect a container, and cache the result.

        Returns:
            The container's endpoints by network. None if the container was removed, if it is locked (see
                `is_locked`), or if the engine is Docker and reports an error about this container.

        Raises:
            EngineError: The engine is not available, a proxy in front of it refuses the request, or the engine is
                Podman and reports an error about this container.
        """
        if self.is_locked(container):
            return None
        path, began = f"{engine.flavor.inspection}containers/{container}/json", time.monotonic()
        try:
            async with asyncio.timeout(self._max_wait(engine, container)):
                found = await get_required(engine, path)
        except TimeoutError:
            self._record_failure(container, began)
            return None
        except EngineError as error:
            if error.kind is EngineErrorKind.NOT_FOUND:
                return None
            # With Docker, an error about one container must not prevent a snapshot of other containers. With Podman,
            # raise the error: without the inspection, the gateway would not know the container's network mode.
            if error.kind not in (EngineErrorKind.FAILED, EngineErrorKind.TIMEOUT) or engine.flavor is not DOCKER:
                raise
            self._record_failure(container, began, error.message if error.kind is EngineErrorKind.FAILED else "")
            return None
        self._locked.pop(container, None)
        self._problems.pop(container, None)
        self._starts[container] = time.monotonic(), last_start(found)
        host: Mapping[str, Any] = found.get("HostConfig") or {}
        self._found[container] = Inspection(
            can_spoof(host, found.get("BoundingCaps")),
            hostname_of(found),
            hosts_of(found),
            str(host.get("NetworkMode", "")),
            str((found.get("Config") or {}).get("Hostname", "")),
        )
        networks: Mapping[str, Any] = (found.get("NetworkSettings") or {}).get("Networks") or {}
        for each in networks.values():
            # A container that does not run has no endpoint ID. Do not cache its aliases, which can still change.
            if each.get("EndpointID"):
                self._aliases[each["EndpointID"]] = frozenset(each.get("Aliases") or ())
        return networks

    def _max_wait(self, engine: EngineClient, container: str) -> float | None:
        if engine.flavor is not DOCKER:
            return None
        return max(_MIN_WAIT, self._left) * (1.0 if container in self._idle else _RUNNING_FACTOR)

    def _record_failure(self, container: str, began: float, problem: str = "") -> None:
        """Record that an inspection timed out or failed.

        Args:
            container: The container's ID.
            began: The monotonic time at which the inspection began.
            problem: The error that the engine reported; empty if it did not respond.
        """
        self._problems[container] = problem
        now = self._locked[container] = time.monotonic()
        self._left -= (now - began) / (1.0 if container in self._idle else _RUNNING_FACTOR)
