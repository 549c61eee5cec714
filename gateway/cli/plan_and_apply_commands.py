"""`gateway plan` and `gateway apply`: show or make the changes that the configuration requires in Docker."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.config_selection_options import config_options
from gateway.cli.docker_config_loader import load_docker_config
from gateway.cli.output_option import output_option
from gateway.cli.terminal_output import print_table, print_text, print_wrapped, terminal_width
from gateway.errors import GatewayError

if TYPE_CHECKING:
    from gateway.docker.plan import Plan


@click.command()
@config_options
@output_option("table", "json")
def plan(
    file: Path | None, tunnels: tuple[str, ...], backends: tuple[str, ...], output: str, **settings: str | None
) -> None:
    """Show what `gateway apply` would change in Docker.

    Also shows the state of each attachment and volume. Changes nothing.
    """
    from gateway.app import one_shot_commands  # noqa: PLC0415 - slow to import

    _print(one_shot_commands.plan(load_docker_config(file, tunnels, backends, settings, record=False)), output)


@click.command()
@config_options
@output_option("table", "json")
def apply(
    file: Path | None, tunnels: tuple[str, ...], backends: tuple[str, ...], output: str, **settings: str | None
) -> None:
    """Apply the configuration to Docker once.

    Exits with 1 if the Docker engine refuses a change.
    """
    from gateway.app import one_shot_commands  # noqa: PLC0415 - slow to import

    done, refused = one_shot_commands.apply(load_docker_config(file, tunnels, backends, settings, record=True))
    _print(done, output)
    for line in refused:
        print_text(line, fg="red", err=True)
    if refused:
        raise GatewayError(f"the Docker engine refused {len(refused)} of {len(done.actions) + len(refused)} changes")


def _print(made: "Plan", output: str) -> None:
    if output == "json":
        click.echo(json.dumps(_json(made), indent=1))
        return
    for warning in (*made.warnings, *made.exposures):
        print_wrapped(f"warning: {warning}", fg="yellow")
    width = terminal_width()
    if made.attachments:
        rows = [[each.network, each.container, each.state, each.reason or ""] for each in made.attachments]
        print_table(
            ["NETWORK", "CONTAINER", "STATE", "REASON"], rows, [each.message for each in made.attachments], width
        )
        click.echo()
    if made.volumes:
        rows = [[each.spec.name, each.state] for each in made.volumes]
        print_table(["VOLUME", "STATE"], rows, [each.message for each in made.volumes], width)
        click.echo()
    if made.unavailable:
        rows = [[each.container, each.state] for each in made.unavailable]
        notes = ["\n".join(filter(None, (each.detail, each.message))) for each in made.unavailable]
        print_table(["UNAVAILABLE", "STATE"], rows, notes, width)
        for command in filter(None, (each.command for each in made.unavailable)):
            print_text(f"to do: {command}")  # do not wrap the command, so that users can paste it
        click.echo()
    if made.actions:
        rows = [
            [each.verb, each.network or "-", each.container or "-", ", ".join(each.aliases) or "-"]
            for each in made.actions
        ]
        print_table(["CHANGE", "NETWORK", "CONTAINER", "ALIASES"], rows, [each.why for each in made.actions], width)
    else:
        click.echo("nothing to change")
    if made.postponed:
        click.echo(f"{made.postponed} further detachments are postponed (docker.max_detaches)")
    sys.stdout.flush()


def _json(made: "Plan") -> dict[str, object]:
    return {
        "actions": [
            {"action": each.verb, "network": each.network, "container": each.container, "aliases": list(each.aliases),
             "why": each.why}
            for each in made.actions
        ],
        "attachments": [
            {"network": each.network, "container": each.container, "state": each.state, "reason": each.reason,
             "message": each.message}
            for each in made.attachments
        ],
        "volumes": [
            {"name": each.spec.name, "state": each.state, "message": each.message,
             "options": each.spec.driver_options}
            for each in made.volumes
        ],
        "shadowed_names": [vars(each) for each in made.name_conflicts],
        "dead_containers": [
            {"container": each.container, "cause": each.cause, "detail": each.detail, "state": each.state,
             "message": each.message, "command": each.command}
            for each in made.unavailable
        ],
        "warnings": [*made.warnings, *made.exposures],
        "postponed": made.postponed,
    }  # fmt: skip
