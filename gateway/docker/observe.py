"""Asks an engine for everything that matters, with as few questions as can be."""

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gateway.docker.engine import Engine, has_gateway_priority
from gateway.docker.exposure import can_spoof
from gateway.docker.grants import granted
from gateway.docker.images import Images
from gateway.docker.labels import MANAGED_BY, by_rules
from gateway.docker.model import RUNNING, TASK_LABEL, Container, EndpointInfo, NetworkInfo, Observed, Service, Swarm
from gateway.docker.names import WITHOUT_NAMES, hostname_of, hosts_of
from gateway.docker.options import DockerOptions
from gateway.docker.projects import configured_as
from gateway.docker.trouble import EXPECTED, EngineError, Kind, explain
from gateway.docker.volumes import VolumeInfo
from gateway.text import one_line

_ID = re.compile(r"containers/([0-9a-f]{64})/\S+ /etc/(?:hostname|hosts|resolv\.conf) ")
"""In /proc/self/mountinfo: files that Docker mounts into a container, and not those that a host has of others.

Podman's are in `overlay-containers`, or another storage driver's."""
_SHORT_ID = re.compile(r"[0-9a-f]{12,64}")


class Observer:
    """Looks at one engine; remembers what never changes: aliases of endpoints, labels of images, capabilities.

    Args:
        options: What is configured.
        known: Networks that we once attached something to, whether they are configured or not.
        volumes: Tells whether volumes matter.
        consumers: Gives the labels by which backends let in consumers; empty: none does, and nobody passes for one.
    """

    def __init__(
        self,
        options: DockerOptions,
        known: Callable[[], set[str]],
        volumes: Callable[[], bool] = lambda: False,
        consumers: Callable[[], Collection[str]] = frozenset,
    ) -> None:
        self._volumes = volumes
        self._consumers = consumers
        self._options = options
        self._known = known
        self._matter: set[str] = set()
        self._aliases: dict[str, frozenset[str]] = {}
        self._images = Images()
        self._can_spoof: dict[str, bool] = {}
        """By the container's ID."""
        self._hosts: dict[str, tuple[str, frozenset[str]]] = {}
        """Its host name, and the names that it resolves by itself, by the container's ID."""
        self._modes: dict[str, tuple[str, str]] = {}
        """Network modes and host names by the container's ID, where the list of containers does not tell them."""

    async def look(self, engine: Engine) -> Observed:
        """Everything at this moment; half of it is nothing.

        Raises:
            EngineError: A question was not answered.
        """
        try:
            info = await engine.get("info")
            swarm, node = _swarm(info)
            if swarm.manager:
                told = await engine.get(f"nodes/{node}")
                swarm = Swarm(active=True, manager=True, leader=bool(told.get("ManagerStatus", {}).get("Leader")))
            networks = tuple(_network(each) for each in await engine.get("networks"))
            mark = f"{self._options.label_prefix}.{MANAGED_BY}"
            ours = {each.name for each in networks if mark in each.labels}
            self._matter = {*self._options.networks, *self._known(), *ours}
            listed = await engine.get("containers/json", all="true")
            own = _own(self._options.container, listed)
            containers = tuple([await self._container(engine, each) for each in listed])
            if self._options.networks:
                containers = await self._with_names(engine, containers, own)
            volumes: tuple[VolumeInfo, ...] = ()
            if self._volumes():
                volumes = tuple(_volumes(await engine.get("volumes"), listed))
            if labels := self._consumers():
                containers = await self._with_capabilities(engine, containers, labels)
            services = await self._services(engine) if swarm.manager else ()
        except EngineError:
            raise
        except EXPECTED as error:  # an answer in a form that we do not know
            raise explain(error) from error
        seen = {each.endpoint_id for container in containers for each in container.endpoints.values()}
        self._aliases = {key: aliases for key, aliases in self._aliases.items() if key in seen}
        self._images.keep({str(each.get("ImageID", "")) for each in listed})
        ids = {each.id for each in containers}
        self._can_spoof = {key: able for key, able in self._can_spoof.items() if key in ids}
        self._hosts = {key: names for key, names in self._hosts.items() if key in ids}
        self._modes = {key: mode for key, mode in self._modes.items() if key in ids}
        return Observed(
            containers, networks, services or (), volumes, info, swarm, own=own, services_hidden=services is None,
            gateway_priority=has_gateway_priority(engine.api_version), flavour=engine.flavour,
        )  # fmt: skip

    async def _services(self, engine: Engine) -> tuple[Service, ...] | None:
        """Return the swarm's services; None: a proxy refuses the request, and `docker.services` does not need it."""
        try:
            return tuple(_service(each) for each in await engine.get("services"))
        except EngineError as trouble:
            if trouble.kind is Kind.FORBIDDEN and not self._options.services:
                return None
            raise

    async def _container(self, engine: Engine, listed: Mapping[str, Any]) -> Container:
        networks = (listed.get("NetworkSettings") or {}).get("Networks") or {}
        mode, hostname = str((listed.get("HostConfig") or {}).get("NetworkMode", "")), ""
        name = _name(listed)
        labels, image_labels = await self._images.split_labels(engine, listed)
        if engine.flavour.lists_aliases:
            mode, hostname = await self._mode(engine, listed["Id"])
            # Listed are the networks of the container whose network namespace it shares.
            networks = {} if mode.startswith("container:") else networks
        else:
            networks = await self._with_aliases(engine, listed["Id"], networks)
        endpoints = {
            name: EndpointInfo(
                network_id=str(each.get("NetworkID", "")),
                endpoint_id=str(each.get("EndpointID", "")),
                addresses=tuple(filter(None, (each.get("IPAddress"), each.get("GlobalIPv6Address")))),
                # The engine does not report a task's aliases: the specification of its service has them.
                aliases=None if TASK_LABEL in labels else self._aliases_of(name, each),
            )
            for name, each in networks.items()
        }
        return Container(
            id=listed["Id"],
            name=name,
            state=str(listed.get("State", "")),
            labels=labels,
            network_mode=mode,
            endpoints=endpoints,
            image_labels=image_labels,
            created=int(listed.get("Created") or 0),
            given_names=frozenset(filter(None, (hostname,))),
        )

    async def _with_aliases(self, engine: Engine, container: str, listed: Mapping[str, Any]) -> Mapping[str, Any]:
        """The container's endpoints with their aliases, where these matter and the list does not have them."""
        ours = [name for name in listed if self._matters(name)]
        known = all(listed[name].get("EndpointID") in self._aliases for name in ours)
        return listed if known else await self._inspected(engine, container, listed)

    async def _mode(self, engine: Engine, container: str) -> tuple[str, str]:
        """The container's network mode and host name, which never change."""
        if container not in self._modes:
            await self._inspected(engine, container, {})
        return self._modes.get(container, ("", ""))

    async def _with_capabilities(
        self, engine: Engine, containers: tuple[Container, ...], labels: Collection[str]
    ) -> tuple[Container, ...]:
        """Learn what those can do that share a network with a consumer, or another container's network namespace."""
        running = [each for each in containers if each.state in RUNNING]
        shared = {name for each in running if self._takes_part(each, labels) for name in each.endpoints}
        for each in running:
            near = each.joins or (shared & each.endpoints.keys()) - {"host", "none"}
            if near and each.id not in self._can_spoof:
                await self._inspected(engine, each.id, {})
        return tuple(replace(each, can_spoof=self._can_spoof.get(each.id)) for each in containers)

    async def _with_names(
        self, engine: Engine, containers: tuple[Container, ...], own: str | None
    ) -> tuple[Container, ...]:
        """Learn the names that those resolve which are attached or to be, on each of their networks."""
        attached = [each for each in containers if each.id == own or self._asks(each) or self._joined(each)]
        networks = {name for each in attached for name in each.endpoints} - WITHOUT_NAMES
        unknown = {each.id for each in attached if each.id not in self._hosts}
        for each in containers:
            there = [endpoint.endpoint_id for name, endpoint in each.endpoints.items() if name in networks]
            if each.id in unknown or any(key and key not in self._aliases for key in there):
                await self._inspected(engine, each.id, {})
        own_names = {each.id: self._hosts.get(each.id, ("", frozenset[str]())) for each in containers}
        return tuple(
            replace(
                each,
                hostname=own_names[each.id][0],
                hosts=own_names[each.id][1],
                endpoints={
                    name: replace(endpoint, aliases=self._aliases.get(endpoint.endpoint_id))
                    if endpoint.aliases is None and not each.is_task
                    else endpoint
                    for name, endpoint in each.endpoints.items()
                },
            )
            for each in containers
        )

    def _joined(self, container: Container) -> bool:
        """Whether it is on one of the configured networks, whoever attached it."""
        return any(configured_as(self._options.networks, name) is not None for name in container.endpoints)

    def _asks(self, container: Container) -> bool:
        """Whether a label, a grant or a rule may attach it."""
        return (
            f"{self._options.label_prefix}.enable" in container.labels
            or granted(self._options.grants, container.name, container.labels) is not None
            or by_rules(container.name, container.labels, self._options.attach) is not None
        )

    def _takes_part(self, container: Container, labels: Collection[str]) -> bool:
        """Whether it asks for something by label, or is granted something."""
        prefix = f"{self._options.label_prefix}."
        asks = any(key.startswith(prefix) or key in labels for key in container.labels)
        return asks or granted(self._options.grants, container.name, container.labels) is not None

    async def _inspected(self, engine: Engine, container: str, listed: Mapping[str, Any]) -> Mapping[str, Any]:
        """The container's endpoints from its own page, which tells aliases and capabilities, unlike the list."""
        path = f"{engine.flavour.inspection}containers/{container}/json"
        try:
            told = await engine.get(path)
        except EngineError as trouble:
            if trouble.kind is Kind.NOT_FOUND:  # gone since the list was made
                return listed
            if trouble.kind is Kind.FORBIDDEN:
                message = f"{path} is refused ({trouble}): the proxy before the engine must allow it"
                raise EngineError(trouble.kind, message) from trouble
            raise
        host: Mapping[str, Any] = told.get("HostConfig") or {}
        self._can_spoof[container] = can_spoof(host, told.get("BoundingCaps"))
        self._hosts[container] = (hostname_of(told), hosts_of(told))
        hostname = str((told.get("Config") or {}).get("Hostname", ""))
        self._modes[container] = (str(host.get("NetworkMode", "")), hostname)
        networks: Mapping[str, Any] = (told.get("NetworkSettings") or {}).get("Networks") or {}
        for each in networks.values():
            # One that is not running has no endpoint yet, and may get other aliases until it has.
            if each.get("EndpointID"):
                self._aliases[each["EndpointID"]] = frozenset(each.get("Aliases") or ())
        return networks

    def _matters(self, network: str) -> bool:
        return network in self._matter or configured_as(self._options.networks, network) is not None

    def _aliases_of(self, name: str, each: Mapping[str, Any]) -> frozenset[str] | None:
        if not self._matters(name):
            return None
        known = self._aliases.get(each.get("EndpointID") or "")
        return known if known is not None else frozenset(each.get("Aliases") or ())


def _swarm(info: Mapping[str, Any]) -> tuple[Swarm, str]:
    told = info.get("Swarm") or {}
    active = told.get("LocalNodeState") == "active"
    return Swarm(active, active and bool(told.get("ControlAvailable"))), str(told.get("NodeID", ""))


def _network(told: Mapping[str, Any]) -> NetworkInfo:
    ranges = (told.get("IPAM") or {}).get("Config") or []
    return NetworkInfo(
        id=told["Id"],
        name=told["Name"],
        driver=told["Driver"],
        scope=told["Scope"],
        attachable=bool(told.get("Attachable")),
        labels=told.get("Labels") or {},
        subnets=tuple(each["Subnet"] for each in ranges if each.get("Subnet")),
        internal=bool(told.get("Internal")),
        options=told.get("Options") or {},
        ip_ranges=tuple(each["IPRange"] for each in ranges if each.get("IPRange")),
        gateways=tuple(each["Gateway"].partition("/")[0] for each in ranges if each.get("Gateway")),
    )


def _volumes(told: Mapping[str, Any], containers: Iterable[Mapping[str, Any]]) -> Iterator[VolumeInfo]:
    used = {
        mount.get("Name")
        for each in containers
        for mount in each.get("Mounts") or ()
        if mount.get("Type") == "volume"
    }
    for each in told.get("Volumes") or ():
        yield VolumeInfo(
            name=each["Name"],
            driver=each["Driver"],
            options=each.get("Options") or {},
            labels=each.get("Labels") or {},
            used=each["Name"] in used,
        )


def _service(told: Mapping[str, Any]) -> Service:
    spec = told["Spec"]
    networks = spec.get("TaskTemplate", {}).get("Networks") or []
    return Service(
        id=told["ID"],
        name=spec["Name"],
        version=int(told["Version"]["Index"]),
        labels=spec.get("Labels") or {},
        networks={each["Target"]: frozenset(each.get("Aliases") or ()) for each in networks},
        spec=spec,
    )


def _name(listed: Mapping[str, Any]) -> str:
    """Return a container's own name; a container that links to it gives it another one, `/THAT/ALIAS`."""
    names = [str(each).lstrip("/") for each in listed.get("Names") or ()]
    own = next((each for each in names if "/" not in each), None) or next(iter(names), "")
    return one_line(own) or str(listed["Id"])[:12]


def _own(configured: str | None, listed: Iterable[Mapping[str, Any]]) -> str | None:
    """The ID of the container that we are in; None when we are in none of this engine's."""
    ids: dict[str, list[str]] = {
        each["Id"]: [name.lstrip("/") for name in each.get("Names") or []] for each in listed
    }
    if configured:
        by_id = (each for each in ids if each.startswith(configured))
        return next((each for each, names in ids.items() if configured in names), None) or next(by_id, None)
    hostname = os.environ.get("HOSTNAME", "")
    for name in (*mounted_id(), hostname if _SHORT_ID.fullmatch(hostname) else ""):
        found = next((each for each in ids if name and each.startswith(name)), None)
        if found is not None:
            return found
    return None


def mounted_id() -> list[str]:
    """The ID in the paths of the files that Docker mounts into each container."""
    try:
        return _ID.findall(Path("/proc/self/mountinfo").read_text())[:1]
    except OSError:
        return []
