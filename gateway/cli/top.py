"""`gateway top`: shows the current traffic, from the counters of a running service."""

import time
from typing import Any

import click

from gateway.cli.diagnosis_output import headline, print_diagnosis, print_notices
from gateway.cli.duration_type import DurationType
from gateway.cli.service_connection_options import service_options
from gateway.cli.severity_order import backend_rank
from gateway.cli.terminal_output import print_table, print_wrapped, terminal_width
from gateway.cli.watch_option import watching
from gateway.errors import GatewayError
from gateway.ops.ops_api_client import OpsApiClient

_UNITS = ("B", "KiB", "MiB", "GiB")
_HEADS = ["BACKEND", "STATE", "CONSUMER", "CLIENTS", "WAIT", "NEW/S", "SENT/S", "RECEIVED/S"]


@click.command()
@service_options
@click.option(
    "--interval",
    type=DurationType(),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two tables.",
)
@click.option("--count", type=click.IntRange(min=1), metavar="COUNT", help="Exit after this number of tables.")
def top(client: OpsApiClient, interval: float, count: int | None) -> None:
    """Show the current traffic of backends and containers.

    The first lines show the failed tunnels and backends. The table is sorted by state, worst first, and then by
    traffic. Containers appear only if the configuration has a `docker` section.
    """
    calculator = _RateCalculator(client)
    calculator.read()

    def show() -> None:
        status, rows = calculator.rates()
        print_wrapped(headline(status))
        print_diagnosis(status, details=False)
        print_notices(status)
        click.echo()
        print_table(_HEADS, rows, width=terminal_width())

    watching(show, interval, count)


class _RateCalculator:
    """Computes the traffic per second from the counters in two consecutive responses of the service.

    The first rates after a failed request are zero, because there are no earlier counters to compare with.
    """

    def __init__(self, client: OpsApiClient) -> None:
        self._client = client
        self._before: dict[tuple[str, str], dict[str, float]] = {}
        self._read_at = 0.0

    def read(self) -> dict[str, Any]:
        """Request and store the counters of all backends and containers. Return the body of `/api/v1/status`."""
        self._before, status = _counters(self._client)
        self._read_at = time.monotonic()
        return status

    def rates(self) -> tuple[dict[str, Any], list[list[str]]]:
        """Request the counters again, and compute the rates since the previous request.

        Returns:
            The body of `/api/v1/status`, and the table rows with the rates.
        """
        before, then = self._before, self._read_at
        try:
            status = self.read()
        except GatewayError:
            self._before = {}
            raise
        seconds = max(self._read_at - then, 1e-3)
        rows = []
        for (backend, consumer), each in self._before.items():
            state = status["backends"][backend]["state"] if backend in status["backends"] else "-"
            rate, cells = _row(each, before.get((backend, consumer), each), seconds)
            rows.append((backend_rank(state), -rate, backend, [backend, state, consumer or "-", *cells]))
        rows.sort(key=lambda row: row[:3])
        return status, [row[3] for row in rows]


def _counters(client: OpsApiClient) -> tuple[dict[tuple[str, str], dict[str, float]], dict[str, Any]]:
    """Request the counters of each backend and container. Return the counters, and the body of `/api/v1/status`.

    The key of each set of counters is a pair: the name of a backend, and the name of a container. For the totals of
    a backend, the container name is empty.
    """
    found: dict[tuple[str, str], dict[str, float]] = {}
    _, status = client.get_json("/api/v1/status")
    for name, backend in status["backends"].items():
        found[name, ""] = backend["connections"]
    _, body = client.get_json("/api/v1/consumers")
    for consumer, each in body["consumers"].items():
        for backend, use in each["backends"].items():
            found[backend, consumer] = use
    return found, status


def _row(after: dict[str, Any], before: dict[str, Any], seconds: float) -> tuple[float, list[str]]:
    """Return the total rate of a row, for sorting, and the cells of the row, starting with the column CLIENTS.

    The total rate is the sum of new clients, sent bytes and received bytes per second.

    Args:
        after: The counters from the second of two requests.
        before: The counters from the first request.
        seconds: Seconds between the two requests.
    """

    def rate(name: str) -> float:
        return max(0.0, float(after[name] - before[name]) / seconds)

    sent, received = rate("bytes_to_backend"), rate("bytes_from_backend")
    cells = [
        str(after["active"] - after["waiting"]),
        str(after["waiting"]),
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
