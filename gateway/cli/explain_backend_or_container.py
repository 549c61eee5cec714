"""`gateway explain`: explains the state of a backend, or which backends a container can reach."""

import json
from typing import Any

import click

from gateway.cli.backend_state_explanation import explanation, explanation_json
from gateway.cli.completion import complete_backends
from gateway.cli.diagnosis_output import headline, print_cause
from gateway.cli.output_option import output_option
from gateway.cli.service_connection_options import service_options
from gateway.cli.terminal_output import print_table, print_wrapped, terminal_width
from gateway.cli.value_format import format_age, format_clock
from gateway.config.suggestions import backend_hint
from gateway.errors import UsageError
from gateway.ops.ops_api_client import OpsApiClient, quote_name
from gateway.ops.state_descriptions import state_name


@click.command()
@click.argument("name", shell_complete=complete_backends)
@service_options
@output_option("table", "json")
def explain(name: str, client: OpsApiClient, output: str) -> None:
    """Explain the state of a backend or a container.

    For a backend, shows the state of its listeners, tunnels and targets, the duration of each phase of the last
    checks, the root cause of a failure, and what to do.

    For a container, shows its labels, networks and names, which backends it can reach, and what to change. NAME is
    the container's name or the beginning of its ID. If a backend has the same name, the command explains the backend.
    """
    _, status = client.get_json("/api/v1/status")
    if name not in status["backends"]:
        _explain_container(client, name, status, output)
        return
    if output == "json":
        click.echo(json.dumps(explanation_json(status, name), indent=1))
    else:
        _print(status, name)


def _print(status: dict[str, Any], name: str) -> None:
    backend, explained = status["backends"][name], explanation(status, name)
    print_wrapped(headline(status))
    began, age = format_clock(backend["since"]), format_age(backend["since"])
    print_wrapped(f"{name} ({backend['kind']}) is {backend['state']} since {began} ({age})")
    click.echo()
    rows = [[each.part, each.name, state_name(each.state), format_clock(each.since)] for each in explained.rows]
    notes = [each.why for each in explained.rows]
    print_table(["PART", "NAME", "STATE", "SINCE"], rows, notes, terminal_width())
    click.echo()
    for each in explained.root_causes:
        print_cause(each, "root cause: ")
    for each in explained.warnings:
        print_cause(each, "warning: ")
    if not any(each["remedy"] for each in (*explained.root_causes, *explained.warnings)):
        click.echo("nothing to do")


def _explain_container(client: OpsApiClient, name: str, status: dict[str, Any], output: str) -> None:
    code, container = client.get(f"/api/v1/containers/{quote_name(name)}")
    if code == 409:
        raise UsageError(container["detail"])
    if code != 200 or not isinstance(container, dict) or "remedies" not in container:
        also = "" if status.get("docker") is None else f" and no container {name!r}"
        raise UsageError(f"there is no backend {name!r}{also}{backend_hint(status['backends'])}")
    if output == "json":
        click.echo(json.dumps(container, indent=1))
        return
    if container["trouble"]:
        print_wrapped(f"docker: {container['trouble']} (last snapshot: {container['looked_at']})", fg="red")
    facts, backends, width = container["facts"], container["backends"], terminal_width()
    rows = [[each["part"], each["name"], each["state"]] for each in facts]
    print_table(["PART", "NAME", "STATE"], rows, [each["why"] for each in facts], width)
    click.echo()
    rows = [[each["backend"], each["reached"], each["network"] or "-"] for each in backends]
    print_table(["BACKEND", "REACHED", "NETWORK"], rows, [each["why"] for each in backends], width)
    click.echo()
    for remedy in container["remedies"]:
        print_wrapped(f"to do: {remedy}")
    if not container["remedies"]:
        click.echo("nothing to do")
