"""Asks an engine for everything that matters, with as few questions as can be."""

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gateway.docker.engine import Engine
from gateway.docker.exposure import can_spoof
from gateway.docker.grants import granted
from gateway.docker.images import Images
from gateway.docker.labels import MANAGED_BY
from gateway.docker.model import RUNNING, TASK_LABEL, Container, EndpointInfo, NetworkInfo, Observed, Service, Swarm
from gateway.docker.options import DockerOptions
from gateway.docker.trouble import EXPECTED, EngineError, Kind, explain
from gateway.docker.volumes import VolumeInfo
from gateway.text import one_line

_ID = re.compile(r"/containers/([0-9a-f]{64})/\S+ /etc/(?:hostname|hosts|resolv\.conf) ")
"""In /proc/self/mountinfo: files that Docker mounts into a container, and not those that a host has of others."""
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
        hidden = services is None
        return Observed(containers, networks, services or (), volumes, info, swarm, hidden, own)

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
        ours = [name for name in networks if name in self._matter]
        unknown = [name for name in ours if networks[name].get("EndpointID") not in self._aliases]
        name = one_line(str(listed["Names"][0]).lstrip("/")) if listed.get("Names") else listed["Id"][:12]
        labels, image_labels = await self._images.split_labels(engine, listed)
        if unknown or (ours and not all(networks[name].get("EndpointID") for name in ours)):
            networks = await self._inspected(engine, listed["Id"], networks)
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
            network_mode=str((listed.get("HostConfig") or {}).get("NetworkMode", "")),
            endpoints=endpoints,
            image_labels=image_labels,
            created=int(listed.get("Created") or 0),
        )

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

    def _takes_part(self, container: Container, labels: Collection[str]) -> bool:
        """Whether it asks for something by label, or is granted something."""
        prefix = f"{self._options.label_prefix}."
        asks = any(key.startswith(prefix) or key in labels for key in container.labels)
        return asks or granted(self._options.grants, container.name, container.labels) is not None

    async def _inspected(self, engine: Engine, container: str, listed: Mapping[str, Any]) -> Mapping[str, Any]:
        """The container's endpoints from its own page, which tells aliases and capabilities, unlike the list."""
        try:
            told = await engine.get(f"containers/{container}/json")
        except EngineError as trouble:
            if trouble.kind is Kind.NOT_FOUND:  # gone since the list was made
                return listed
            raise
        self._can_spoof[container] = can_spoof(told.get("HostConfig") or {})
        networks: Mapping[str, Any] = (told.get("NetworkSettings") or {}).get("Networks") or {}
        for each in networks.values():
            # One that is not running has no endpoint yet, and may get other aliases until it has.
            if each.get("EndpointID"):
                self._aliases[each["EndpointID"]] = frozenset(each.get("Aliases") or ())
        return networks

    def _aliases_of(self, name: str, each: Mapping[str, Any]) -> frozenset[str] | None:
        if name not in self._matter:
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


def _own(configured: str | None, listed: Iterable[Mapping[str, Any]]) -> str | None:
    """The ID of the container that we are in; None when we are in none of this engine's."""
    ids: dict[str, list[str]] = {
        each["Id"]: [name.lstrip("/") for name in each.get("Names") or []] for each in listed
    }
    if configured:
        return next((each for each, names in ids.items() if configured in names or each.startswith(configured)), None)
    hostname = os.environ.get("HOSTNAME", "")
    for name in (*_mounted_id(), hostname if _SHORT_ID.fullmatch(hostname) else ""):
        found = next((each for each in ids if name and each.startswith(name)), None)
        if found is not None:
            return found
    return None


def _mounted_id() -> list[str]:
    """The ID in the paths of the files that Docker mounts into each container."""
    try:
        return _ID.findall(Path("/proc/self/mountinfo").read_text())[:1]
    except OSError:
        return []
