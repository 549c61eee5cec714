"""Prints the output of commands, without control characters from servers, and defines the option `--output`."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

from gateway.text import one_line, printable

_COLORS = {
    "up": "green", "ready": "green", "degraded": "yellow", "unknown": "yellow", "paused": "yellow",
    "starting": "yellow", "draining": "yellow", "down": "red", "blocked": "red", "quarantined": "red",
    "backoff": "red", "unreachable": "red", "waiting": "yellow", "connecting": "yellow", "authenticating": "yellow",
}  # fmt: skip
_MAX_CELL_LENGTH = 1000

_Command = TypeVar("_Command", bound=Callable[..., Any])


def output_option(*formats: str) -> Callable[[_Command], _Command]:
    """Add `--output`. The command gets the selected format; the default is the first one."""
    return click.option(
        "-o", "--output", type=click.Choice(formats), default=formats[0], show_default=True, help="Output format."
    )


def print_text(text: object, fg: str | None = None, *, err: bool = False) -> None:
    """Print text that can come from a server; remove control characters.

    Args:
        text: One or more lines.
        fg: A color for terminals; None for the default color.
        err: Whether to print to standard error.
    """
    click.secho(printable(str(text)), fg=fg, err=err)


def print_table(heads: list[str], rows: list[list[str]]) -> None:
    """Print a table, with states in color on a terminal.

    Args:
        heads: The title of each column.
        rows: The rows, each with one cell per column.
    """
    rows = [[one_line(cell, _MAX_CELL_LENGTH) for cell in row] for row in rows]
    widths = [max(len(row[at]) for row in [heads, *rows]) for at in range(len(heads))]
    click.echo("  ".join(head.ljust(width) for head, width in zip(heads, widths, strict=True)).rstrip())
    for row in rows:
        cells = [
            click.style(cell, fg=_COLORS.get(cell)) + " " * (width - len(cell))
            for cell, width in zip(row, widths, strict=True)
        ]
        click.echo("  ".join(cells).rstrip())


def format_reason(part: dict[str, Any]) -> str:
    """Return why a tunnel, backend or target in `/api/v1/status` has its state; empty if there is no reason."""
    return f"{part['reason']}: {part['detail']}" if part["reason"] else str(part["detail"])


def format_ms(seconds: float | None) -> str:
    """Return a duration in milliseconds; `-` for None."""
    return "-" if seconds is None else f"{seconds * 1e3:.1f}ms"


def format_age(time: str) -> str:
    """Return the time since an RFC 3339 timestamp, in the largest fitting unit."""
    seconds = int((datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{max(0, seconds)}s"
