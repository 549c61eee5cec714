"""`gateway top`: shows the current traffic, from the counters of a running service."""

import time
from typing import Any

import click

from gateway.cli.client_options import client_options
from gateway.cli.output import print_table
from gateway.ops.client import Client

_UNITS = ("B", "KiB", "MiB", "GiB")


@click.command()
@client_options
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two tables.",
)
@click.option("--count", type=click.IntRange(min=1), metavar="COUNT", help="Exit after this number of tables.")
def top(client: Client, interval: float, count: int | None) -> None:
    """Show the current traffic by backend and consumer.

    The busiest come first. Consumers are containers, and require Docker in the configuration.
    """
    before, then = _counters(client), time.monotonic()
    try:
        while count is None or count > 0:
            time.sleep(interval)
            after, now = _counters(client), time.monotonic()
            if count is None:
                click.clear()
            else:
                count -= 1
            rows = [_row(key, each, before.get(key, each), now - then) for key, each in after.items()]
            rows.sort(key=lambda row: row[0], reverse=True)
            heads = ["BACKEND", "CONSUMER", "CLIENTS", "NEW/S", "SENT/S", "RECEIVED/S"]
            print_table(heads, [row[1] for row in rows])
            before, then = after, now
    except KeyboardInterrupt:
        return


def _counters(client: Client) -> dict[tuple[str, str], dict[str, float]]:
    """Return the counters of each backend (with an empty consumer name) and of each of the backend's consumers."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    _, status = client.get_json("/api/v1/status")
    for name, backend in status["backends"].items():
        found[name, ""] = backend["connections"]
    _, body = client.get_json("/api/v1/consumers")
    for consumer, each in body["consumers"].items():
        for backend, use in each["backends"].items():
            found[backend, consumer] = use
    return found


def _row(
    key: tuple[str, str], after: dict[str, Any], before: dict[str, Any], seconds: float
) -> tuple[float, list[str]]:
    def rate(name: str) -> float:
        return max(0.0, float(after[name] - before[name]) / seconds)

    sent, received = rate("bytes_to_backend"), rate("bytes_from_backend")
    cells = [
        key[0],
        key[1] or "-",
        str(after["active"]),
        f"{rate('total'):.1f}",
        _format_rate(sent),
        _format_rate(received),
    ]
    return sent + received + rate("total"), cells


def _format_rate(count: float) -> str:
    unit = 0
    while count >= 1024 and unit < len(_UNITS) - 1:
        count /= 1024
        unit += 1
    return f"{count:.1f}{_UNITS[unit]}"
