"""Defines the Click type of options whose value is a duration in seconds."""

import math
from typing import Any

import click


class DurationType(click.FloatRange):
    """The Click type of an option whose value is a number of seconds, from 0.1 to 3600."""

    def __init__(self) -> None:
        super().__init__(min=0.1, max=3600)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert the text to a number. Reject `nan`, which `click.FloatRange` would accept."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is not a number of seconds: set a number from 0.1 to 3600.", param, ctx)
        return number
