"""`top`: who moves how much right now, from the counters of a running service."""

import time
from typing import Any

import click

from gateway.cli.client_options import url_option
from gateway.cli.output import print_table
from gateway.ops.client import Client

_UNITS = ("B", "KiB", "MiB", "GiB")


@click.command()
@url_option
@click.option("--interval", type=click.FloatRange(min=0.1), default=2.0, show_default=True, help="Seconds.")
@click.option("--count", type=click.IntRange(min=1), help="Print so often, then end.")
def top(client: Client, interval: float, count: int | None) -> None:
    """Show the busiest backends, and where Docker is configured their consumers, again and again."""
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
    """By backend and consumer; the backend itself without one."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    _, site = client.get_json("/api/v1/status")
    for name, backend in site["backends"].items():
        found[name, ""] = backend["connections"]
    _, told = client.get_json("/api/v1/consumers")
    for consumer, each in told["consumers"].items():
        for backend, use in each["backends"].items():
            found[backend, consumer] = use
    return found


def _row(
    key: tuple[str, str], after: dict[str, Any], before: dict[str, Any], seconds: float
) -> tuple[float, list[str]]:
    def rate(name: str) -> float:
        return max(0.0, float(after[name] - before[name]) / seconds)

    sent, received = rate("bytes_to_backend"), rate("bytes_from_backend")
    cells = [key[0], key[1] or "-", str(after["active"]), f"{rate('total'):.1f}", _size(sent), _size(received)]
    return sent + received + rate("total"), cells


def _size(count: float) -> str:
    unit = 0
    while count >= 1024 and unit < len(_UNITS) - 1:
        count /= 1024
        unit += 1
    return f"{count:.1f}{_UNITS[unit]}"
