"""The parsed configuration: scalars, lists and mappings with their places."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Scalar:
    """A single value.

    Args:
        place: The file, line and column of the value, or its variable or flag.
        text: The text of the value; None: the value is empty.
        broken: Whether the value is invalid and its problem has been added.
        written: The text before the expansion of environment variables; None: it contains no references.
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
    """A mapping. Each entry holds the place of its key."""

    place: str
    entries: "dict[str, tuple[str, Tree]]" = field(default_factory=dict)

    def put(self, key: str, value: "Tree") -> None:
        """Add or replace an entry. The place of its key is that of the value."""
        self.entries[key] = (value.place, value)


Tree = Scalar | Sequence | Table
