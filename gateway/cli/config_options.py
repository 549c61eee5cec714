"""The options that say where a configuration comes from; the same for every command that reads one."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from gateway.config import Sources

_Command = TypeVar("_Command", bound=Callable[..., Any])

SETTINGS = {
    "instance": "Name of this gateway in logs and status.",
    "state-dir": "Where it keeps what must outlive it.",
    "workers": "Processes that carry the bulk backends' bytes.",
    "reload-on-change": "Reload when the configuration file changes: true or false.",
    "strict": "Refuse insecure settings, as gateway.strict does.",
    "ops-listen": "Address of the HTTP server for health and metrics.",
    "ops-probe-listen": "Address of a second HTTP server, for probes only.",
    "ops-admin-socket": "Unix socket for commands.",
    "ops-hosts": "Names under which it is asked, beside addresses and localhost; comma-separated.",
    "ops-token-file": "A file with the token that opens everything (probes need no token).",
    "ops-metrics-token-file": "A file with a token that opens /metrics only.",
    "ops-tls-cert-file": "Certificate of the HTTP server, in PEM.",
    "ops-tls-key-file": "Its private key.",
    "ops-tls-client-ca-file": "Authorities of client certificates that open everything.",
    "shutdown-delay": "Not ready, but still accepting, at a stop.",
    "shutdown-drain": "Time for open connections to end at a stop.",
    "log-level": "debug, info, warning or error.",
    "log-format": "text, json, or auto: text on a terminal.",
    "audit-log": "The audit log: a file, stdout or stderr.",
    "audit-queue": "Events that wait while the audit log's file takes none.",
}
"""Kept here rather than read from the model, which is slow to import; a test holds the two together."""
_SWITCHES = {"strict"}
"""Settings whose flag has no value: it turns them on."""


def source_options(command: _Command) -> _Command:
    """Add `-c`, `--tunnel`, `--backend` and a flag for each setting."""
    for name, text in reversed(SETTINGS.items()):
        how: dict[str, Any] = {"flag_value": "true"} if name in _SWITCHES else {"metavar": "VALUE"}
        command = click.option(f"--{name}", default=None, help=text, **how)(command)
    command = click.option(
        "--backend",
        "backends",
        multiple=True,
        metavar="NAME=URL",
        help="A backend, as in orders=mysql://db:3306?via=…",
    )(command)
    command = click.option(
        "--tunnel",
        "tunnels",
        multiple=True,
        metavar="NAME=URL",
        help="A tunnel, as in bastion=ssh://user@host?…",
    )(command)
    return click.option(
        "-c",
        "--config",
        "file",
        type=click.Path(path_type=Path, dir_okay=False),
        envvar="GATEWAY_CONFIG",
        help="The configuration file  [env: GATEWAY_CONFIG].",
    )(command)


def sources(
    file: Path | None, tunnels: tuple[str, ...], backends: tuple[str, ...], settings: dict[str, str | None]
) -> "Sources":
    """What the options of one call say."""
    from gateway.config import Sources  # noqa: PLC0415 - slow to import

    given = {name.replace("_", "-"): value for name, value in settings.items() if value is not None}
    return Sources(file=file, tunnels=tunnels, backends=backends, settings=given)
