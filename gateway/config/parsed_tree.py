"""Defines the parsed, unchecked configuration: scalars, lists and mappings, each with its place in the source."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ParsedScalar:
    """A single value of the parsed configuration.

    Args:
        place: The file, line and column of the value, or the environment variable or flag that contains it.
        text: The value as a string; None if the value is empty.
        broken: Whether the parser has reported that the value is invalid. The decoder then does not report it again.
        written: The value before the expansion of environment variables. Errors show it instead of `text`, which can
            contain a secret. None if errors may show `text`.
    """

    place: str
    text: str | None
    broken: bool = False
    written: str | None = None


@dataclass(frozen=True)
class ParsedSequence:
    """A list of values of the parsed configuration."""

    place: str
    items: "list[Tree]"


@dataclass(frozen=True)
class ParsedMapping:
    """A mapping of the parsed configuration. `entries` maps each key to its place and its value."""

    place: str
    entries: "dict[str, tuple[str, Tree]]" = field(default_factory=dict)

    def put(self, key: str, value: "Tree") -> None:
        """Add or replace an entry. Use the place of `value` as the place of the key."""
        self.entries[key] = (value.place, value)


Tree = ParsedScalar | ParsedSequence | ParsedMapping


def tables(root: ParsedMapping, section: str) -> list[tuple[str, ParsedMapping]]:
    """Return the name and the mapping of each tunnel or backend. Skip values that are not mappings.

    Args:
        root: The whole tree.
        section: `tunnels` or `backends`.
    """
    held = root.entries[section][1] if section in root.entries else None
    entries = held.entries if isinstance(held, ParsedMapping) else {}
    return [(name, tree) for name, (_, tree) in entries.items() if isinstance(tree, ParsedMapping)]
