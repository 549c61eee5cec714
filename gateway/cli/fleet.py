"""`gateway fleet`: shows the state of many gateways in one table."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from gateway.cli.duration_type import DurationType
from gateway.cli.output_option import output_option
from gateway.cli.service_connection_options import service_options
from gateway.cli.terminal_output import fits, print_table, print_wrapped, terminal_width
from gateway.cli.value_format import format_age, format_clock, format_ms
from gateway.cli.watch_option import watching
from gateway.errors import ServiceUnreachableError, UsageError
from gateway.ops.ops_api_client import OpsApiClient
from gateway.ops.state_descriptions import state_name

_WATCH_INTERVAL = 2.0
_HEADS = ["INSTANCE", "STATE", "TUNNELS", "BACKENDS", "CLIENTS", "AGE", "ADDRESS"]
_WIDE_HEADS = ["RESPONSE", "UP", "VERSION", "WARNINGS"]


@click.command()
@click.argument("members", nargs=-1, metavar="[MEMBER]...")
@click.option(
    "--file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File with one address per line, in addition to the arguments.",
)
@click.option(
    "--timeout",
    type=DurationType(),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Maximum time for the request to each gateway.",
)
@service_options
@output_option("table", "wide", "json")
@click.option("--watch", is_flag=True, help="Print again every two seconds.")
def fleet(
    members: tuple[str, ...], file: Path | None, timeout: float, client: OpsApiClient, output: str, watch: bool
) -> None:
    """Show many gateways in one table, worst first.

    A MEMBER is the address of a gateway's ops.listen, as HOST:PORT or https://HOST:PORT. dns+HOST:PORT stands for all
    addresses to which HOST resolves. Without members, the command shows the gateways in the section `fleet` of
    the running service.
    """
    fetch = _fetch_from_members(members, file, timeout, client) if members or file else _fetch_from_service(client)

    def show() -> None:
        found = fetch()
        if output == "json":
            click.echo(json.dumps(found, indent=1))
        else:
            _print(found, wide=output == "wide")
        if not watch and all(each["summary"] is None for each in found["members"]):
            raise ServiceUnreachableError("no gateway has responded: the output shows the reason for each one")

    if watch:
        watching(show, _WATCH_INTERVAL, immediately=True)
    else:
        show()


def _fetch_from_service(client: OpsApiClient) -> Callable[[], dict[str, Any]]:
    def fetch() -> dict[str, Any]:
        found = client.get_json("/api/v1/fleet")[1]
        if not found["members"] and not found["problems"]:
            raise UsageError(
                "the configuration of the service has no `fleet` section: add one, or name the gateways"
                " (gateway fleet HOST:PORT …)"
            )
        return found

    return fetch


def _fetch_from_members(
    members: tuple[str, ...], file: Path | None, timeout: float, client: OpsApiClient
) -> Callable[[], dict[str, Any]]:
    # Import these modules only if they are needed, because importing them is slow.
    import asyncio  # noqa: PLC0415

    from gateway.contracts.config_types import Duration  # noqa: PLC0415
    from gateway.fleet.fleet_state import FleetState  # noqa: PLC0415
    from gateway.fleet.member_addresses import parse_member  # noqa: PLC0415
    from gateway.fleet.member_discovery import MemberDiscovery  # noqa: PLC0415
    from gateway.fleet.options import FleetOptions  # noqa: PLC0415
    from gateway.fleet.poller import ask_once  # noqa: PLC0415
    from gateway.ops.fleet_json import fleet_json  # noqa: PLC0415
    from gateway.tls_client_context import TlsClientFiles  # noqa: PLC0415

    try:
        addresses = tuple(map(parse_member, members))
    except ValueError as error:
        raise UsageError(str(error)) from error
    options = FleetOptions(
        members=addresses,
        file=file,
        token_file=Path(client.token_file) if client.token_file else None,
        tls=TlsClientFiles(ca_file=Path(client.ca_file) if client.ca_file else None),
        timeout=Duration(timeout),
    )
    runner, discovery, view = asyncio.Runner(), MemberDiscovery(), FleetState()
    click.get_current_context().call_on_close(runner.close)

    def fetch() -> dict[str, Any]:
        nonlocal view
        view = runner.run(ask_once(options, discovery, view))
        return fleet_json(view, time.time())

    return fetch


def _print(found: dict[str, Any], *, wide: bool) -> None:
    for problem in found["problems"]:
        print_wrapped(f"warning: {problem}", fg="yellow")
    members = found["members"]
    if members:
        notes = [_note(each, wide=wide) for each in members]
        heads = _HEADS + (_WIDE_HEADS if wide else [])
        width = None if wide else terminal_width()
        rows = [_row(each, _counts, wide=wide) for each in members]
        if width is not None and not fits(heads, rows, width):
            rows = [_row(each, _short_counts, wide=wide) for each in members]
        print_table(heads, rows, notes, width)


def _row(member: dict[str, Any], counts: Callable[[dict[str, int] | None], str], *, wide: bool) -> list[str]:
    summary = member["summary"] or {}
    age = format_age(member["answered_at"]) if member["answered_at"] else "-"
    cells = [
        summary.get("instance") or "-",
        member["state"],
        counts(summary.get("tunnels")),
        counts(summary.get("backends")),
        str(summary.get("clients", "-")),
        age,
        member["name"],
    ]
    if wide:
        more = [_uptime(summary.get("started_at")), summary.get("version") or "-", str(summary.get("warnings", "-"))]
        cells += [format_ms(member["request_seconds"]), *more]
    return cells


def _note(member: dict[str, Any], *, wide: bool) -> str:
    """Return the reason why a gateway does not respond, or the problems that the gateway reports.

    If `wide` is true, return all problems, one per line. If it is false, return the first problem, and how many
    further problems there are.
    """
    summary = member["summary"] or {}
    reload = "the last reload failed" if summary.get("reload_successful") is False else ""
    problems = [
        ": ".join(filter(None, (_describe(each), each["reason"], each["detail"])))
        for each in summary.get("problems", ())
    ]
    shown = problems if wide else [*problems[:1], *([f"and {len(problems) - 1} more"] if len(problems) > 1 else [])]
    return ("\n" if wide else "; ").join(filter(None, (member["error"], reload, *shown)))


def _describe(problem: dict[str, Any]) -> str:
    """Describe a failed tunnel or backend of a gateway: its state, the time of the failure, and the consequences.

    The response of an older gateway contains only the state.
    """
    since = f" since {format_clock(problem['since'])}" if problem.get("since") else ""
    effects = f" ({problem['effects']})" if problem.get("effects") else ""
    return f"{problem['name']} is {state_name(problem['state'])}{since}{effects}"


def _uptime(started_at: str | None) -> str:
    """Return the time since the start of a gateway; `-` if its response contains no valid time."""
    try:
        return format_age(started_at) if started_at else "-"
    except (ValueError, TypeError, OverflowError):
        return "-"


def _counts(found: dict[str, int] | None) -> str:
    return ", ".join(f"{count} {state}" for state, count in (found or {}).items()) or "-"


def _short_counts(found: dict[str, int] | None) -> str:
    return f"{found.get('up', 0)}/{sum(found.values())} up" if found else "-"
