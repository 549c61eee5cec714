"""The gateway's name where none is configured: one that survives the container, for Docker goes by it."""

import logging
import re
import socket
from dataclasses import replace
from pathlib import Path

from gateway.config import Config
from gateway.docker import own_id
from gateway.errors import ConfigError, GatewayError, Problem

log = logging.getLogger(__name__)

FILE = "instance"
_KEY = "gateway.instance"
_SHORT_ID = re.compile(r"[0-9a-f]{12}")
_IN_CONTAINER = (Path("/.dockerenv"), Path("/run/.containerenv"))
"""Files that Docker and Podman put into a container."""


def with_instance(config: Config, *, record: bool = True, refuse: bool = True) -> Config:
    """Give the configuration a name that stays the same when the gateway's container is recreated.

    Without a section `docker`, the name is in logs and the status only, and is left as it is. With it, networks and
    attachments belong to the name: it is the configured one, else the one in `state_dir`, else the hostname.

    Args:
        config: As it was read.
        record: Whether to write a hostname that is used to `state_dir`, so that it stays.
        refuse: Whether a name that changes is an error: nothing is made or changed by what only looks.

    Raises:
        ConfigError: The hostname is the container's ID, which is another one after each recreation.
        GatewayError: The file in `state_dir` cannot be read.
    """
    name = config.gateway.instance
    if config.docker is None or name != socket.gethostname():
        return config
    path = config.gateway.state_dir / FILE
    configured = _KEY in config.places
    kept = None if configured else _read(path)
    if kept is not None:
        return replace(config, gateway=replace(config.gateway, instance=kept))
    if refuse and _is_container_id(name):
        message = (
            f"the hostname {name} is this container's ID, which changes when it is recreated: the gateway would not"
            " know what it has made before. Set gateway.instance (GATEWAY_INSTANCE), or start the container with a"
            " hostname (hostname: in Compose, --hostname)"
        )
        raise ConfigError([Problem(config.places.get(_KEY, "configuration"), _KEY, message)])
    if record and not configured:
        _write(path, name)
    return config


def _is_container_id(name: str) -> bool:
    """Whether this is what an engine calls our container."""
    if not _SHORT_ID.fullmatch(name):
        return False
    found = own_id.mounted_id()
    return any(each.startswith(name) for each in found) or (
        not found and any(each.exists() for each in _IN_CONTAINER)
    )


def _read(path: Path) -> str | None:
    try:
        text = path.read_text().strip()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise GatewayError(f"{path}: {error}: repair it, or set {_KEY}") from error
    if not text or not text.isprintable():
        raise GatewayError(f"{path}: it does not hold a name: remove it, or set {_KEY}")
    return text


def _write(path: Path, name: str) -> None:
    beside = path.with_suffix(".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(f"{name}\n")
        beside.replace(path)
    except OSError as error:
        # The hostname is as good until somebody changes it.
        log.warning("the gateway's name cannot be kept", extra={"detail": f"{path}: {error.strerror}: set {_KEY}"})
