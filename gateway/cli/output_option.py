"""Defines the option `--output`, which selects the output format of a command."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])


def output_option(*formats: str) -> Callable[[_Command], _Command]:
    """Return a decorator that adds the option `--output` to a command.

    Args:
        formats: The permitted values. The first one is the default.
    """
    return click.option(
        "-o", "--output", type=click.Choice(formats), default=formats[0], show_default=True, help="Output format."
    )
