"""Caches container inspections. The values that the gateway uses never change, except those of the last start."""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gateway.docker.dns_names import hostname_of, hosts_of
from gateway.docker.engine import Engine, get_required
from gateway.docker.errors import EngineError, ErrorKind
from gateway.docker.exposure import can_spoof
from gateway.docker.model import LastStart


@dataclass(frozen=True)
class Inspection:
    """The values of a container's inspection that the gateway uses.

    Args:
        can_spoof: Whether the container can spoof its source address.
        hostname: The container's host name, see `hostname_of`.
        hosts: The names in the container's hosts file.
        network_mode: The container's network mode.
        given_hostname: The container's host name as the engine reports it. It can be the container's short ID.
    """

    can_spoof: bool
    hostname: str
    hosts: frozenset[str]
    network_mode: str
    given_hostname: str


class InspectionCache:
    """Caches inspections by container ID, and aliases by endpoint ID."""

    def __init__(self) -> None:
        self._found: dict[str, Inspection] = {}
        self._aliases: dict[str, frozenset[str]] = {}
        self._starts: dict[str, tuple[float, LastStart]] = {}
        """The last start at the last inspection, and the monotonic time of that inspection, by container ID."""

    def cached(self, container: str) -> Inspection | None:
        """Return the cached inspection of a container; None if there is none."""
        return self._found.get(container)

    def aliases(self, endpoint: str) -> frozenset[str] | None:
        """Return the cached aliases of an endpoint; None if there are none."""
        return self._aliases.get(endpoint)

    def last_start(self, container: str) -> LastStart | None:
        """Return the last start of a container, as last inspected; None if the container was not inspected."""
        return self._starts[container][1] if container in self._starts else None

    def start_inspected_at(self, container: str) -> float:
        """Return the monotonic time of the latest inspection of a container's last start, or 0 if there was none."""
        return self._starts[container][0] if container in self._starts else 0.0

    def forget_start(self, container: str) -> None:
        """Remove the last start of a container from the cache, because the container was started again."""
        self._starts.pop(container, None)

    def retain(self, containers: Collection[str], endpoints: Collection[str]) -> None:
        """Remove all containers and endpoints except these from the cache."""
        self._found = {key: each for key, each in self._found.items() if key in containers}
        self._starts = {key: each for key, each in self._starts.items() if key in containers}
        self._aliases = {key: aliases for key, aliases in self._aliases.items() if key in endpoints}

    async def get(self, engine: Engine, container: str) -> Inspection | None:
        """Return the inspection of a container, from the cache if possible; None if the container was removed.

        Raises:
            EngineError: See `inspect`.
        """
        if container not in self._found:
            await self.inspect(engine, container)
        return self._found.get(container)

    async def inspect(self, engine: Engine, container: str) -> Mapping[str, Any] | None:
        """Inspect a container, and return its endpoints by network; None if it was removed after it was listed.

        Raises:
            EngineError: The engine did not answer, or a proxy in front of the engine refuses the request.
        """
        path = f"{engine.flavor.inspection}containers/{container}/json"
        try:
            found = await get_required(engine, path)
        except EngineError as error:
            if error.kind is ErrorKind.NOT_FOUND:
                return None
            raise
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
            # A container that is not running has no endpoint yet, so its aliases can still change.
            if each.get("EndpointID"):
                self._aliases[each["EndpointID"]] = frozenset(each.get("Aliases") or ())
        return networks


def last_start(inspection: Mapping[str, Any]) -> LastStart:
    """Return what an inspection reports about the container's last start."""
    state = inspection.get("State") or {}
    policy = (inspection.get("HostConfig") or {}).get("RestartPolicy") or {}
    restarts = policy.get("Name") not in (None, "", "no")
    return LastStart(str(state.get("Error") or ""), restarts, _epoch(str(state.get("StartedAt"))))


def _epoch(text: str) -> float:
    """Convert a time from the engine (RFC 3339) to seconds since the epoch; 0 if the text has no time."""
    try:
        at = datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0
    return max(0.0, at)
