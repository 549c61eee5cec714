"""Converts a parsed configuration to frozen dataclasses, based on their type hints. Collects all problems."""

import dataclasses
import functools
import operator
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, get_args, get_origin

from gateway.config import value_parsers
from gateway.config.parsed_tree import ParsedMapping, ParsedScalar, ParsedSequence, Tree
from gateway.config.scalar_decoder import SCALARS, broken_rule, one_of, read_scalar
from gateway.config.schema import is_secret, known_keys, type_hints
from gateway.config.suggestions import suggest
from gateway.contracts.secret import Secret
from gateway.errors import ConfigProblem


class InvalidValueType:
    """The type of `INVALID`, which the decoder returns instead of an invalid value."""


INVALID = InvalidValueType()


class ConfigDecoder:
    """Converts the values of a parsed configuration to frozen dataclasses, and collects all problems.

    Args:
        problems: The list to which problems are added.
    """

    def __init__(self, problems: list[ConfigProblem]) -> None:
        self.problems = problems
        self.places: dict[str, str] = {}
        """The file, line and column (or the variable or flag) of each decoded value, by dotted key."""
        self.literal_secrets: list[tuple[str, str]] = []
        """For each secret that is a literal, not a reference `${NAME}`: its place (see `problem`) and dotted key."""

    def problem(self, place: str, key: str, message: str) -> None:
        """Add a problem.

        Args:
            place: The file, line and column of the value, or the environment variable or flag that contains it.
            key: The dotted key of the value.
            message: The message, without place and key.
        """
        self.problems.append(ConfigProblem(place, key, message))

    def value(self, tree: Tree, hint: Any, key: str, shorthand: str | None = None) -> Any:
        """Decode a value.

        Args:
            tree: The parsed value.
            hint: The type hint of the dataclass field.
            key: The dotted key of the value, for messages.
            shorthand: For a dataclass, the name of the field to set if the value is not a mapping. For example, with
                the shorthand `networks`, `allow: [10.0.0.0/8]` means `allow: {networks: [10.0.0.0/8]}`. None if the
                value must be a mapping.

        Returns:
            The decoded value. If the value is not valid, the method adds a problem and returns `INVALID`.

        Raises:
            TypeError: The hint is not supported.
        """
        self.places[key] = tree.place
        if isinstance(tree, ParsedScalar) and tree.broken:
            return INVALID
        if hint in SCALARS:
            return self._scalar(tree, SCALARS[hint], key)
        if dataclasses.is_dataclass(hint):
            if shorthand is not None and not isinstance(tree, ParsedMapping):
                return self._shorthand(tree, typing.cast("type", hint), key, shorthand)
            return self.record(tree, typing.cast("type", hint), key)
        origin, arguments = get_origin(hint), get_args(hint)
        if origin is Literal:
            return self._scalar(tree, lambda text: one_of(text, arguments), key)
        if origin is tuple:
            return self._list(tree, arguments[0], key)
        if origin is dict:
            return self._mapping(tree, arguments[1], key)
        if origin in (types.UnionType, typing.Union):
            if isinstance(tree, ParsedScalar) and tree.text is None:
                return None
            return self.value(tree, _alternative(tree, arguments), key)
        raise TypeError(f"{key}: no decoder for {hint}")

    def _shorthand(self, tree: Tree, cls: type, key: str, name: str) -> Any:
        """Convert a value to an instance of `cls` whose field `name` has this value."""
        inner = self.value(tree, type_hints(cls)[name], key)
        rules = next(each.metadata for each in dataclasses.fields(cls) if each.name == name)
        if inner is not INVALID and (message := broken_rule(inner, rules)):
            self.problem(tree.place, key, message)
            return INVALID
        return INVALID if inner is INVALID else cls(**{name: inner})

    def record(self, tree: Tree, cls: type, key: str) -> Any:
        """Convert a mapping to an instance of `cls`. If the mapping is invalid, add problems and return `INVALID`."""
        table = self.table(tree, key)
        if table is None:
            return INVALID
        self.check_keys(table, key, known_keys(cls))
        return self.fields(table, cls, key)

    def fields(self, table: ParsedMapping, cls: type, key: str) -> Any:
        """Convert `table` to an instance of `cls`. If a value is invalid, add a problem and return `INVALID`.

        Ignore unknown keys. To report them, call `check_keys`.
        """
        hints = type_hints(cls)
        found: dict[str, Any] = {}
        invalid = False
        for field in dataclasses.fields(cls):
            path = f"{key}.{field.name}" if key else field.name
            value = self._secret(table, field.name, path) if is_secret(hints[field.name]) else None
            if value is None and field.name in table.entries:
                shorthand = field.metadata.get("shorthand")
                value = self.value(table.entries[field.name][1], hints[field.name], path, shorthand)
            elif value is None:
                if _required(field):
                    self.problem(table.place, path, "is missing: add this key")
                    invalid = True
                continue
            if value is INVALID:
                invalid = True
            elif message := broken_rule(value, field.metadata):
                self.problem(table.entries[field.name][1].place, path, message)
                invalid = True
            elif value is not None or not _required(field):
                found[field.name] = value
            else:
                self.problem(table.place, path, "is empty: add a value")
                invalid = True
        if invalid:
            return INVALID
        try:
            return cls(**{name: value for name, value in found.items() if value is not None})
        except ValueError as error:  # `__post_init__` raises this error for an invalid combination of fields
            self.problems.append(at_key(self.places, table.place, key, str(error)))
            return INVALID

    def table(self, tree: Tree, key: str) -> ParsedMapping | None:
        """Return `tree` as a mapping. An empty value becomes an empty mapping.

        If `tree` is a list or a scalar, add a problem and return None.
        """
        if isinstance(tree, ParsedMapping):
            return tree
        if isinstance(tree, ParsedScalar) and tree.text is None:
            return ParsedMapping(tree.place)
        self.problem(tree.place, key, "must be a mapping: write KEY: VALUE on indented lines, or {KEY: VALUE}")
        return None

    def check_keys(self, table: ParsedMapping, key: str, known: Iterable[str]) -> None:
        """Add a problem for each key that is not in `known`. The message suggests the most similar known key."""
        names = list(known)
        for name, (place, _) in table.entries.items():
            if name not in names:
                path = f"{key}.{name}" if key else name
                self.problem(place, path, f"unknown key{suggest(name, names) or ': remove it'}")

    def _scalar(self, tree: Tree, read: Callable[[str], Any], key: str) -> Any:
        if not isinstance(tree, ParsedScalar):
            self.problem(tree.place, key, "must be a single value: remove the list or mapping around it")
            return INVALID
        if tree.text is None or tree.text == "":
            self.problem(tree.place, key, "is empty: add a value, or remove the key")
            return INVALID
        if read is Secret and tree.written is None:
            self.literal_secrets.append((tree.place, key))
        try:
            return read_scalar(tree, tree.text, read)
        except ValueError as error:
            self.problem(tree.place, key, str(error))
            return INVALID

    def _list(self, tree: Tree, hint: Any, key: str) -> Any:
        if isinstance(tree, ParsedSequence):
            items = [self.value(item, hint, f"{key}[{at}]") for at, item in enumerate(tree.items)]
        elif isinstance(tree, ParsedScalar) and tree.text is not None:
            items = [self.value(tree, hint, key)]  # a single value is allowed instead of a list of one value
        elif isinstance(tree, ParsedMapping) and dataclasses.is_dataclass(
            _alternative(tree, get_args(hint) or (hint,))
        ):
            # A single mapping is allowed instead of a list of one mapping.
            items = [self.value(tree, hint, f"{key}[0]")]
        else:
            self.problem(tree.place, key, "must be a value or a list of values, as in [a, b]")
            return INVALID
        return INVALID if any(item is INVALID for item in items) else tuple(items)

    def _mapping(self, tree: Tree, hint: Any, key: str) -> Any:
        table = self.table(tree, key)
        if table is None:
            return INVALID
        found = {}
        for name, (place, inner) in table.entries.items():
            try:
                value_parsers.name(name)
            except ValueError as error:
                self.problem(place, f"{key}.{name}", str(error))
                return INVALID
            found[name] = self.value(inner, hint, f"{key}.{name}")
        return INVALID if any(each is INVALID for each in found.values()) else found

    def _secret(self, table: ParsedMapping, name: str, key: str) -> Any:
        by_file = table.entries.get(f"{name}_file")
        if by_file is None:
            return None
        if name in table.entries:
            self.problem(by_file[0], f"{key}_file", f"cannot be set together with {name}: remove one of them")
            return INVALID
        self.places[f"{key}_file"] = by_file[1].place
        tree = by_file[1]
        path = self._scalar(tree, value_parsers.path, f"{key}_file")
        return (
            path
            if path is INVALID
            else Secret(path=path, unexpanded_path=tree.written if isinstance(tree, ParsedScalar) else None)
        )


def at_key(places: Mapping[str, str], place: str, key: str, message: str) -> ConfigProblem:
    """Convert an error message about a mapping to a problem.

    If the message starts with a key of the mapping, the problem points to this key instead of the whole mapping.

    Args:
        places: The file, line and column of each value, by dotted key.
        place: The file, line and column of the mapping.
        key: The dotted key of the mapping.
        message: `KEY: MESSAGE` about one key of the mapping, or a message about the whole mapping.
    """
    name, _, rest = message.partition(": ")
    inner = f"{key}.{name}" if key else name
    written = places.get(inner) or places.get(f"{inner}[0]")
    return ConfigProblem(written, inner, rest) if written and rest else ConfigProblem(place, key, message)


def _alternative(tree: Tree, arguments: tuple[Any, ...]) -> Any:
    """Return a union without None that contains only the types that `tree` can be converted to.

    If the given union contains both dataclasses and other types, a mapping is converted only to a dataclass, and a
    scalar or a list only to another type.

    Args:
        tree: The parsed value.
        arguments: The types of the union.
    """
    rest = [each for each in arguments if each is not type(None)]
    records = [each for each in rest if dataclasses.is_dataclass(each)]
    if len(records) not in (0, len(rest)):
        rest = records if isinstance(tree, ParsedMapping) else [each for each in rest if each not in records]
    return functools.reduce(operator.or_, rest)


def _required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
