"""Tests the differences between Docker and Podman. tests/integration/test_podman.py uses the real Podman."""

import asyncio
from contextlib import nullcontext
from typing import Any

import pytest

from gateway.docker.attachment_obstacle import AttachmentObstacle
from gateway.docker.consumer_identity_warnings import can_spoof
from gateway.docker.desired_state import DesiredState
from gateway.docker.engine_actions import execute
from gateway.docker.engine_client import EngineClient
from gateway.docker.engine_flavor import DOCKER, PODMAN, EngineFlavor, flavor, lease_ranges
from gateway.docker.errors import EngineError, EngineErrorKind
from gateway.docker.options import DockerOptions, NetworkOptions
from gateway.docker.plan import ActionKind, PlannedAction
from gateway.docker.planning import plan
from gateway.docker.snapshot import Container, EngineSnapshot

COMPONENTS = [{"Name": "Podman Engine", "Version": "5.4.2"}, {"Name": "Conmon"}]
WEB = Container("0" * 64, "web", "running", {"gateway.enable": "true"}, "bridge", {})


class Answering(EngineClient):
    """An engine that answers `/version` with the given text."""

    def __init__(self, version: Any) -> None:
        class Client:
            api_version = ""

        super().__init__(Client(), 30.0, lambda: nullcontext(self))  # type: ignore[arg-type]
        self._version = version

    async def _request(self, path: str, *_: Any, **__: Any) -> Any:
        assert path == "version"
        return self._version


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ({"ApiVersion": "1.41", "MinAPIVersion": "1.24", "Components": COMPONENTS}, (PODMAN, "1.41")),
        ({"ApiVersion": "1.45", "MinAPIVersion": "1.24", "Components": [{"Name": "Engine"}]}, (DOCKER, "1.45")),
        ({"ApiVersion": "1.52", "MinAPIVersion": "1.44"}, (DOCKER, "1.48")),
    ],
)
def test_the_engine_and_the_version_are_known_from_one_answer(
    version: Any, expected: tuple[EngineFlavor, str]
) -> None:
    engine = Answering(version)
    asyncio.run(engine.negotiate())
    assert (engine.flavor, engine.api_version) == expected
    assert flavor(version) is expected[0]


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (
            {"Version": "4.1.1", "ApiVersion": "1.40", "Components": COMPONENTS},
            "Podman 4.1.1 has API 1.40, but Podman 4.2 or later is required: update it",
        ),
        (
            {"Version": "24.0.7", "ApiVersion": "1.43"},
            "Docker 24.0.7 has API 1.43, but Docker Engine 25 or later is required: update it",
        ),
        (
            {"Version": "99", "ApiVersion": "1.99", "MinAPIVersion": "1.60", "Components": COMPONENTS},
            "Podman 99 requires API 1.60 or newer, but this gateway supports only API 1.48: update the gateway",
        ),
        ("<html>", "not the response of a Docker engine ('<html>'): check docker.host"),
    ],
)
def test_an_unsupported_engine_is_reported_by_name(version: Any, message: str) -> None:
    with pytest.raises(EngineError) as raised:
        asyncio.run(Answering(version).negotiate())
    assert (raised.value.kind, str(raised.value)) == (EngineErrorKind.API, message)


def test_disconnected_containers_are_recognized() -> None:
    assert (
        DOCKER.disconnected_container({"Actor": {"ID": "network", "Attributes": {"container": "c", "name": "apps"}}})
        == "c"
    )
    assert (
        PODMAN.disconnected_container({"Actor": {"ID": "c", "Attributes": {"name": "web", "network": "apps"}}}) == "c"
    )
    assert DOCKER.disconnected_container({}) == PODMAN.disconnected_container({}) == ""


@pytest.mark.parametrize(
    ("lease", "expected"),
    [
        ({"start_ip": "10.95.0.129", "end_ip": "10.95.0.255"}, ("10.95.0.128/25",)),  # --ip-range 10.95.0.128/25
        ({"start_ip": "10.95.0.129"}, ("10.95.0.128/25",)),
        ({"end_ip": "10.95.0.100"}, ("10.95.0.0/25",)),
        ({"start_ip": "10.95.0.100", "end_ip": "10.95.0.200"}, ("10.95.0.0/24",)),
        (None, ()),
    ],
)
def test_the_address_range_of_a_podman_network_is_read(
    lease: dict[str, str] | None, expected: tuple[str, ...]
) -> None:
    assert lease_ranges({"subnets": [{"subnet": "10.95.0.0/24", "lease_range": lease}]}) == expected


def test_the_capabilities_of_a_podman_container_are_read() -> None:
    assert not can_spoof({"CapAdd": []}, ["CAP_CHOWN", "CAP_NET_BIND_SERVICE"])
    assert can_spoof({"CapAdd": []}, ["CAP_CHOWN", "CAP_NET_RAW"])  # This Podman grants CAP_NET_RAW by default.


@pytest.mark.parametrize(
    ("mode", "networks", "reason", "message"),
    [
        (
            "pasta",
            {"apps": NetworkOptions()},
            AttachmentObstacle.NOT_ATTACHABLE,
            "it uses pasta, with which Podman cannot join",
        ),
        (
            "bridge",
            {"apps": NetworkOptions("overlay")},
            AttachmentObstacle.NOT_MANAGER,
            "network apps: Podman has no overlay",
        ),
    ],
)
def test_containers_that_podman_cannot_attach_are_blocked_with_a_reason(
    mode: str, networks: dict[str, NetworkOptions], reason: AttachmentObstacle, message: str
) -> None:
    container = Container(WEB.id, WEB.name, WEB.state, WEB.labels, mode, {})
    wanted = DesiredState("site", DockerOptions(networks=networks, services=True), ("orders",))
    found = plan(wanted, EngineSnapshot((container,), flavor=PODMAN), frozenset())
    (condition,) = found.attachments
    assert (condition.reason, condition.message.startswith(message)) == (reason, True)
    assert any(each.startswith("docker.services: Podman has no swarm services") for each in found.warnings)


@pytest.mark.parametrize(
    ("kind", "implementation", "cleared"),
    [
        (EngineErrorKind.FAILED, PODMAN, True),  # Podman responds 500.
        (EngineErrorKind.FORBIDDEN, PODMAN, False),  # The container is already connected.
        (EngineErrorKind.UNREACHABLE, PODMAN, False),  # The engine possibly executed the request.
        (EngineErrorKind.FAILED, DOCKER, False),
    ],
)
def test_a_failed_connection_is_removed_on_podman(
    kind: EngineErrorKind, implementation: EngineFlavor, cleared: bool
) -> None:
    asked = []

    class Failing:
        api_version = "1.41"
        flavor = implementation

        async def post(self, path: str, body: Any) -> None:
            asked.append(path)
            raise EngineError(kind if path.endswith("connect") else EngineErrorKind.FAILED, body["Container"])

    with pytest.raises(EngineError) as raised:
        asyncio.run(execute(Failing(), PlannedAction(ActionKind.CONNECT, "apps", "n", "web", "c")))  # type: ignore[arg-type]
    assert raised.value.kind is kind
    assert asked == ["networks/n/connect", *(["networks/n/disconnect"] if cleared else [])]
