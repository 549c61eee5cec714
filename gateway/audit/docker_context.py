"""Determines the default engine of `docker` from environment variables and the file `config.json`."""

import json
from collections.abc import Mapping
from pathlib import Path

from gateway.docker.options import DockerOptions


def default_host(environment: Mapping[str, str]) -> str:
    """Return the address of the engine that `docker` uses by default; empty if a Docker context selects the engine.

    Args:
        environment: The environment variables of `docker`. `DOCKER_HOST` takes precedence over `DOCKER_CONTEXT`,
            which takes precedence over the context in `config.json`.
    """
    if environment.get("DOCKER_HOST"):
        return environment["DOCKER_HOST"]
    context = environment.get("DOCKER_CONTEXT") or _current_context(environment)
    return DockerOptions.host if context in ("", "default") else ""


def _current_context(environment: Mapping[str, str]) -> str:
    try:
        folder = Path(environment.get("DOCKER_CONFIG") or Path.home() / ".docker")
        found = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError, RuntimeError):  # Path.home raises RuntimeError if the user has no home directory
        return ""
    return str(found.get("currentContext") or "") if isinstance(found, dict) else ""
