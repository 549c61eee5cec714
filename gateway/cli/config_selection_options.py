"""Defines `--config` and the other options that select the configuration of a command."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from gateway.config import ConfigSources

_Command = TypeVar("_Command", bound=Callable[..., Any])

SETTINGS = {
    "instance": ("NAME", "Name of this gateway in logs and status."),
    "state-dir": ("DIR", "Folder for state that survives a restart."),
    "threads": ("COUNT", "Number of data plane threads, or auto."),
    "workers": ("COUNT", "Deprecated synonym of --threads."),
    "reload-on-change": ("BOOL", "Reload when the file changes: true or false."),
    "strict": (None, "Refuse insecure settings."),
    "ops-listen": ("ADDRESS", "HTTP server for health, metrics and status."),
    "ops-probe-listen": ("ADDRESS", "HTTP server for /livez, /startupz and /readyz only."),
    "ops-admin-socket": ("PATH", "Unix socket for commands."),
    "ops-hosts": ("NAMES", "Accepted Host headers, comma-separated."),
    "ops-token-file": ("FILE", "Token that grants access to everything."),
    "ops-metrics-token-file": ("FILE", "Token that grants access to /metrics only."),
    "ops-tls-cert-file": ("FILE", "Certificate of the HTTP server, in PEM."),
    "ops-tls-key-file": ("FILE", "Private key of the certificate."),
    "ops-tls-client-ca-file": ("FILE", "Authorities that sign client certificates."),
    "shutdown-delay": ("DURATION", "On shutdown: time until new clients are refused."),
    "shutdown-drain": ("DURATION", "On shutdown: maximum time to drain connections."),
    "log-level": ("LEVEL", "debug, info, warning or error."),
    "log-format": ("FORMAT", "text; json; or auto, which is text on a terminal, otherwise json."),
    "audit-log": ("FILE", "Audit log: a file, stdout or stderr."),
    "audit-queue": ("COUNT", "Maximum number of queued audit events."),
    "fleet-members": ("ADDRESSES", "Gateways to show on /fleet, comma-separated."),
    "fleet-file": ("FILE", "File with addresses of gateways for /fleet."),
    "fleet-token-file": ("FILE", "Token for requests to the gateways of the fleet."),
    "fleet-tls-ca-file": ("FILE", "Authorities that sign the gateways' certificates."),
    "fleet-tls-cert-file": ("FILE", "Client certificate for the gateways of the fleet."),
    "fleet-tls-key-file": ("FILE", "Private key of the client certificate."),
    "fleet-interval": ("DURATION", "Time between two requests to a gateway."),
    "fleet-timeout": ("DURATION", "Maximum time for one request to a gateway."),
    "traces-endpoint": ("URL", "OpenTelemetry collector for traces."),
    "traces-token-file": ("FILE", "Token that is sent to the collector."),
    "traces-tls-ca-file": ("FILE", "Authorities that sign the collector's certificate."),
    "traces-tls-cert-file": ("FILE", "Client certificate for the collector."),
    "traces-tls-key-file": ("FILE", "Private key of the client certificate."),
    "traces-sample-percent": ("NUMBER", "Percentage of connections that are traced."),
}
"""The metavar (the placeholder for the value) and the help text of each flag. The metavar is None if the flag has no
value.

This table repeats settings of the configuration model, because importing the model is slow. A test compares the table
with the model.
"""
_HIDDEN = ("workers", "fleet-", "traces-")
"""Prefixes of the flags that --help omits, because the list would be too long for a terminal. docs/reference.md lists
all flags."""


def config_options(command: _Command) -> _Command:
    """Add `-c`, `--tunnel`, `--backend` and the flags in `SETTINGS` to a command."""
    for name, (metavar, text) in reversed(SETTINGS.items()):
        form: dict[str, Any] = {"flag_value": "true"} if metavar is None else {"metavar": metavar}
        hidden = name.startswith(_HIDDEN)
        command = click.option(f"--{name}", default=None, help=text, hidden=hidden, **form)(command)
    command = click.option(
        "--backend",
        "backends",
        multiple=True,
        metavar="NAME=URL",
        help="A backend: orders=mysql://db:3306?via=…",
    )(command)
    command = click.option(
        "--tunnel",
        "tunnels",
        multiple=True,
        metavar="NAME=URL",
        help="A tunnel: bastion=ssh://user@host?…",
    )(command)
    return click.option(
        "-c",
        "--config",
        "file",
        type=click.Path(path_type=Path, readable=False),  # `load` reports an unreadable file
        metavar="FILE",
        envvar="GATEWAY_CONFIG",
        help="Configuration file. [env: GATEWAY_CONFIG]",
    )(command)


def config_sources(
    file: Path | None, tunnels: tuple[str, ...], backends: tuple[str, ...], settings: dict[str, str | None]
) -> "ConfigSources":
    """Return the file, URLs and flags from which a command loads its configuration.

    Args:
        file: The value of `-c`.
        tunnels: The values of `--tunnel`.
        backends: The values of `--backend`.
        settings: The values of the other flags; None for flags that are absent.
    """
    from gateway.config import ConfigSources  # noqa: PLC0415 - slow to import

    given = {name.replace("_", "-"): value for name, value in settings.items() if value is not None}
    return ConfigSources(file=file, tunnels=tunnels, backends=backends, settings=given)
