"""Lines and columns of text, with nothing in them that a terminal obeys."""

import click

from gateway.text import one_line, printable

_COLOURS = {
    "up": "green", "ready": "green", "degraded": "yellow", "unknown": "yellow", "paused": "yellow",
    "starting": "yellow", "draining": "yellow", "down": "red", "blocked": "red", "quarantined": "red",
    "backoff": "red", "waiting": "yellow", "connecting": "yellow", "authenticating": "yellow",
}  # fmt: skip


_LONGEST = 1000
"""Characters of a cell."""


def say(text: object, fg: str | None = None, *, err: bool = False) -> None:
    """Print lines, in colour on a terminal, that may hold text from a server."""
    click.secho(printable(str(text)), fg=fg, err=err)


def print_table(heads: list[str], rows: list[list[str]]) -> None:
    """Print rows under their heads, as wide as they need; states in colour on a terminal."""
    rows = [[one_line(cell, _LONGEST) for cell in row] for row in rows]
    widths = [max(len(row[at]) for row in [heads, *rows]) for at in range(len(heads))]
    click.echo("  ".join(head.ljust(width) for head, width in zip(heads, widths, strict=True)).rstrip())
    for row in rows:
        cells = [
            click.style(cell, fg=_COLOURS.get(cell)) + " " * (width - len(cell))
            for cell, width in zip(row, widths, strict=True)
        ]
        click.echo("  ".join(cells).rstrip())
