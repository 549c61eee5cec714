"""Chooses the name of this gateway if the configuration has no `gateway.instance`.

The gateway writes its name into the labels of the Docker objects that it creates, and recognizes the objects by this
name. Therefore, the name must stay the same when the gateway's container is recreated.
"""

import logging
import re
import socket
from dataclasses import replace
from pathlib import Path

from gateway.atomic_file import replace_file
from gateway.config import Config
from gateway.docker import own_container_id
from gateway.errors import ConfigError, ConfigProblem, GatewayError

log = logging.getLogger(__name__)

FILE = "instance"
_KEY = "gateway.instance"
_SHORT_ID = re.compile(r"[0-9a-f]{12}")
_CONTAINER_MARKERS = (Path("/.dockerenv"), Path("/run/.containerenv"))
"""Files that exist only in containers: Docker creates the first one, Podman the second one."""


def with_instance(config: Config, *, record: bool = True, refuse: bool = True) -> Config:
    """Return the configuration with an instance name that stays the same when the gateway's container is recreated.

    The name is the first of these that exists:

    1. `gateway.instance`
    2. the name that an earlier run recorded in `state_dir`
    3. the hostname

    Without a section `docker`, this function does not change the configuration, because the name then appears only in
    logs and in the status.

    Args:
        config: The configuration as it is in the file.
        record: Whether to write the hostname to `state_dir` if this function chooses the hostname as the name.
        refuse: Whether to raise `ConfigError` for a name that would change. False for commands that change nothing in
            Docker.

    Raises:
        ConfigError: The name is the ID of the container, which changes when the container is recreated.
        GatewayError: The file in `state_dir` cannot be read.
    """
    name = config.gateway.instance
    if config.docker is None or name != socket.gethostname():
        return config
    path = config.gateway.state_dir / FILE
    configured = _KEY in config.places
    recorded = None if configured else _read(path)
    if recorded is not None:
        return replace(config, gateway=replace(config.gateway, instance=recorded))
    if refuse and _is_container_id(name):
        message = (
            f"the hostname {name} is the ID of this container, and changes when the container is recreated: the"
            " gateway would no longer recognize the objects that it created in Docker. Set gateway.instance"
            " (GATEWAY_INSTANCE), or set a hostname for the container (hostname: in Compose, --hostname)"
        )
        raise ConfigError([ConfigProblem(config.places.get(_KEY, "configuration"), _KEY, message)])
    if record and not configured:
        _write(path, name)
    return config


def _is_container_id(name: str) -> bool:
    """Return whether `name` is the short ID of the container in which this process runs."""
    if not _SHORT_ID.fullmatch(name):
        return False
    found = own_container_id.mounted_id()
    return any(each.startswith(name) for each in found) or (
        not found and any(each.exists() for each in _CONTAINER_MARKERS)
    )


def _read(path: Path) -> str | None:
    try:
        text = path.read_text().strip()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise GatewayError(f"{path}: {error}: repair the file, or set {_KEY}") from error
    if not text or not text.isprintable():
        raise GatewayError(f"{path}: does not contain a name: remove the file, or set {_KEY}")
    return text


def _write(path: Path, name: str) -> None:
    try:
        replace_file(path, f"{name}\n")
    except OSError as error:
        # Do not raise an error: without the file, the next start uses the hostname, which usually stays the same.
        log.warning(
            "cannot record the name of this gateway", extra={"detail": f"{path}: {error.strerror}: set {_KEY}"}
        )
