"""`gateway validate` checks the configuration. `gateway check` connects to the backends, and checks each one once."""

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.completion import complete_backends
from gateway.cli.config_selection_options import config_options, config_sources
from gateway.cli.exit_without_joining_threads import exit_immediately
from gateway.cli.output_option import output_option
from gateway.cli.terminal_output import print_table, print_text
from gateway.cli.value_format import format_reason
from gateway.errors import ConfigError, GatewayError

if TYPE_CHECKING:
    from gateway.app.one_shot_commands import TargetCheckResult

_NAGIOS = {"up": 0, "degraded": 1, "down": 2, "blocked": 2}
_NAGIOS_WORDS = ("OK", "WARNING", "CRITICAL", "UNKNOWN")
_NAGIOS_UNKNOWN = 3
_NAGIOS_ORDER = (0, 3, 1, 2)
"""The exit codes, from the best to the worst state. As in other plugins, WARNING and CRITICAL hide UNKNOWN."""


@click.command()
@config_options
def validate(file: Path | None, tunnels: tuple[str, ...], backends: tuple[str, ...], **settings: str | None) -> None:
    """Check a configuration and the files that it names.

    If there are errors, prints the errors with their positions in the configuration. Otherwise, prints the warnings,
    and the number of tunnels and backends.
    """
    from gateway.app import certificate_expiry  # noqa: PLC0415 - slow to import
    from gateway.app.ops_settings import file_problems  # noqa: PLC0415 - slow to import
    from gateway.app.trace_exporter import trace_problems  # noqa: PLC0415 - slow to import
    from gateway.config import load  # noqa: PLC0415 - slow to import
    from gateway.config.referenced_file_checks import check_files, exposed_fleet_token  # noqa: PLC0415 - slow to import
    from gateway.config.setting_warnings import setting_warnings  # noqa: PLC0415 - slow to import

    config = load(config_sources(file, tunnels, backends, settings))
    problems = file_problems(config) + trace_problems(config) + check_files(config)
    if problems:
        raise ConfigError(problems)
    for sentence in (
        *setting_warnings(config),
        *(f"{each.key}: {each.message}" for each in exposed_fleet_token(config)),
        *certificate_expiry.expiry_warnings(certificate_expiry.read_credentials(config), time.time()),
    ):
        _print_warning(sentence)
    counts = (("tunnel", len(config.tunnels)), ("backend", len(config.backends)))
    click.echo("valid: " + ", ".join(f"{count} {what}{'' if count == 1 else 's'}" for what, count in counts))


def _print_warning(warning: str) -> None:
    print_text(f"warning: {warning}", fg="yellow", err=True)


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_backends)
@config_options
@output_option("table", "json")
@click.option("--nagios", is_flag=True, help="Print one line, and exit with a code for Nagios.")
def check(
    names: tuple[str, ...],
    file: Path | None,
    tunnels: tuple[str, ...],
    backends: tuple[str, ...],
    output: str,
    nagios: bool,
    **settings: str | None,
) -> None:
    """Check backends once, without a running service.

    Checks all backends, or those with the given names. Exits with 1 if a target is down or blocked on at least one of
    its paths.
    """
    from gateway.app import one_shot_commands  # noqa: PLC0415 - slow to import
    from gateway.config import load  # noqa: PLC0415 - slow to import
    from gateway.config.deprecated_keys import deprecation_warnings  # noqa: PLC0415 - slow to import
    from gateway.ops import logging_setup  # noqa: PLC0415 - slow to import

    logging_setup.configure("error", "auto")
    try:
        config = load(config_sources(file, tunnels, backends, settings))
        for warning in () if nagios else deprecation_warnings(config):
            _print_warning(warning)
        checked = one_shot_commands.check(config, names)
    except GatewayError as error:
        if nagios:
            shown = error.problems[0] if isinstance(error, ConfigError) else error
            print_text(f"GATEWAY UNKNOWN - {shown}")
            sys.exit(_NAGIOS_UNKNOWN)
        raise
    if nagios:
        exit_immediately(_print_nagios(checked))
    if output == "json":
        click.echo(json.dumps([_as_json(each) for each in checked], indent=1))
    else:
        _print_table(checked)
    exit_immediately(1 if any(each.result.state in ("down", "blocked") for each in checked) else 0)


def _as_json(each: "TargetCheckResult") -> dict[str, object]:
    result = each.result
    return {
        "backend": each.backend,
        "target": str(each.target),
        "via": each.tunnel,
        "state": result.state,
        "reason": result.reason,
        "detail": result.detail,
        "duration_seconds": result.duration,
        "phases_seconds": result.phases,
    }


def _print_table(checked: "list[TargetCheckResult]") -> None:
    rows, notes = [], []
    for each in checked:
        result = each.result
        phases = "  ".join(f"{name} {seconds * 1e3:.1f}" for name, seconds in result.phases.items())
        notes.append(format_reason({"reason": result.reason, "detail": result.detail}))
        duration = f"{result.duration * 1e3:.1f}"
        rows.append([each.backend, str(each.target), each.tunnel or "-", str(result.state), duration, phases])
    print_table(["BACKEND", "TARGET", "VIA", "STATE", "MS", "PHASES (MS)"], rows, notes)


def _print_nagios(checked: "list[TargetCheckResult]") -> int:
    codes = [_NAGIOS.get(each.result.state, _NAGIOS_UNKNOWN) for each in checked]
    worst = max(codes, key=_NAGIOS_ORDER.index, default=_NAGIOS_UNKNOWN)
    paths = Counter((each.backend, each.target) for each in checked)

    def label(each: "TargetCheckResult") -> str:
        tunnel = f" via {each.tunnel}" if paths[each.backend, each.target] > 1 else ""
        return f"{each.backend} {each.target}{tunnel}"

    results = ", ".join(
        f"{label(each)} {each.result.state}"
        + (f" ({each.result.reason}: {each.result.detail})" if each.result.reason else "")
        for each in checked
    )
    data = " ".join(f"'{label(each)}'={each.result.duration:.6f}s" for each in checked)
    print_text(f"GATEWAY {_NAGIOS_WORDS[worst]} - {results.replace('|', '/')} | {data}")
    return worst
