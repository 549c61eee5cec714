"""`gateway status`: shows tunnels, backends, attachments and consumers of a running service."""

import json
import sys
import time
from typing import Any

import click

from gateway.cli.client_options import client_options
from gateway.cli.explanation import outer_tunnels, way_rows
from gateway.cli.output import format_age, format_ms, format_reason, output_option, print_table, print_text
from gateway.ops.client import Client
from gateway.text import format_bytes

_WATCH_INTERVAL = 2.0


@click.command()
@client_options
@output_option("table", "wide", "json")
@click.option("--watch", is_flag=True, help="Print again every two seconds.")
def status(client: Client, output: str, watch: bool) -> None:
    """Show tunnels, backends and their checks."""
    while True:
        _, service = client.get_json("/api/v1/status")
        consumers = client.get_json("/api/v1/consumers")[1]["consumers"] if output == "wide" else {}
        if watch:
            click.clear()
        if output == "json":
            click.echo(json.dumps(service, indent=1))
        else:
            _print_status(service, wide=output == "wide")
            _print_docker(service["docker"], wide=output == "wide")
            _print_consumers(consumers)
            sys.stdout.flush()
        if not watch:
            return
        try:
            time.sleep(_WATCH_INTERVAL)
        except KeyboardInterrupt:
            return


def _print_status(service: dict[str, Any], *, wide: bool) -> None:
    age = format_age(service["started_at"])
    print_text(f"{service['instance']}: {service['status']}, version {service['version']}, up {age}")
    for warning in service["warnings"]:
        print_text(f"warning: {warning}", fg="yellow")
    if not service["reload"]["successful"]:
        print_text(f"the last reload failed: {service['reload']['error']}", fg="red")
    if service["tunnels"]:
        click.echo()
        rows = [
            [name, each["kind"], ", ".join(outer_tunnels(each)) or "-", each["far_side"], each["state"],
             format_age(each["since"]), format_ms(each["rtt_seconds"]),
             *([", ".join(each.get("facts", ())) or "-"] if wide else []), format_reason(each)]
            for name, each in service["tunnels"].items()
        ]  # fmt: skip
        facts = ["FACTS"] if wide else []
        print_table(["TUNNEL", "KIND", "VIA", "FAR SIDE", "STATE", "FOR", "RTT", *facts, "WHY"], rows)
    click.echo()
    heads = ["BACKEND", "KIND", "LISTEN", "TARGET", "STATE", "FOR", "ROLE", "CHECK", "CLIENTS", "WHY"]
    if wide:
        heads[-1:] = ["TOTAL", "SENT", "RECEIVED", "FACTS", "WHY"]
    print_table(
        heads,
        [row for name, each in service["backends"].items() for row in _backend_rows(name, each, wide=wide)],
    )
    ways = [row for name, each in service["backends"].items() for row in way_rows(name, each)]
    if ways:
        click.echo()
        print_table(["BACKEND", "WAY", "STATE", "WHY"], ways)


def _print_docker(docker: dict[str, Any] | None, *, wide: bool) -> None:
    if docker is None:
        return
    click.echo()
    for warning in docker["warnings"]:
        print_text(f"warning: {warning}", fg="yellow")
    if docker["trouble"]:
        print_text(f"docker: {docker['trouble']}", fg="red")
    rows = [
        [each["network"], each["container"], each["state"],
         ": ".join(filter(None, (each["reason"], each["message"])))]
        for each in docker["attachments"]
        if wide or each["state"] != "attached"
    ]  # fmt: skip
    if rows:
        print_table(["NETWORK", "CONTAINER", "ATTACHMENT", "WHY"], rows)
    rows = [
        [each["container"], each["state"], each["detail"],
         ": ".join(filter(None, (each["message"], each["command"]))) or "-"]
        for each in docker.get("dead_containers", ())
    ]  # fmt: skip
    if rows:
        click.echo()
        print_table(["NOT RUNNING", "STATE", "WHY", "TO DO"], rows)
    rows = [[each["name"], each["state"], each["message"]] for each in docker["volumes"]]
    if rows and (wide or any(row[1] != "kept" for row in rows)):
        click.echo()
        print_table(["VOLUME", "STATE", "WHY"], rows)


def _print_consumers(consumers: dict[str, Any]) -> None:
    rows = [
        [name, backend, str(use["active"]), str(use["total"]), format_bytes(use["bytes_to_backend"]),
         format_bytes(use["bytes_from_backend"]), format_ms(use["mean_latency_seconds"]),
         ", ".join(f"{reason} {count}" for reason, count in use["rejected"].items()) or "-"]
        for name, consumer in consumers.items()
        for backend, use in consumer["backends"].items()
    ]  # fmt: skip
    if rows:
        click.echo()
        print_table(["CONSUMER", "BACKEND", "CLIENTS", "TOTAL", "SENT", "RECEIVED", "LATENCY", "REFUSED"], rows)


def _backend_rows(name: str, backend: dict[str, Any], *, wide: bool) -> list[list[str]]:
    rows = []
    connections = backend["connections"]
    for index, target in enumerate(backend["targets"]):
        first = index == 0
        row = [
            name if first else "",
            backend["kind"] if first else "",
            (", ".join(backend["listen"]) or "-") if first else "",
            target["target"],
            target["state"],
            format_age(target["since"]),
            target["role"] or "-",
            format_ms(target["last_duration_seconds"]),
            str(connections["active"]) if first else "",
        ]
        if wide:
            row += [
                str(connections["total"]) if first else "",
                format_bytes(connections["bytes_to_backend"]) if first else "",
                format_bytes(connections["bytes_from_backend"]) if first else "",
                ", ".join(target.get("facts", ())) or "-",
            ]
        why = format_reason(target) + (" (flapping)" if target["flapping"] else "")
        failing = (
            f"clients are not held (gateway fail {name} --undo)" if not backend["holds_clients"] and first else ""
        )
        rows.append([*row, "; ".join(filter(None, (why, failing)))])
    return rows
