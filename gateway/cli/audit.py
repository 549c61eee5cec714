"""`gateway audit`: finds settings of containers that put data or secrets at risk."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway import __version__
from gateway.cli.config_selection_options import config_options
from gateway.cli.docker_config_loader import load_docker_config
from gateway.cli.output_option import output_option
from gateway.cli.terminal_output import print_table, print_text, print_wrapped, terminal_width
from gateway.errors import GatewayError
from gateway.ops.plural import plural

if TYPE_CHECKING:
    from gateway.audit.report import AuditReport, Finding

_COLORS = {"high": "red", "medium": "yellow", "low": "cyan"}


@click.command()
@config_options
@click.option("--fail-on", type=click.Choice(list(_COLORS)), help="Exit with 1 if a hazard is at least this severe.")
@click.option(
    "--mount-table",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A copy of /proc/self/mountinfo from the host of the engine, if the engine runs on another host.",
)
@output_option("table", "json", "sarif")
def audit(
    file: Path | None,
    tunnels: tuple[str, ...],
    backends: tuple[str, ...],
    fail_on: str | None,
    mount_table: Path | None,
    output: str,
    **settings: str | None,
) -> None:
    """Find hazards to the data and secrets of containers.

    Shows where containers store data, how this data can be lost, and the commands that fix each hazard. Also warns
    about containers that can spoof the address of another container. Changes nothing.
    """
    from gateway.app import one_shot_commands  # noqa: PLC0415 - slow to import
    from gateway.audit.report import Severity  # noqa: PLC0415 - slow to import
    from gateway.audit.sarif import sarif  # noqa: PLC0415 - slow to import

    config = load_docker_config(
        file, tunnels, backends, settings, record=False, refuse=False, serves=False, needs_docker=False
    )
    report, exposures = one_shot_commands.audit(config, mount_table)
    if output == "table":
        _print(report, exposures)
    else:
        for line in exposures:
            print_text(f"warning: {line}", fg="yellow", err=True)
        document = _json(report, exposures) if output == "json" else sarif(report, __version__)
        click.echo(json.dumps(document, indent=1))
    if fail_on is not None:
        severe = [each for each in report.findings if each.severity.reaches(Severity(fail_on))]
        if severe:
            found = plural(len(severe), "hazard")
            raise GatewayError(f"found {found} of severity {fail_on} or higher (--fail-on)")


def _print(report: "AuditReport", exposures: list[str]) -> None:
    if report.places:
        rows = [[each.container, each.path, each.mode, each.kind] for each in report.places]
        notes = [f"{each.place}; lost by {each.lost_by}" for each in report.places]
        print_table(["CONTAINER", "PATH", "MODE", "KIND"], rows, notes, terminal_width())
    else:
        click.echo("no container stores data")
    for finding in report.findings:
        click.echo()
        _print_finding(finding)
    click.echo()
    for line in exposures:
        print_wrapped(f"warning: {line}", fg="yellow")
    for line in report.unchecked:
        print_wrapped(f"not checked: {line}")
    counts = [(sum(each.severity == severity for each in report.findings), severity) for severity in _COLORS]
    found = ", ".join(f"{count} {severity}" for count, severity in counts if count)
    click.echo(f"hazards: {found or 'none found'}")


def _print_finding(finding: "Finding") -> None:
    where = f"{finding.subject}:{finding.path}" if finding.path else finding.subject
    title = f"{finding.severity} {where}: {finding.rule.title} [{finding.rule.id}]"
    print_wrapped(title, fg=_COLORS[finding.severity])
    print_wrapped(f"what: {finding.what}")
    print_wrapped(f"why: {finding.rule.why}")
    # Do not indent the fix. It can contain a here-document, whose end marker must be at the start of a line.
    print_text(f"fix:\n{finding.fix}", keep_lines=True)


def _json(report: "AuditReport", exposures: list[str]) -> dict[str, object]:
    return {
        "findings": [
            {"rule": each.rule.id, "severity": each.severity, "subject": each.subject, "path": each.path,
             "title": each.rule.title, "what": each.what, "why": each.rule.why, "fix": each.fix}
            for each in report.findings
        ],
        "places": [vars(each) for each in report.places],
        "warnings": exposures,
        "unchecked": list(report.unchecked),
    }  # fmt: skip
