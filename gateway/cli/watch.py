"""Repeats the output of a command, also while the service restarts."""

import time
from collections.abc import Callable
from datetime import datetime

import click

from gateway.cli.output import print_wrapped
from gateway.errors import GatewayError


def watching(show: Callable[[], None], interval: float, count: int | None = None) -> None:
    """Call `show` repeatedly until Ctrl-C. While the service does not answer, print the error and the time instead.

    Args:
        show: Requests the data, and prints it.
        interval: Seconds between two calls.
        count: Return after this number of calls; None: never.
    """
    last = datetime.now().astimezone()
    try:
        while count is None or count > 0:
            time.sleep(interval)
            if count is not None:
                count -= 1
            try:
                show()
            except GatewayError as error:
                click.clear()
                print_wrapped(f"no answer since {last:%H:%M:%S}, retrying: {error}", fg="red", err=True)
            else:
                last = datetime.now().astimezone()
    except KeyboardInterrupt:
        return
