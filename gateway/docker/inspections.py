"""Inspections of containers, which the gateway asks for once: but for the last start, they never change."""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gateway.docker.engine import Engine, needed
from gateway.docker.exposure import can_spoof
from gateway.docker.model import LastStart
from gateway.docker.names import hostname_of, hosts_of
from gateway.docker.trouble import EngineError, Kind


@dataclass(frozen=True)
class Inspection:
    """What an inspection says of a container.

    Args:
        can_spoof: Whether it can send from an address that is not its own.
        hostname: Its host name, see `hostname_of`.
        hosts: The names that it resolves by itself.
        network_mode: Its network mode.
        given_hostname: Its host name as the engine reports it, which may be its ID.
    """

    can_spoof: bool
    hostname: str
    hosts: frozenset[str]
    network_mode: str
    given_hostname: str


class Inspections:
    """Inspections by the container's ID, and aliases by the endpoint's."""

    def __init__(self) -> None:
        self._found: dict[str, Inspection] = {}
        self._aliases: dict[str, frozenset[str]] = {}
        self._starts: dict[str, tuple[float, LastStart]] = {}
        """The last starts, with the monotonic time of the inspection: they change, unlike the rest."""

    def known(self, container: str) -> Inspection | None:
        """Return the inspection of a container; None: it was not asked for, or the container is gone."""
        return self._found.get(container)

    def aliases(self, endpoint: str) -> frozenset[str] | None:
        """Return the aliases of an endpoint; None: they are not known."""
        return self._aliases.get(endpoint)

    def last_start(self, container: str) -> LastStart | None:
        """Return the last start of a container at its last inspection; None: it was not asked for."""
        return self._starts[container][1] if container in self._starts else None

    def asked_at(self, container: str) -> float:
        """Return when the last start of a container was asked for, as a monotonic time; 0: it was not."""
        return self._starts[container][0] if container in self._starts else 0.0

    def forget_start(self, container: str) -> None:
        """Drop the last start of a container, which has been started since."""
        self._starts.pop(container, None)

    def keep(self, containers: Collection[str], endpoints: Collection[str]) -> None:
        """Drop all but these containers and endpoints."""
        self._found = {key: each for key, each in self._found.items() if key in containers}
        self._starts = {key: each for key, each in self._starts.items() if key in containers}
        self._aliases = {key: aliases for key, aliases in self._aliases.items() if key in endpoints}

    async def once(self, engine: Engine, container: str) -> Inspection | None:
        """Return the inspection of a container, which is asked for if it is not known; None: the container is gone.

        Raises:
            EngineError: See `ask`.
        """
        if container not in self._found:
            await self.ask(engine, container)
        return self._found.get(container)

    async def ask(self, engine: Engine, container: str) -> Mapping[str, Any] | None:
        """Inspect a container, and return its endpoints by network; None: it is gone since the list was made.

        Raises:
            EngineError: The engine did not answer, or a proxy before it refuses the request.
        """
        path = f"{engine.flavour.inspection}containers/{container}/json"
        try:
            found = await needed(engine, path)
        except EngineError as trouble:
            if trouble.kind is Kind.NOT_FOUND:
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
            # One that is not running has no endpoint yet, and may get other aliases until it has.
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
    """Return a time of the engine (RFC 3339) in seconds since the epoch; 0: never."""
    try:
        at = datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0
    return max(0.0, at)
