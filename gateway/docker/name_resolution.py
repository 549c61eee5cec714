"""Determines to which containers a name resolves on each network, and finds conflicting names. Does no I/O."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.docker.desired_state import OWNER_ALIAS_PREFIX, DesiredState
from gateway.docker.grants import SERVICE, SWARM_SERVICE
from gateway.docker.plan import NameConflict
from gateway.docker.snapshot import Container, EngineSnapshot, NetworkEndpoint

WITHOUT_NAMES = frozenset({"bridge", "host", "none"})
"""The predefined networks, on which Docker's DNS server resolves no names."""
_GATEWAY = "gateway"
"""`DnsNameTable` uses this key, not an ID, for the gateway's own container and swarm service."""
_BACKEND = "a backend"
_SHORT_ID = 12


def hostname_of(inspection: Mapping[str, Any]) -> str:
    """Return a container's configured host name, in lower case; empty if the engine chose the host name.

    Args:
        inspection: The container's inspection.
    """
    name = str((inspection.get("Config") or {}).get("Hostname") or "").lower()
    return "" if str(inspection.get("Id", "")).startswith(name) else name


def hosts_of(inspection: Mapping[str, Any]) -> frozenset[str]:
    """Return the names that a container's hosts file resolves: its extra hosts and links, in lower case.

    Args:
        inspection: The container's inspection.
    """
    host = inspection.get("HostConfig") or {}
    networks: Mapping[str, Any] = (inspection.get("NetworkSettings") or {}).get("Networks") or {}
    found = [str(each).replace("=", ":").partition(":")[0] for each in host.get("ExtraHosts") or ()]
    links = [
        *(host.get("Links") or ()),
        *(each for network in networks.values() for each in network.get("Links") or ()),
    ]
    found += [str(each).rpartition(":")[2].rpartition("/")[2] for each in links]
    return frozenset(each.lower() for each in found if each)


@dataclass(frozen=True)
class NameResolvingContainer:
    """A container or service that resolves names with the DNS server of the engine.

    Args:
        id: The ID of the container or service.
        title: The name of the container or service, for messages.
        aliases: The aliases that the container or service requests on the network of the gateway, in lower case.
        hosts: The names in the container's hosts file.
    """

    id: str
    title: str
    aliases: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()


class DnsNameTable:
    """Finds the containers and services to which a name resolves on each network.

    Args:
        desired: The desired state.
        observed: The observed state.
    """

    def __init__(self, desired: DesiredState, observed: EngineSnapshot) -> None:
        self._desired = desired
        self._own = observed.own
        self._holders: dict[str, dict[str, dict[str, str]]] = {}
        """By network and name: the ID and the description of each container or service to which the name resolves."""
        own_service = ""
        for container in observed.containers:
            if container.id == observed.own:
                own_service = container.labels.get(SWARM_SERVICE, "")
            for network, endpoint in container.endpoints.items():
                self._add(network, names_on(container, endpoint), self._holder(container))
        networks = {each.id: each.name for each in observed.networks}
        for service in observed.services:
            holder = (service.id, f"service {service.name}")
            if service.name == own_service:
                holder = (_GATEWAY, "the gateway")
            for network_id, aliases in service.networks.items():
                if network_id in networks:
                    self._add(networks[network_id], {service.name.lower(), *_lower(aliases)}, holder)

    def conflicts(
        self,
        who: NameResolvingContainer,
        network: str,
        backends: Collection[str],
        elsewhere: Iterable[str],
    ) -> Iterator[NameConflict]:
        """Yield each name that resolves to one host on `network`, and to another host on a network in `elsewhere`.

        Also yield the name of a backend if the hosts file of `who` contains this name.

        Args:
            who: The container or service that resolves the names.
            network: A network of the gateway.
            backends: The names of the backends that resolve on this network, in lower case.
            elsewhere: The other networks of the container or service.
        """
        there = self._holders.get(network, {})
        for name in sorted(who.hosts & set(backends)):
            yield NameConflict(who.title, network, name, _BACKEND, "an extra host or a link of the container")
        for place in elsewhere:
            if place == network or place in WITHOUT_NAMES:
                continue
            held = self._holders.get(place, {})
            # Intersect `held` with each set separately: merging the sets first is slow if a container has thousands
            # of aliases.
            both = [held.keys() & each for each in (there.keys(), who.aliases, set(backends))]
            for name in sorted(set().union(*both)):
                others, ours = held[name], there.get(name, {})
                if name in who.aliases:
                    ours = {**ours, who.id: "a requested alias"}
                if name in backends:
                    ours = {_GATEWAY: _BACKEND}
                # If one container has the name on both networks, the name resolves to the same host: no conflict.
                what = next((text for key, text in ours.items() if key not in others), None)
                if what is not None:
                    yield NameConflict(who.title, network, name, what, f"{min(others.values())} on network {place}")

    def add_planned(self, container: Container, network: str, aliases: Iterable[str]) -> None:
        """Add the names that a container gets when the gateway attaches it to a network.

        Args:
            container: The container.
            network: The name of the network.
            aliases: The container's aliases on this network.
        """
        holder = (container.id, f"container {container.name}, which the gateway attaches,")
        self._add(network, names_after_attachment(container, aliases), holder)

    def caused_conflicts(
        self, newcomer: str, names: Collection[str], title: str, network: str, elsewhere: Iterable[str]
    ) -> Iterator[NameConflict]:
        """Yield each name conflict that an attached container gets if a newcomer joins its network.

        Args:
            newcomer: The ID of the container that joins the network.
            names: The names that the newcomer gets on the network.
            title: The name of the attached container.
            network: The network that the newcomer joins.
            elsewhere: The other networks of the attached container.
        """
        for place in elsewhere:
            held = self._holders.get(place, {})
            for name in sorted(held.keys() & names):
                if place not in (network, *WITHOUT_NAMES) and newcomer not in held[name]:
                    other = f"{min(held[name].values())} on network {place}"
                    yield NameConflict(title, network, name, "this container", other)

    def _holder(self, container: Container) -> tuple[str, str]:
        # Use one key for the gateway's own container and swarm service, so that their names do not conflict.
        if container.id == self._own or self._desired.is_gateway(container):
            return _GATEWAY, "the gateway"
        return container.id, f"container {container.name}"

    def _add(self, network: str, names: Iterable[str], holder: tuple[str, str]) -> None:
        if network not in WITHOUT_NAMES:
            known = self._holders.setdefault(network, {})
            for name in names:
                known.setdefault(name, {}).setdefault(*holder)


def names_on(container: Container, endpoint: NetworkEndpoint) -> set[str]:
    """Return a container's names on a network, in lower case, except the short ID and the alias `gw-owner-…`."""
    names = {container.name.lower(), container.hostname} - {""}
    # Compose sets the name of the service as an alias when a container starts. A stopped container lacks this alias.
    if endpoint.aliases is None and SERVICE in container.labels:
        names.add(container.labels[SERVICE].lower())
    names |= {each for each in endpoint.names if not each.startswith(OWNER_ALIAS_PREFIX)}
    return names - {container.id[:_SHORT_ID]}


def names_after_attachment(container: Container, aliases: Iterable[str]) -> set[str]:
    """Return the names that a container gets on a network to which the gateway attaches it, in lower case."""
    return {container.name.lower(), container.hostname, *_lower(aliases)} - {""}


def _lower(names: Iterable[str]) -> set[str]:
    return {each.lower() for each in names}
