"""`gateway explain`: explains the path to a backend, or which backends a container reaches."""

import json
from typing import Any
from urllib.parse import quote

import click

from gateway.cli.client_options import client_options
from gateway.cli.explanation import chain, chain_json, root_cause
from gateway.cli.output import format_age, output_option, print_table, print_text
from gateway.errors import UsageError
from gateway.ops.client import Client


@click.command()
@click.argument("name")
@client_options
@output_option("table", "json")
def explain(name: str, client: Client, output: str) -> None:
    """Explain the state of a backend or a container.

    For a backend: each part of the path from its listeners to its targets, and the root cause of a failure. For a
    container, by its name or the beginning of its ID: its labels, networks and names, which backends it reaches, and
    what to change. If a backend and a container have the same name, the command explains the backend.
    """
    _, status = client.get_json("/api/v1/status")
    if name not in status["backends"]:
        _explain_container(client, name, status, output)
        return
    backend, cause = status["backends"][name], root_cause(status, name)
    rows = chain(status, name)
    if output == "json":
        click.echo(json.dumps(chain_json(backend, name, rows, cause), indent=1))
        return
    print_text(f"{name} ({backend['kind']}) is {backend['state']} for {format_age(backend['since'])}")
    print_table(["PART", "NAME", "STATE", "WHY"], rows)
    if cause:
        print_text(f"root cause: {cause}")


def _explain_container(client: Client, name: str, status: dict[str, Any], output: str) -> None:
    code, container = client.get(f"/api/v1/containers/{quote(name, safe='')}")
    if code == 409:
        raise UsageError(container["detail"])
    if code != 200 or not isinstance(container, dict) or "remedies" not in container:
        also = "" if status.get("docker") is None else f" and no container {name!r}"
        known = ", ".join(status["backends"]) or "none"
        raise UsageError(f"there is no backend {name!r}{also} (known: {known})")
    if output == "json":
        click.echo(json.dumps(container, indent=1))
        return
    if container["trouble"]:
        print_text(f"docker: {container['trouble']} (last snapshot: {container['looked_at']})", fg="red")
    rows = [[each["part"], each["name"], each["state"], each["why"]] for each in container["facts"]]
    print_table(["PART", "NAME", "STATE", "WHY"], rows)
    click.echo()
    rows = [[each["backend"], each["reached"], each["network"] or "-", each["why"]] for each in container["backends"]]
    print_table(["BACKEND", "REACHED", "NETWORK", "WHY"], rows)
    click.echo()
    for remedy in container["remedies"]:
        print_text(f"to do: {remedy}")
    if not container["remedies"]:
        click.echo("nothing to do")
