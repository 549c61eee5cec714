"""Simulates a Docker engine in memory, including its error responses, for tests with many thousands of requests."""

import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from gateway.docker.engine_flavor import DOCKER
from gateway.docker.errors import EngineError, EngineErrorKind


@dataclass
class FakeEndpoint:
    id: str
    aliases: list[str]
    address: str
    foreign: bool


@dataclass
class FakeContainer:
    id: str
    name: str
    labels: dict[str, str]
    mode: str = "bridge"
    state: str = "running"
    endpoints: dict[str, FakeEndpoint] = field(default_factory=dict)


@dataclass
class FakeNetwork:
    id: str
    name: str
    driver: str = "bridge"
    attachable: bool = False
    labels: dict[str, str] = field(default_factory=dict)
    subnet: str = ""
    internal: bool = False
    options: dict[str, str] = field(default_factory=dict)
    full: bool = False


class FakeEngine:
    """A simulated engine with the methods of `gateway.docker.engine_client.EngineClient`.

    Args:
        rng: The random generator that selects the requests that fail.
    """

    api_version = "1.45"
    flavor = DOCKER

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._numbers = itertools.count(1)
        self.containers: dict[str, FakeContainer] = {}
        self.networks: dict[str, FakeNetwork] = {}
        self.failing = 0.0
        """The fraction of requests that fail. The engine nevertheless applies about half of the failed changes."""
        self.writes: list[tuple[str, str, str]] = []
        self.foreign_touched: list[str] = []
        self.swarm = False
        self.image_labels: dict[str, str] = {}

    def number(self) -> str:
        return f"{next(self._numbers):064x}"

    # The methods below simulate changes by other clients of the engine.

    def add_network(self, name: str, **more: Any) -> FakeNetwork:
        network = FakeNetwork(self.number(), name, **more)
        self.networks[network.id] = network
        return network

    def add_container(self, name: str, labels: dict[str, str], mode: str = "bridge") -> FakeContainer:
        container = FakeContainer(self.number(), name, labels, mode)
        self.containers[container.id] = container
        return container

    def join(self, container: FakeContainer, network: FakeNetwork, aliases: list[str], *, foreign: bool) -> None:
        container.endpoints[network.name] = FakeEndpoint(
            self.number(), aliases, f"10.0.0.{len(self.containers)}", foreign
        )

    def restart(self, container: FakeContainer) -> None:
        container.state = "running"
        for endpoint in container.endpoints.values():
            endpoint.id = self.number()

    # The methods below handle the gateway's requests.

    async def get(self, path: str, **params: Any) -> Any:
        self._maybe_fail()
        if path == "info":
            state = "active" if self.swarm else "inactive"
            return {"Swarm": {"LocalNodeState": state, "ControlAvailable": self.swarm, "NodeID": "n"}}
        if path.startswith("nodes/"):
            return {"ManagerStatus": {"Leader": True}}
        if path == "networks":
            return [
                {"Id": each.id, "Name": each.name, "Driver": each.driver, "Attachable": each.attachable,
                 "Scope": "swarm" if each.driver == "overlay" else "local", "Labels": dict(each.labels),
                 "Internal": each.internal, "Options": dict(each.options),
                 "IPAM": {"Config": [{"Subnet": each.subnet}] if each.subnet else None}}
                for each in self.networks.values()
            ]  # fmt: skip
        if path == "containers/json":
            return [self._listed(each) for each in self.containers.values()]
        if path.startswith("images/"):
            return {"Config": {"Labels": self.image_labels}}
        found = self.containers.get(path.split("/")[1])
        if found is None:
            raise EngineError(EngineErrorKind.NOT_FOUND, "No such container")
        listed = {**self._listed(found), "State": {"Status": found.state, "Error": ""}}
        for name, endpoint in found.endpoints.items():
            listed["NetworkSettings"]["Networks"][name]["Aliases"] = list(endpoint.aliases)
        return listed

    async def post(self, path: str, body: Any = None, **params: Any) -> Any:
        del params
        self._maybe_fail(0.5)
        self._write(path, body)
        self._maybe_fail(0.5)

    async def post_start(self, path: str) -> None:
        await self.post(path)

    @asynccontextmanager
    async def separate(self) -> AsyncIterator["FakeEngine"]:
        yield self

    async def delete(self, path: str, **params: Any) -> Any:
        del params
        self._maybe_fail(0.5)
        network = self._network(path.removeprefix("networks/"))
        self.writes.append(("remove", network.name, ""))
        if any(network.name in each.endpoints for each in self.containers.values()):
            raise EngineError(EngineErrorKind.FORBIDDEN, f"network {network.name} has active endpoints")
        if not network.labels:
            self.foreign_touched.append(f"network {network.name} removed")
        del self.networks[network.id]

    def _write(self, path: str, body: Any) -> None:
        if path == "networks/create":
            self.writes.append(("create", body["Name"], ""))
            if any(each.name == body["Name"] for each in self.networks.values()):
                raise EngineError(EngineErrorKind.CONFLICT, f"network with name {body['Name']} already exists")
            self.add_network(
                body["Name"], driver=body["Driver"], attachable=body["Attachable"], labels=body["Labels"],
                subnet=body["IPAM"]["Config"][0]["Subnet"], internal=body["Internal"], options=body["Options"],
            )  # fmt: skip
            return
        _, network_id, verb = path.split("/")
        network = self._network(network_id)
        container = self.containers.get(body["Container"])
        if container is None:
            raise EngineError(EngineErrorKind.NOT_FOUND, "No such container")
        self.writes.append((verb, network.name, container.name))
        if verb == "connect":
            self._connect(network, container, body["EndpointConfig"]["Aliases"])
        else:
            self._disconnect(network, container)

    def _connect(self, network: FakeNetwork, container: FakeContainer, aliases: list[str]) -> None:
        if container.mode.startswith("container:"):
            raise EngineError(EngineErrorKind.REFUSED, "container sharing network namespace with another container")
        if container.mode in ("host", "none"):
            raise EngineError(EngineErrorKind.FORBIDDEN, "container cannot be connected to host network")
        if network.name in container.endpoints:
            raise EngineError(
                EngineErrorKind.FORBIDDEN, f"endpoint with name {container.name} already exists in network"
            )
        if network.driver == "overlay" and not network.attachable:
            raise EngineError(EngineErrorKind.FORBIDDEN, f"network {network.name} not manually attachable")
        if network.full:
            raise EngineError(EngineErrorKind.FAILED, "no available IPv4 addresses on this network's address pools")
        self.join(container, network, list(aliases), foreign=False)

    def _disconnect(self, network: FakeNetwork, container: FakeContainer) -> None:
        endpoint = container.endpoints.get(network.name)
        if endpoint is None:
            raise EngineError(
                EngineErrorKind.FAILED, f"container {container.id} is not connected to network {network.name}"
            )
        if endpoint.foreign:
            self.foreign_touched.append(f"{container.name} detached from {network.name}")
        del container.endpoints[network.name]

    def _network(self, name: str) -> FakeNetwork:
        for network in self.networks.values():
            if name in (network.id, network.name):
                return network
        raise EngineError(EngineErrorKind.NOT_FOUND, f"network {name} not found")

    def _listed(self, container: FakeContainer) -> dict[str, Any]:
        by_name = {network.name: network.id for network in self.networks.values()}
        return {
            "Id": container.id, "ImageID": "sha256:1", "Names": [f"/{container.name}"], "State": container.state,
            "Labels": dict(container.labels), "HostConfig": {"NetworkMode": container.mode},
            "NetworkSettings": {"Networks": {
                name: {"NetworkID": by_name.get(name, ""), "IPAddress": each.address, "GlobalIPv6Address": "",
                       "EndpointID": each.id if container.state == "running" else "", "Aliases": None}
                for name, each in container.endpoints.items()
            }},
        }  # fmt: skip

    def _maybe_fail(self, share: float = 1.0) -> None:
        if self._rng.random() < self.failing * share:
            raise self._rng.choice([
                EngineError(EngineErrorKind.TIMEOUT, "no response in time"),
                EngineError(EngineErrorKind.UNREACHABLE, "connection lost"),
                EngineError(EngineErrorKind.FAILED, "internal error"),
            ])  # fmt: skip
