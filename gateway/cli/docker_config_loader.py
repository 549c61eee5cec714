"""Loads the configuration for the commands that connect to a Docker engine."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.cli.config_selection_options import config_sources
from gateway.errors import UsageError

if TYPE_CHECKING:
    from gateway.config import Config


def load_docker_config(
    file: Path | None,
    tunnels: tuple[str, ...],
    backends: tuple[str, ...],
    settings: dict[str, str | None],
    *,
    record: bool,
    refuse: bool = True,
    serves: bool = True,
    needs_docker: bool = True,
) -> "Config":
    """Load the configuration for a command that uses a Docker engine.

    Args:
        file: The configuration file.
        tunnels: The tunnels on the command line, as `NAME=URL`.
        backends: The backends on the command line, as `NAME=URL`.
        settings: The values of the other flags; None for flags that are absent.
        record: Whether to save the gateway's name and newly assigned listener ports in `state_dir`.
        refuse: Whether to raise `ConfigError` if the gateway's name is the ID of its container. Such a name changes
            when the container is recreated.
        serves: Whether at least one backend is required.
        needs_docker: Whether the configuration must have a section `docker`. If the section is optional and absent,
            the command uses the engine at `DOCKER_HOST`. If this variable is not set, the command uses the engine of
            this host.

    Raises:
        UsageError: The section `docker` is required but absent, or the command does not support the scheme of
            `DOCKER_HOST`.
        ConfigError: The configuration is not valid.
    """
    from gateway.app.instance_name import with_instance  # noqa: PLC0415 - slow to import
    from gateway.app.volume_listener_ports import with_ports  # noqa: PLC0415 - slow to import
    from gateway.config import load  # noqa: PLC0415 - slow to import
    from gateway.ops import logging_setup  # noqa: PLC0415 - slow to import

    logging_setup.configure("error", "auto")
    config = load(config_sources(file, tunnels, backends, settings), serves=serves)
    if config.docker is None and not needs_docker:
        from gateway.docker.options import DockerOptions  # noqa: PLC0415 - slow to import

        host = os.environ.get("DOCKER_HOST") or DockerOptions.host
        if not host.startswith(("unix://", "tcp://")):
            raise UsageError(
                f"DOCKER_HOST is {host}, but this command supports only unix:// and tcp://: set docker.host in a"
                " configuration file (for ssh://, also configure a tunnel)"
            )
        config = replace(config, docker=DockerOptions(host=host))
    if config.docker is None:
        raise UsageError("the configuration has no `docker` section: add one (docker: {} for the local engine)")
    return with_ports(with_instance(config, record=record, refuse=refuse), record=record)
