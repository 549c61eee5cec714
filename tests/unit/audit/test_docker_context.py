"""Tests which engine the command `docker` uses by default."""

import json
from pathlib import Path

import pytest

from gateway.audit.docker_context import default_host
from gateway.docker.options import DockerOptions

REMOTE = "tcp://10.0.0.9:2376"


@pytest.mark.parametrize(
    ("environment", "config", "expected"),
    [
        ({}, None, DockerOptions.host),
        ({}, "{broken", DockerOptions.host),
        ({}, "[]", DockerOptions.host),
        ({}, json.dumps({"auths": {}}), DockerOptions.host),
        ({}, json.dumps({"currentContext": "rootless"}), ""),
        ({}, json.dumps({"currentContext": "default"}), DockerOptions.host),
        ({"DOCKER_CONTEXT": "default"}, json.dumps({"currentContext": "rootless"}), DockerOptions.host),
        ({"DOCKER_CONTEXT": "desktop-linux"}, None, ""),
        ({"DOCKER_CONTEXT": "desktop-linux", "DOCKER_HOST": REMOTE}, None, REMOTE),
        ({"DOCKER_HOST": ""}, json.dumps({"currentContext": "rootless"}), ""),
    ],
)
def test_a_context_selects_another_engine(
    environment: dict[str, str], config: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".docker").mkdir()
    if config is not None:
        (tmp_path / ".docker/config.json").write_text(config)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_host(environment) == expected
    monkeypatch.setenv("HOME", str(tmp_path / "none"))
    assert default_host({**environment, "DOCKER_CONFIG": str(tmp_path / ".docker")}) == expected
