"""Prints text and tables on the terminal."""

import shutil
import textwrap

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


def print_text(text: object, fg: str | None = None, *, err: bool = False, keep_lines: bool = False) -> None:
    """Print text that can come from a server, with control characters replaced.

    Args:
        text: The text.
        fg: A color for terminals; None for the default color.
        err: Whether to print to standard error.
        keep_lines: Whether to keep line breaks. Use False for text from a server, so that the text cannot add lines
            to the output.
    """
    shown = printable(str(text))
    click.secho(shown if keep_lines else shown.rstrip("\n").replace("\n", "?"), fg=fg, err=err)


def print_wrapped(text: str, fg: str | None = None, indent: str = "", *, err: bool = False) -> None:
    """Print text that can come from a server, in lines that fit the terminal.

    Args:
        text: The text. The function replaces line breaks with spaces.
        fg: A color for terminals; None for the default color.
        indent: The indentation of each line. If it is empty, the lines after the first one start with two spaces.
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
        width: Maximum width of the table in characters; None for no limit. If the table is too wide, the function
            shortens the longest cells.
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
    """Shorten a cell to `width` characters. Omit the middle, because the end can be the port of an address."""
    if len(cell) <= width:
        return cell
    tail = (width - 1) // 2
    return cell[: width - 1 - tail] + "…" + cell[len(cell) - tail :]
