"""Repeats the output of a command until Ctrl-C (`--watch`), even if the service restarts meanwhile."""

import io
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from datetime import datetime

import click

from gateway.cli.output import print_wrapped
from gateway.errors import GatewayError


class _Frame(io.StringIO):
    """Captures the output of one call, with colors if the output is for a terminal."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


class _Screen:
    """Shows the latest output of a function, and keeps it while the function fails.

    Args:
        show: Requests the data, and prints it.
        clear: Whether each output replaces the previous one.
    """

    def __init__(self, show: Callable[[], None], *, clear: bool) -> None:
        self._show = show
        self._clear = clear
        self._output = ""
        self._updated_at = datetime.now().astimezone()

    def update(self) -> None:
        """Show the output of a new call."""
        frame = _Frame(terminal=sys.stdout.isatty())
        with redirect_stdout(frame):
            self._show()
        self._output, self._updated_at = frame.getvalue(), datetime.now().astimezone()
        if self._clear:
            click.clear()
        click.echo(self._output, nl=False)

    def report(self, error: GatewayError) -> None:
        """Show an error, and on a terminal the latest output below it."""
        if self._clear:
            click.clear()
        print_wrapped(f"no response since {self._updated_at:%H:%M:%S}, retrying: {error}", fg="red", err=True)
        if self._output and self._clear and sys.stdout.isatty():
            click.echo("The last known state:")
            click.echo(self._output, nl=False)


def watching(
    show: Callable[[], None], interval: float, count: int | None = None, *, immediately: bool = False
) -> None:
    """Call `show` repeatedly until Ctrl-C. While the service does not respond, print the error, and keep the output.

    Args:
        show: Requests the data, and prints it.
        interval: Seconds between two calls.
        count: Return after this number of calls, and do not clear the terminal; None: never.
        immediately: Whether to call `show` once more, at the start. An error of that call is raised.
    """
    screen = _Screen(show, clear=count is None)
    if immediately:
        screen.update()
    try:
        while count is None or count > 0:
            time.sleep(interval)
            if count is not None:
                count -= 1
            try:
                screen.update()
            except GatewayError as error:
                screen.report(error)
    except KeyboardInterrupt:
        return
