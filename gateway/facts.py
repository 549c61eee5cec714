"""Defines facts: values, such as a version or a replication lag, that status, JSON and metrics show."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

FactValue = str | bool | int | float | Mapping[str, int] | None
"""The value of a fact; None if it is not known."""


@dataclass(frozen=True)
class Fact:
    """A value that a kind of backend or tunnel reports, such as a version: its key, help text and metric.

    Args:
        key: The key in JSON.
        help: The meaning of the value; also the help text of the metric.
        metric: Name of the gauge. Empty: the fact has no metric.
        label: Name of a label of the gauge. It contains the value if the value is text, or the keys of a mapping.
        describe: Returns a few words for the status and the page; empty if they must not show the value.
        additive: Whether to add the values of all links, if a tunnel has several links.
    """

    key: str
    help: str
    metric: str = ""
    label: str = ""
    describe: Callable[[Any], str] = str
    additive: bool = False

    def samples(self, value: object) -> Iterator[tuple[list[str], float]]:
        """Yield the samples of the gauge: the values of `label`, if there is one, and the number.

        Args:
            value: The value of the fact. Text and mappings have samples only with `label`.
        """
        value = finite(value)
        if isinstance(value, bool | int | float):
            yield [], float(value)
        elif self.label and isinstance(value, str):
            yield [value], 1.0
        elif self.label and isinstance(value, Mapping):
            yield from (([str(key)], float(number)) for key, number in value.items())

    def text(self, value: object) -> str:
        """Return a few words about a value; empty if it is unknown or not shown."""
        return "" if finite(value) is None else self.describe(value)


def finite(value: Any) -> Any:
    """Return the value of a fact; None if it contains a number that is not finite as a float.

    Args:
        value: The value. It can contain a number of any size, because it comes from a server.
    """
    numbers = value.values() if isinstance(value, Mapping) else (value,)
    try:
        valid = all(math.isfinite(number) for number in numbers if isinstance(number, int | float))
    except OverflowError:
        valid = False
    return value if valid else None


def hidden(value: object) -> str:
    """Return an empty text. This is the `describe` of facts that only JSON shows."""
    del value
    return ""


VERSION = Fact("version", "The server's version.")
IDENTITY = Fact(
    "identity", "An identifier that stays the same for as long as the server is the same.", describe=hidden
)
