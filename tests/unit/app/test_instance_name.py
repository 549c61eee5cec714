"""Tests whether the instance name stays the same in a new container if Docker objects depend on the name."""

import re
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.app import instance_name
from gateway.app.instance_name import with_instance
from gateway.config import Config, load
from gateway.config.loader import ConfigSources
from gateway.docker import own_container_id
from gateway.errors import ConfigError, GatewayError

ID = "0123456789ab"
DOCKER = "docker: {networks: {apps: {}}}\n"


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a container that was started without the option `--hostname`."""
    monkeypatch.setattr(socket, "gethostname", lambda: ID)
    monkeypatch.setattr(own_container_id, "mounted_id", lambda: [ID + "0" * 52])


def configured(
    folder: Path, more: str = DOCKER, gateway: str = "", environment: dict[str, str] | None = None
) -> Config:
    file = folder / "gateway.yaml"
    file.write_text(
        f"gateway: {{state_dir: {folder}/state{gateway}}}\n"
        f"backends: {{a: {{kind: tcp, targets: [h:1], listen: 0.0.0.0:1}}}}\n{more}"
    )
    config = load(ConfigSources(file, environment=environment or {}))
    if "gateway.instance" in config.places:
        return config
    return replace(config, gateway=replace(config.gateway, instance=socket.gethostname()))  # the default name


def test_a_hostname_that_is_the_container_id_is_refused_with_advice(inside: None, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        with_instance(configured(tmp_path))
    (problem,) = caught.value.problems
    assert (problem.key, ID in problem.message) == ("gateway.instance", True)
    assert re.search("Set gateway.instance .*--hostname", problem.message)
    assert with_instance(configured(tmp_path), record=False, refuse=False).gateway.instance == ID
    assert not (tmp_path / "state").exists()


def test_a_container_id_is_refused_also_if_configured(inside: None, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        with_instance(configured(tmp_path, gateway=", instance: '${HOSTNAME}'", environment={"HOSTNAME": ID}))
    assert caught.value.problems[0].place.startswith(f"{tmp_path}/gateway.yaml:1:")


def test_a_configured_name_needs_no_file(inside: None, tmp_path: Path) -> None:
    assert with_instance(configured(tmp_path, gateway=", instance: runtime-a")).gateway.instance == "runtime-a"
    assert not (tmp_path / "state").exists()


def test_without_docker_no_hostname_is_refused(inside: None, tmp_path: Path) -> None:
    assert with_instance(configured(tmp_path, more="")).gateway.instance == ID
    assert not (tmp_path / "state").exists()


def test_a_hostname_is_kept_and_outlives_a_change(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "docker-1")
    assert with_instance(configured(tmp_path), record=False).gateway.instance == "docker-1"
    assert not (tmp_path / "state").exists()
    assert with_instance(configured(tmp_path)).gateway.instance == "docker-1"
    assert (tmp_path / "state/instance").read_text() == "docker-1\n"
    monkeypatch.setattr(socket, "gethostname", lambda: ID)
    monkeypatch.setattr(own_container_id, "mounted_id", lambda: [ID + "0" * 52])
    assert with_instance(configured(tmp_path)).gateway.instance == "docker-1"


def test_another_hexadecimal_name_is_accepted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "cafecafecafe")
    monkeypatch.setattr(own_container_id, "mounted_id", lambda: [ID + "0" * 52])
    assert with_instance(configured(tmp_path)).gateway.instance == "cafecafecafe"


@pytest.mark.parametrize(("in_container", "refused"), [(True, True), (False, False)])
def test_without_a_known_id_the_check_applies_only_in_a_container(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, in_container: bool, refused: bool
) -> None:
    marker = tmp_path / ".dockerenv"
    if in_container:
        marker.touch()
    monkeypatch.setattr(socket, "gethostname", lambda: ID)
    monkeypatch.setattr(own_container_id, "mounted_id", list)
    monkeypatch.setattr(instance_name, "_CONTAINER_MARKERS", (marker,))
    if refused:
        with pytest.raises(ConfigError):
            with_instance(configured(tmp_path))
    else:
        assert with_instance(configured(tmp_path)).gateway.instance == ID


def test_a_file_that_holds_no_name_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state/instance").write_text("\n")
    with pytest.raises(GatewayError, match="does not contain a name"):
        with_instance(configured(tmp_path))


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    with pytest.raises(GatewayError, match=r"repair the file, or set gateway\.instance"):
        with_instance(configured(tmp_path))


def test_a_name_that_cannot_be_saved_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "docker-1")
    config = configured(tmp_path)
    nowhere = replace(config, gateway=replace(config.gateway, state_dir=Path("/proc/gateway-state")))
    assert with_instance(nowhere).gateway.instance == "docker-1"
    assert "cannot record the name" in caplog.text
