"""The commands that talk to a running service."""

import json
import sys
import time
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import click

from gateway.cli import explain as explanation
from gateway.cli.reach import url_option
from gateway.cli.table import print_table, say
from gateway.errors import GatewayError, ServiceUnreachableError, UsageError
from gateway.ops.client import Client
from gateway.text import format_bytes

_POLL = 0.2


@click.command()
@url_option
@click.option("-o", "--output", type=click.Choice(["table", "json", "wide"]), default="table", help="How to print.")
@click.option("--watch", is_flag=True, help="Print again every two seconds.")
def status(client: Client, output: str, watch: bool) -> None:
    """Show tunnels, backends and their checks."""
    while True:
        _, site = client.get_json("/api/v1/status")
        consumers = client.get_json("/api/v1/consumers")[1]["consumers"] if output == "wide" else {}
        if watch:
            click.clear()
        if output == "json":
            click.echo(json.dumps(site, indent=1))
        else:
            _print_status(site, wide=output == "wide")
            _print_docker(site["docker"], wide=output == "wide")
            _print_consumers(consumers)
            sys.stdout.flush()
        if not watch:
            return
        try:
            time.sleep(2)
        except KeyboardInterrupt:
            return


@click.command()
@click.argument("name")
@url_option
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", help="How to print.")
def explain(name: str, client: Client, output: str) -> None:
    """Show why backend NAME is as it is, or why container NAME reaches a backend or does not.

    For a backend: the chain from its listener to its targets, and the root cause of what is wrong. For a container,
    by its name or the beginning of its ID: its labels, networks and names, what it reaches, and what to do. A backend
    goes before a container of the same name.
    """
    _, site = client.get_json("/api/v1/status")
    if name not in site["backends"]:
        _explain_container(client, name, site, output)
        return
    backend, cause = site["backends"][name], explanation.root_cause(site, name)
    rows = explanation.chain(site, name)
    if output == "json":
        click.echo(json.dumps(explanation.chain_json(backend, name, rows, cause), indent=1))
        return
    say(f"{name} ({backend['kind']}) is {backend['state']} for {_ago(backend['since'])}")
    print_table(["PART", "NAME", "STATE", "WHY"], rows)
    if cause:
        say(f"root cause: {cause}")


def _explain_container(client: Client, name: str, site: dict[str, Any], output: str) -> None:
    code, told = client.get(f"/api/v1/containers/{quote(name, safe='')}")
    if code == 409:
        raise UsageError(told["detail"])
    if code != 200 or not isinstance(told, dict) or "remedies" not in told:
        container = "" if site.get("docker") is None else f" and no container {name!r}"
        raise UsageError(f"there is no backend {name!r}{container} (known: {', '.join(site['backends']) or 'none'})")
    if output == "json":
        click.echo(json.dumps(told, indent=1))
        return
    if told["trouble"]:
        say(f"docker: {told['trouble']} (as it was at {told['looked_at']})", fg="red")
    print_table(["PART", "NAME", "STATE", "WHY"], explanation.facts(told))
    click.echo()
    print_table(["BACKEND", "REACHED", "NETWORK", "WHY"], explanation.backends(told))
    click.echo()
    for line in told["remedies"]:
        say(f"to do: {line}")
    if not told["remedies"]:
        click.echo("nothing to do")


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@url_option
@click.option("--max", "longest", default="30s", show_default=True, metavar="DURATION", help="How long to wait.")
def wait(names: tuple[str, ...], client: Client, longest: str) -> None:
    """Wait until the service is ready, and the backends NAME are up."""
    from gateway.config.values import duration  # noqa: PLC0415 - slow to import

    try:
        deadline = time.monotonic() + duration(longest)
    except ValueError as error:
        raise UsageError(f"--max: {error}") from error
    query = "?require=" + quote(",".join(names)) if names else ""
    while True:
        trouble: GatewayError
        try:
            code, body = client.get_json("/readyz" + query)
        except ServiceUnreachableError as error:
            trouble = error
        else:
            if code == 200:
                return
            unknown = body.get("unknown")
            if unknown:
                raise UsageError(
                    f"there is no backend {unknown[0]!r} (known: {', '.join(body['backends']) or 'none'})"
                )
            trouble = GatewayError(f"not ready within {longest}: {_lacking(body, names)}")
        if time.monotonic() >= deadline:
            raise trouble
        time.sleep(_POLL)


@click.command()
@url_option
@click.option(
    "--started", is_flag=True, help="And has started: checked each backend once, and is on its Docker networks."
)
def healthcheck(client: Client, started: bool) -> None:
    """Exit with 0 when the service is alive: for images without a shell."""
    code, body = client.get("/livez")
    if code != 200 or body != "alive\n":
        raise ServiceUnreachableError(f"what answers is not a gateway: /livez says {code} {str(body)[:60]!r}")
    if started:
        code, body = client.get("/startupz")
        if code != 200:
            raise GatewayError(f"it has not started yet: /startupz says {code} {str(body)[:60].strip()!r}")


def _lacking(body: dict[str, Any], names: tuple[str, ...]) -> str:
    lacking = [
        f"{name} is {backend['status']}" + (f" ({backend['reason']})" if backend["reason"] else "")
        for name, backend in body["backends"].items()
        if (not names or name in names) and backend["status"] not in ("up", "degraded")
    ]
    return "it is draining" if body["draining"] else ", ".join(lacking) or str(body["status"])


def _print_status(site: dict[str, Any], *, wide: bool) -> None:
    say(f"{site['instance']}: {site['status']}, version {site['version']}, up {_ago(site['started_at'])}")
    for warning in site["warnings"]:
        say(f"warning: {warning}", fg="yellow")
    if not site["reload"]["successful"]:
        say(f"the last reload failed: {site['reload']['error']}", fg="red")
    if site["tunnels"]:
        click.echo()
        rows = [
            [name, each["kind"], each["via"] or "-", each["far_side"], each["state"], _ago(each["since"]),
             _ms(each["rtt_seconds"]), *([", ".join(each.get("facts", ())) or "-"] if wide else []), _why(each)]
            for name, each in site["tunnels"].items()
        ]  # fmt: skip
        facts = ["FACTS"] if wide else []
        print_table(["TUNNEL", "KIND", "VIA", "FAR SIDE", "STATE", "FOR", "RTT", *facts, "WHY"], rows)
    click.echo()
    heads = ["BACKEND", "KIND", "LISTEN", "TARGET", "STATE", "FOR", "ROLE", "CHECK", "CLIENTS", "WHY"]
    if wide:
        heads[-1:] = ["TOTAL", "SENT", "RECEIVED", "FACTS", "WHY"]
    print_table(
        heads,
        [row for name, each in site["backends"].items() for row in _backend_rows(name, each, wide=wide)],
    )


def _print_docker(docker: dict[str, Any] | None, *, wide: bool) -> None:
    if docker is None:
        return
    click.echo()
    for warning in docker["warnings"]:
        say(f"warning: {warning}", fg="yellow")
    if docker["trouble"]:
        say(f"docker: {docker['trouble']}", fg="red")
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
         format_bytes(use["bytes_from_backend"]), _ms(use["mean_latency_seconds"]),
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
    for at, target in enumerate(backend["targets"]):
        first = at == 0
        row = [
            name if first else "",
            backend["kind"] if first else "",
            (", ".join(backend["listen"]) or "-") if first else "",
            target["target"],
            target["state"],
            _ago(target["since"]),
            target["role"] or "-",
            _ms(target["last_duration_seconds"]),
            str(connections["active"]) if first else "",
        ]
        if wide:
            row += [
                str(connections["total"]) if first else "",
                format_bytes(connections["bytes_to_backend"]) if first else "",
                format_bytes(connections["bytes_from_backend"]) if first else "",
                ", ".join(target.get("facts", ())) or "-",
            ]
        why = _why(target) + (" (flapping)" if target["flapping"] else "")
        failing = (
            f"clients are not held (gateway fail {name} --undo)" if not backend["holds_clients"] and first else ""
        )
        rows.append([*row, "; ".join(filter(None, (why, failing)))])
    return rows


def _why(part: dict[str, Any]) -> str:
    return f"{part['reason']}: {part['detail']}" if part["reason"] else str(part["detail"])


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.1f}ms"


def _ago(iso: str) -> str:
    seconds = int((datetime.now(UTC) - datetime.fromisoformat(iso)).total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{max(0, seconds)}s"
