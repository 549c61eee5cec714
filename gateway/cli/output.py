"""Prints text and tables on the terminal, formats values for them, and defines the option `--output`."""

import shutil
import textwrap
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

from gateway.text_sanitizer import one_line, printable

_COLORS = {
    "up": "green", "ready": "green", "degraded": "yellow", "unknown": "yellow", "paused": "yellow",
    "starting": "yellow", "draining": "yellow", "down": "red", "down (quarantined)": "red", "blocked": "red",
    "quarantined": "red", "backoff": "red", "unreachable": "red", "waiting": "yellow", "connecting": "yellow",
    "authenticating": "yellow", "suspect": "yellow", "full": "red",
}  # fmt: skip
_MAX_CELL_LENGTH = 1000
_MIN_CELL_LENGTH = 8
_WIDTH = 80
_GAP = "  "

_Command = TypeVar("_Command", bound=Callable[..., Any])


def output_option(*formats: str) -> Callable[[_Command], _Command]:
    """Return a decorator that adds the option `--output` to a command.

    Args:
        formats: The permitted values. The first one is the default.
    """
    return click.option(
        "-o", "--output", type=click.Choice(formats), default=formats[0], show_default=True, help="Output format."
    )


def print_text(text: object, fg: str | None = None, *, err: bool = False, keep_lines: bool = False) -> None:
    """Print text that can come from a server, with control characters replaced.

    Args:
        text: The text.
        fg: A color for terminals; None for the default color.
        err: Whether to print to standard error.
        keep_lines: Whether to keep line breaks. Use False for text from a server, which could otherwise add lines to
            the output.
    """
    shown = printable(str(text))
    click.secho(shown if keep_lines else shown.rstrip("\n").replace("\n", "?"), fg=fg, err=err)


def print_wrapped(text: str, fg: str | None = None, indent: str = "", *, err: bool = False) -> None:
    """Print text that can come from a server, in lines that fit the terminal.

    Args:
        text: The text. Line breaks in it are replaced.
        fg: A color for terminals; None for the default color.
        indent: Spaces at the start of each line. Empty: indent only the lines after the first one, by two spaces.
        err: Whether to print to standard error.
    """
    for line in textwrap.wrap(
        one_line(text, _MAX_CELL_LENGTH), terminal_width(), initial_indent=indent, subsequent_indent=indent or "  ",
        break_on_hyphens=False,
    ):  # fmt: skip
        click.secho(line, fg=fg, err=err)


def terminal_width() -> int:
    """Return the number of columns of the terminal; 80 if the width is not known, for example in a pipe."""
    return shutil.get_terminal_size((_WIDTH, 24)).columns


def print_table(
    heads: list[str], rows: list[list[str]], notes: list[str] | None = None, width: int | None = None
) -> None:
    """Print a table. On a terminal, states such as `down` have a color.

    Args:
        heads: The title of each column.
        rows: The rows, each with one cell per column.
        notes: For each row, the text to print below the row; an empty string prints nothing.
        width: Maximum width of the table in characters. If necessary, the longest cells are shortened. None: no
            limit.
    """
    rows = [[one_line(cell, _MAX_CELL_LENGTH) for cell in row] for row in rows]
    widths = _column_widths(heads, rows)
    while width is not None and _total_width(widths) > width:
        longest = max(range(len(widths)), key=widths.__getitem__)
        if widths[longest] <= _MIN_CELL_LENGTH:
            break
        widths[longest] -= 1
    click.echo(_GAP.join(head.ljust(size)[:size] for head, size in zip(heads, widths, strict=True)).rstrip())
    for at, row in enumerate(rows):
        cells = [
            click.style(_shortened(cell, size), fg=_COLORS.get(cell)) + " " * (size - len(cell))
            for cell, size in zip(row, widths, strict=True)
        ]
        click.echo(_GAP.join(cells).rstrip())
        for line in notes[at].splitlines() if notes else ():
            print_wrapped(line, indent="    ")


def fits(heads: list[str], rows: list[list[str]], width: int) -> bool:
    """Return whether a table fits into `width` characters without shortened cells."""
    return _total_width(_column_widths(heads, rows)) <= width


def _column_widths(heads: list[str], rows: list[list[str]]) -> list[int]:
    return [max(len(row[at]) for row in [heads, *rows]) for at in range(len(heads))]


def _total_width(widths: list[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _shortened(cell: str, width: int) -> str:
    """Shorten a cell to `width` characters. Omit the middle: the end of a cell can be the port of an address."""
    if len(cell) <= width:
        return cell
    tail = (width - 1) // 2
    return cell[: width - 1 - tail] + "…" + cell[len(cell) - tail :]


def format_reason(part: dict[str, Any]) -> str:
    """Return why a tunnel, backend or target in `/api/v1/status` has its state; empty if there is no reason."""
    if part["reason"] in (None, "tunnel"):  # the detail names the failed tunnel, so the reason adds nothing
        return str(part["detail"])
    return f"{part['reason']}: {part['detail']}"


def format_ms(seconds: float | None) -> str:
    """Return a duration in milliseconds; `-` for None."""
    return "-" if seconds is None else f"{seconds * 1e3:.1f}ms"


def plain_commands(text: str) -> str:
    """Return `text` without the backquotes that mark commands on the status page."""
    return text.replace("`", "")


def format_clock(time: str | None) -> str:
    """Return an RFC 3339 timestamp as a local time; `-` for None. Include the date if it is not the date of today."""
    if time is None:
        return "-"
    moment = datetime.fromisoformat(time).astimezone()
    today = datetime.now(UTC).astimezone().date()
    return moment.strftime("%H:%M:%S" if moment.date() == today else "%Y-%m-%d %H:%M")


def format_count(number: int, what: str) -> str:
    """Return a number with a noun, such as `1 client` or `2 clients`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def format_age(time: str) -> str:
    """Return the time since an RFC 3339 timestamp in one unit, such as `3d`, `5h`, `10m` or `42s`."""
    seconds = int((datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{max(0, seconds)}s"
