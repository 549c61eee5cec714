"""The parsed configuration: scalars, lists and mappings with their places."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Scalar:
    """A single value.

    Args:
        place: Its file, line and column, or its variable or flag.
        text: The value; None if it is empty.
        broken: Whether it is invalid, and its problem recorded already.
        written: The text before the expansion of environment variables; None: it contains none.
    """

    place: str
    text: str | None
    broken: bool = False
    written: str | None = None


@dataclass(frozen=True)
class Sequence:
    """A list."""

    place: str
    items: "list[Tree]"


@dataclass(frozen=True)
class Table:
    """A mapping. Each entry has the place of its key."""

    place: str
    entries: "dict[str, tuple[str, Tree]]" = field(default_factory=dict)

    def put(self, key: str, value: "Tree") -> None:
        """Add or replace an entry, with the place of its value."""
        self.entries[key] = (value.place, value)


Tree = Scalar | Sequence | Table
