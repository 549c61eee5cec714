"""`gateway status`: shows the tunnels and backends of a running service, and the containers that use them."""

import json
from collections.abc import Iterator
from typing import Any

import click

from gateway.cli.diagnosis_output import causes_of, headline, print_diagnosis, print_notices
from gateway.cli.output_option import output_option
from gateway.cli.service_connection_options import service_options
from gateway.cli.severity_order import backends_by_severity, tunnels_by_severity
from gateway.cli.target_path_descriptions import describe_via, path_rows
from gateway.cli.terminal_output import print_table, print_text, print_wrapped, terminal_width
from gateway.cli.value_format import format_clock, format_ms, format_reason
from gateway.cli.watch_option import watching
from gateway.ops.ops_api_client import OpsApiClient
from gateway.ops.state_descriptions import state_name
from gateway.text_sanitizer import format_bytes

_WATCH_INTERVAL = 2.0
_HEADS = ["BACKEND", "STATE", "SINCE", "TARGET", "ROLE", "CHECK", "CLIENTS", "WAIT"]
_WIDE_HEADS = ["KIND", "LISTEN", "TOTAL", "SENT", "RECEIVED", "FACTS"]


@click.command()
@service_options
@output_option("table", "wide", "json")
@click.option("--watch", is_flag=True, help="Print again every two seconds.")
def status(client: OpsApiClient, output: str, watch: bool) -> None:
    """Show tunnels, backends and their checks, worst first.

    The first lines show each failed tunnel and backend with its cause, its consequences and the remedy, as on the
    status page.
    """

    def show() -> None:
        _, service = client.get_json("/api/v1/status")
        consumers = client.get_json("/api/v1/consumers")[1]["consumers"] if output == "wide" else {}
        if output == "json":
            click.echo(json.dumps(service, indent=1))
            return
        _print_status(service, wide=output == "wide")
        _print_docker(service["docker"], wide=output == "wide")
        _print_consumers(consumers)

    if watch:
        watching(show, _WATCH_INTERVAL, immediately=True)
    else:
        show()


def _print_status(service: dict[str, Any], *, wide: bool) -> None:
    print_wrapped(headline(service))
    print_diagnosis(service)
    print_notices(service)
    width = None if wide else terminal_width()
    if service["tunnels"]:
        click.echo()
        rows = [
            [name, state_name(each["state"]), format_clock(each["since"]), describe_via(each),
             format_ms(each["rtt_seconds"]),
             each["far_side"], *([each["kind"], ", ".join(each.get("facts", ())) or "-"] if wide else [])]
            for name, each in tunnels_by_severity(service)
        ]  # fmt: skip
        heads = ["TUNNEL", "STATE", "SINCE", "VIA", "RTT", "FAR SIDE", *(["KIND", "FACTS"] if wide else [])]
        print_table(heads, rows, [format_reason(each) for _, each in tunnels_by_severity(service)], width)
    click.echo()
    shown = [
        each
        for name, backend in backends_by_severity(service)
        for each in _backend_rows(name, backend, _failed_tunnels(service, name), wide=wide)
    ]
    rows, notes = [row for row, _ in shown], [note for _, note in shown]
    print_table(_HEADS + (_WIDE_HEADS if wide else []), rows, notes, width)
    failed = [name for name, each in service["tunnels"].items() if each["state"] not in ("up", "draining")]
    paths = [row for name, each in backends_by_severity(service) for row in path_rows(name, each, failed)]
    if paths:
        click.echo()
        print_table(["BACKEND", "PATH", "STATE"], [row[:3] for row in paths], [row[3] for row in paths], width)


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
        print_table(["UNAVAILABLE", "STATE", "WHY", "TO DO"], rows)
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


def _failed_tunnels(service: dict[str, Any], backend: str) -> str:
    """Describe the failed tunnels that affect a backend, such as `tunnel office is down`; empty if there are none."""
    causes = [each for each in causes_of(service, backend) if each["part"] == "tunnel"]
    return ", ".join(f"tunnel {each['name']} is {state_name(each['state'])}" for each in causes)


def _backend_rows(
    name: str, backend: dict[str, Any], failed_tunnels: str, *, wide: bool
) -> Iterator[tuple[list[str], str]]:
    """Yield one row for a backend and one for each of its targets, each with a note to print below it.

    A backend and its only target share one row if they have the same state.

    Args:
        name: The name of the backend.
        backend: The backend in `/api/v1/status`.
        failed_tunnels: The result of `_failed_tunnels`. If the backend's `reason` is `tunnel`, the backend's note
            shows this text instead of the reason, because the table of tunnels shows the details.
        wide: Whether to add the columns of the format `wide`.
    """
    targets = backend["targets"]
    only = targets[0] if len(targets) == 1 and targets[0]["state"] == backend["state"] else None
    hold = "" if backend["holds_clients"] else f"clients do not wait (gateway fail {name} --undo)"
    connections = backend["connections"]
    by_tunnel = failed_tunnels if backend["reason"] == "tunnel" else ""
    reason = by_tunnel or (_target_note(only) if only else format_reason(backend))
    yield (
        [
            name,
            backend["state"],
            format_clock(backend["since"]),
            *(_target_cells(only) if only else ["-", "-", "-"]),
            str(connections["active"] - connections["waiting"]),
            str(connections["waiting"]),
            *(_wide_cells(backend, only) if wide else []),
        ],
        "; ".join(filter(None, (reason, hold))),
    )
    if only:
        return
    padding = ["", "", *([""] * (len(_WIDE_HEADS) - 1) if wide else [])]
    for target in targets:
        facts = [_facts(target)] if wide else []
        cells = ["", target["state"], format_clock(target["since"]), *_target_cells(target), *padding, *facts]
        yield cells, "" if by_tunnel and target["reason"] == "tunnel" else _target_note(target)


def _target_cells(target: dict[str, Any]) -> list[str]:
    return [target["target"], target["role"] or "-", format_ms(target["last_duration_seconds"])]


def _wide_cells(backend: dict[str, Any], target: dict[str, Any] | None) -> list[str]:
    connections = backend["connections"]
    return [
        backend["kind"],
        ", ".join(backend["listen"]) or "-",
        str(connections["total"]),
        format_bytes(connections["bytes_to_backend"]),
        format_bytes(connections["bytes_from_backend"]),
        _facts(target) if target else "-",
    ]


def _facts(target: dict[str, Any]) -> str:
    return ", ".join(target.get("facts", ())) or "-"


def _target_note(target: dict[str, Any]) -> str:
    return "; ".join(filter(None, (format_reason(target), "flapping" if target["flapping"] else "")))
