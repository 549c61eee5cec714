"""`gateway run`: runs the service."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.config_selection_options import config_options, config_sources
from gateway.cli.exit_without_joining_threads import exit_immediately

if TYPE_CHECKING:
    from gateway.config import Config


@click.command()
@config_options
def run(file: Path | None, tunnels: tuple[str, ...], backends: tuple[str, ...], **settings: str | None) -> None:
    """Run the service.

    SIGTERM and SIGINT drain and stop the service; a second signal stops it immediately. SIGHUP reloads the
    configuration.
    """
    from gateway.app import service  # noqa: PLC0415 - slow to import
    from gateway.app.file_watcher import stat_files  # noqa: PLC0415 - slow to import
    from gateway.app.instance_name import with_instance  # noqa: PLC0415 - slow to import
    from gateway.app.volume_listener_ports import with_ports  # noqa: PLC0415 - slow to import
    from gateway.config import load  # noqa: PLC0415 - slow to import
    from gateway.ops import logging_setup  # noqa: PLC0415 - slow to import

    given = config_sources(file, tunnels, backends, settings)
    # Call stat(2) before reading the file. Otherwise, a write during the read would not be detected as a change.
    stamps = stat_files([given.file] if given.file else [])
    config = load(given)
    logging_setup.configure(config.log.level, config.log.format)

    def completed(read: "Config") -> "Config":
        return with_ports(with_instance(read))

    service.run(completed(config), lambda: completed(load(given)), file=given.file, stamps=stamps)
    exit_immediately(0)
