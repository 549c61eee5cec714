"""Describes facts: values, such as a version, that backends and tunnels report for the status and the metrics."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

FactValue = str | bool | int | float | Mapping[str, int] | None
"""The value of a fact; None if it is not known."""


@dataclass(frozen=True)
class FactDefinition:
    """The definition of a fact (a value that backends or tunnels report): its key, help text and metric.

    Args:
        key: The key in JSON.
        help: The meaning of the value; also the help text of the metric.
        metric: Name of the gauge; empty if the fact has no metric.
        label: Name of a label of the gauge. If the fact is a string, the label contains this string. If the fact is a
            mapping, the gauge has one sample for each key, and the label contains the key.
        describe: Returns a short description of the value for the status command and the status page. If the result
            is empty, both omit the value.
        additive: Whether a tunnel with several links reports the sum of the values of its links.
    """

    key: str
    help: str
    metric: str = ""
    label: str = ""
    describe: Callable[[Any], str] = str
    additive: bool = False

    def samples(self, value: object) -> Iterator[tuple[list[str], float]]:
        """Yield each sample of the fact's gauge, as a list of label values and a number.

        Args:
            value: The value of the fact. For a number, the list of label values is empty. For a string or a mapping,
                there are samples only if the fact has a `label`.
        """
        value = finite(value)
        if isinstance(value, bool | int | float):
            yield [], float(value)
        elif self.label and isinstance(value, str):
            yield [value], 1.0
        elif self.label and isinstance(value, Mapping):
            yield from (([str(key)], float(number)) for key, number in value.items())

    def text(self, value: object) -> str:
        """Return a short description of a value; empty if the value is unknown or hidden."""
        return "" if finite(value) is None else self.describe(value)


def finite(value: Any) -> Any:
    """Return the value of a fact; None if it contains a number that is not finite or is too large for a float.

    Args:
        value: The value. It can contain a number of any size, because it comes from a server.
    """
    numbers = value.values() if isinstance(value, Mapping) else (value,)
    try:
        valid = all(math.isfinite(number) for number in numbers if isinstance(number, int | float))
    except OverflowError:
        valid = False
    return value if valid else None


def texts(facts: Iterable[FactDefinition], values: Mapping[FactDefinition, object]) -> list[str]:
    """Return the short descriptions of facts, without those that are unknown or hidden.

    Args:
        facts: The facts, in the order of the result.
        values: The values of the facts.
    """
    return [text for fact in facts if (text := fact.text(values.get(fact)))]


def hidden(value: object) -> str:
    """Return an empty string. With this function as its `describe`, a fact appears only in JSON and metrics."""
    del value
    return ""


VERSION = FactDefinition("version", "The server's version.")
IDENTITY = FactDefinition(
    "identity", "An identifier of the server. It changes only if the server is replaced.", describe=hidden
)
