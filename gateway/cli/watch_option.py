"""Implements `--watch`: repeats the output of a command until Ctrl-C, even if the service restarts meanwhile."""

import io
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from datetime import datetime

import click

from gateway.cli.terminal_output import print_wrapped
from gateway.errors import GatewayError


class _OutputBuffer(io.StringIO):
    """A buffer that captures the output of one call of a function.

    Args:
        terminal: The return value of `isatty`. If True, the output contains colors.
    """

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


class _Screen:
    """Shows the latest output of a function. After a failed call, shows the error above the previous output.

    Args:
        show: The function. It requests data from the service, and prints it.
        clear: Whether each output replaces the previous one on the terminal.
    """

    def __init__(self, show: Callable[[], None], *, clear: bool) -> None:
        self._show = show
        self._clear = clear
        self._output = ""
        self._updated_at = datetime.now().astimezone()

    def update(self) -> None:
        """Call the function, and show its output.

        Raises:
            GatewayError: The function failed. The caller must pass the error to `report`.
        """
        buffer = _OutputBuffer(terminal=sys.stdout.isatty())
        with redirect_stdout(buffer):
            self._show()
        self._output, self._updated_at = buffer.getvalue(), datetime.now().astimezone()
        if self._clear:
            click.clear()
        click.echo(self._output, nl=False)

    def report(self, error: GatewayError) -> None:
        """Show an error. On a terminal, show the latest output below it."""
        if self._clear:
            click.clear()
        print_wrapped(f"no response since {self._updated_at:%H:%M:%S}, retrying: {error}", fg="red", err=True)
        if self._output and self._clear and sys.stdout.isatty():
            click.echo("The last known state:")
            click.echo(self._output, nl=False)


def watching(
    show: Callable[[], None], interval: float, count: int | None = None, *, immediately: bool = False
) -> None:
    """Call `show` repeatedly until Ctrl-C. If a call fails, print the error, and continue.

    Args:
        show: Requests data from the service, and prints it.
        interval: Seconds between two calls.
        count: Maximum number of calls. If None, there is no maximum, and the terminal is cleared before each output.
        immediately: Whether to make an additional call before the first interval. `count` does not include this call.

    Raises:
        GatewayError: The call before the first interval failed.
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
