"""Takes snapshots of an engine, with as few requests as possible."""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from gateway.docker import response_conversion
from gateway.docker.engine_client import EngineClient, get_required, has_gateway_priority
from gateway.docker.engine_flavor import lease_ranges
from gateway.docker.errors import REQUEST_ERRORS, EngineError, EngineErrorKind, as_engine_error
from gateway.docker.grants import granted
from gateway.docker.image_labels import ImageLabelCache
from gateway.docker.inspection_cache import InspectionCache
from gateway.docker.inspection_conversion import epoch
from gateway.docker.labels import MANAGED_BY, by_rules
from gateway.docker.last_start_inspector import with_last_starts
from gateway.docker.name_resolution import WITHOUT_NAMES
from gateway.docker.options import DockerOptions
from gateway.docker.own_container_id import own_id
from gateway.docker.per_project_network_names import configured_as
from gateway.docker.snapshot import (
    RUNNING,
    TASK_LABEL,
    Container,
    EngineSnapshot,
    NetworkEndpoint,
    NetworkInfo,
    SwarmMembership,
    SwarmService,
)
from gateway.docker.volumes import EngineVolume
from gateway.text_sanitizer import one_line


class EngineSnapshotCollector:
    """Takes snapshots of one engine. Caches values that rarely change, such as the labels of images.

    Args:
        options: The configuration.
        known: Returns the networks in the ownership record, including those that are not configured.
        volumes: Returns whether volumes are configured.
        consumers: Returns the labels by which backends admit containers. If there are none, no backend identifies
            containers by their addresses to admit them, so snapshots omit whether containers can spoof addresses.
        starting: Returns the IDs of the containers that the gateway is starting now.
    """

    def __init__(
        self,
        options: DockerOptions,
        known: Callable[[], set[str]],
        volumes: Callable[[], bool] = lambda: False,
        consumers: Callable[[], Collection[str]] = frozenset,
        starting: Callable[[], Collection[str]] = frozenset,
    ) -> None:
        self._volumes = volumes
        self._consumers = consumers
        self._starting = starting
        self._options = options
        self._known = known
        self._compared: set[str] = set()
        """Networks whose endpoints are compared with the desired state. Snapshots must contain the aliases of these
        endpoints."""
        self._images = ImageLabelCache()
        self.inspections = InspectionCache()

    async def snapshot(self, engine: EngineClient) -> EngineSnapshot:
        """Take a complete snapshot of the engine.

        Raises:
            EngineError: A request failed.
        """
        began = time.monotonic()
        try:
            info = await engine.get("info")
            swarm, node = response_conversion.swarm(info)
            if swarm.manager:
                found = await engine.get(f"nodes/{node}")
                swarm = SwarmMembership(
                    active=True, manager=True, leader=bool(found.get("ManagerStatus", {}).get("Leader"))
                )
            networks = await _networks(engine)
            mark = f"{self._options.label_prefix}.{MANAGED_BY}"
            ours = {each.name for each in networks if mark in each.labels}
            self._compared = {*self._options.networks, *self._known(), *ours}
            listed = await engine.get("containers/json", all="true")
            own = own_id(self._options.container, listed)
            idle = [each["Id"] for each in listed if each.get("State") not in RUNNING]
            self.inspections.begin(idle, self._starting())
            containers = tuple([await self._container(engine, each) for each in listed])
            if self._options.networks:
                containers = await self._with_names(engine, containers, own)
            volumes: tuple[EngineVolume, ...] = ()
            if self._volumes():
                volumes = tuple(response_conversion.volumes(await engine.get("volumes"), listed))
            if labels := self._consumers():
                containers = await self._with_capabilities(engine, containers, labels)
            now = time.monotonic()
            containers, starts_known = await with_last_starts(
                engine, self.inspections, containers, self._matters, now
            )
            services = await self._services(engine) if swarm.manager else ()
        except EngineError:
            raise
        except REQUEST_ERRORS as error:
            raise as_engine_error(error) from error
        cache = self.inspections
        containers = tuple(
            replace(each, is_locked=cache.is_locked(each.id), problem=cache.problem(each.id)) for each in containers
        )
        endpoints = {each.endpoint_id for container in containers for each in container.endpoints.values()}
        self.inspections.retain({each.id for each in containers}, endpoints)
        self._images.retain({str(each.get("ImageID", "")) for each in listed})
        now = epoch(str(info.get("SystemTime")))
        return EngineSnapshot(
            containers, networks, services or (), volumes, info, swarm, own=own, services_hidden=services is None,
            gateway_priority=has_gateway_priority(engine.api_version), flavor=engine.flavor,
            engine_time=now and now + time.monotonic() - began, starts_known=starts_known,
        )  # fmt: skip

    async def _services(self, engine: EngineClient) -> tuple[SwarmService, ...] | None:
        """Return the swarm's services; None if `docker.services` is off and a proxy refuses the request."""
        try:
            return tuple(response_conversion.service(each) for each in await engine.get("services"))
        except EngineError as error:
            if error.kind is EngineErrorKind.FORBIDDEN and not self._options.services:
                return None
            raise

    async def _container(self, engine: EngineClient, listed: Mapping[str, Any]) -> Container:
        networks = (listed.get("NetworkSettings") or {}).get("Networks") or {}
        mode, hostname = str((listed.get("HostConfig") or {}).get("NetworkMode", "")), ""
        name = _name(listed)
        labels, image_labels = await self._images.split_labels(engine, listed)
        if engine.flavor.lists_aliases:
            inspection = await self.inspections.get(engine, listed["Id"])
            mode, hostname = (inspection.network_mode, inspection.reported_hostname) if inspection else ("", "")
            # Ignore the networks of a container that joins another container's network namespace: Podman lists the
            # networks of the other container.
            networks = {} if mode.startswith("container:") else networks
        else:
            networks = await self._with_aliases(engine, listed["Id"], networks)
        is_locked = self.inspections.is_locked(listed["Id"])
        endpoints = {
            name: NetworkEndpoint(
                network_id=str(each.get("NetworkID", "")),
                endpoint_id=str(each.get("EndpointID", "")),
                addresses=tuple(filter(None, (each.get("IPAddress"), each.get("GlobalIPv6Address")))),
                # The engine does not report the aliases of a task. They are in the specification of the service.
                aliases=None if TASK_LABEL in labels or is_locked else self._aliases_of(name, each),
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
            has_volumes=any(each.get("Type") == "volume" for each in listed.get("Mounts") or ()),
            exit_success=str(listed.get("Status", "")).startswith("Exited (0)"),
        )

    async def _with_aliases(
        self, engine: EngineClient, container: str, listed: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Return the container's endpoints. Inspect the container if the cache lacks required aliases."""
        ours = [name for name in listed if self._matters(name)]
        if all(self.inspections.aliases(listed[name].get("EndpointID") or "") is not None for name in ours):
            return listed
        inspected = await self.inspections.inspect(engine, container)
        return listed if inspected is None else inspected

    async def _with_capabilities(
        self, engine: EngineClient, containers: tuple[Container, ...], labels: Collection[str]
    ) -> tuple[Container, ...]:
        """Return copies of the containers, with `can_spoof` from the inspection cache.

        First, inspect the running containers that are not in the cache and may be able to spoof the address of a
        container that uses backends. A container may be able to do so only if it shares a network with a container
        that uses backends, or joins another container's network namespace.
        """
        running = [each for each in containers if each.state in RUNNING]
        shared = {name for each in running if self._takes_part(each, labels) for name in each.endpoints}
        for each in running:
            if each.joins or (shared & each.endpoints.keys()) - {"host", "none"}:
                await self.inspections.get(engine, each.id)
        known = {each.id: self.inspections.cached(each.id) for each in containers}
        return tuple(
            replace(each, can_spoof=found.can_spoof if (found := known[each.id]) else None) for each in containers
        )

    async def _with_names(
        self, engine: EngineClient, containers: tuple[Container, ...], own: str | None
    ) -> tuple[Container, ...]:
        """Add host names, hosts files and aliases to the containers that can have name conflicts.

        Such a container shares a network with the gateway's container, with a container on a configured network, or
        with a container that requests an attachment.
        """
        attached = [each for each in containers if each.id == own or self._asks(each) or self._joined(each)]
        networks = {name for each in attached for name in each.endpoints} - WITHOUT_NAMES
        asking = {each.id for each in attached}
        for each in containers:
            there = [endpoint.endpoint_id for name, endpoint in each.endpoints.items() if name in networks]
            if any(key and self.inspections.aliases(key) is None for key in there):
                await self.inspections.inspect(engine, each.id)
            elif each.id in asking:
                await self.inspections.get(engine, each.id)
        return tuple(self._named(each) for each in containers)

    def _named(self, container: Container) -> Container:
        """Add the host name, hosts file and aliases from the inspection cache to a copy of the container."""
        if (found := self.inspections.cached(container.id)) is not None:
            container = replace(container, hostname=found.hostname, hosts=found.hosts)
        endpoints = {
            name: replace(endpoint, aliases=self.inspections.aliases(endpoint.endpoint_id))
            if endpoint.aliases is None and not container.is_task
            else endpoint
            for name, endpoint in container.endpoints.items()
        }
        return replace(container, endpoints=endpoints)

    def _joined(self, container: Container) -> bool:
        """Return whether a container is on a configured network, regardless of who attached the container."""
        return any(configured_as(self._options.networks, name) is not None for name in container.endpoints)

    def _asks(self, container: Container) -> bool:
        """Return whether a label, a grant or a rule in `docker.attach` might attach the container to a network."""
        return (
            f"{self._options.label_prefix}.enable" in container.labels
            or granted(self._options.grants, container.name, container.labels) is not None
            or by_rules(container.name, container.labels, self._options.attach) is not None
        )

    def _takes_part(self, container: Container, labels: Collection[str]) -> bool:
        """Return whether a container uses backends.

        A container uses backends if it matches a grant, or if it has a label of the gateway or a label in `labels`.
        """
        prefix = f"{self._options.label_prefix}."
        asks = any(key.startswith(prefix) or key in labels for key in container.labels)
        return asks or granted(self._options.grants, container.name, container.labels) is not None

    def _matters(self, network: str) -> bool:
        return network in self._compared or configured_as(self._options.networks, network) is not None

    def _aliases_of(self, name: str, each: Mapping[str, Any]) -> frozenset[str] | None:
        if not self._matters(name):
            return None
        known = self.inspections.aliases(each.get("EndpointID") or "")
        return known if known is not None else frozenset(each.get("Aliases") or ())


async def _networks(engine: EngineClient) -> tuple[NetworkInfo, ...]:
    found = tuple(response_conversion.network(each) for each in await engine.get("networks"))
    if not engine.flavor.ranges:
        return found
    ranges = {
        each["id"]: lease_ranges(each) for each in await get_required(engine, engine.flavor.ranges, versioned=False)
    }
    return tuple(replace(each, ip_ranges=ranges.get(each.id, ())) for each in found)


def _name(listed: Mapping[str, Any]) -> str:
    """Return a container's name. Ignore names such as `/CONTAINER/ALIAS`, which `docker run --link` adds."""
    names = [str(each).lstrip("/") for each in listed.get("Names") or ()]
    own = next((each for each in names if "/" not in each), None) or next(iter(names), "")
    return one_line(own) or str(listed["Id"])[:12]
