"""From the raw tree to frozen dataclasses, by their type hints; collects every problem it meets."""

import dataclasses
import difflib
import functools
import operator
import os
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from gateway.config import values
from gateway.config.tree import Scalar, Sequence, Table, Tree
from gateway.contracts import Duration, Endpoint, Secret, Size
from gateway.errors import Problem

_SCALARS: dict[Any, Callable[[str], Any]] = {
    str: str,
    int: values.integer,
    bool: values.boolean,
    Duration: values.duration,
    Size: values.size,
    Path: values.path,
    Secret: Secret,
    Endpoint: values.endpoint,
    Endpoint | Path: values.listener,
    values.Network: values.network,
    values.Address: values.address,
    values.LogTarget: values.log_target,
}


_MOST_KNOWN = 500
"""Names among which a misspelt one is looked for: comparing takes a moment each."""


class Bad:
    """Stands for a value that could not be read; its problem is told already."""


BAD = Bad()


class Decoder:
    """Reads values out of a tree.

    Args:
        problems: Where to add what is wrong.
    """

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        self.places: dict[str, str] = {}
        """Where each value was written, by its key."""
        self.literal_secrets: list[tuple[str, str]] = []
        """The places and keys of secrets that stand where they were written, rather than in the environment."""

    def problem(self, place: str, key: str, message: str) -> None:
        """Note one problem."""
        self.problems.append(Problem(place, key, message))

    def value(self, tree: Tree, hint: Any, key: str, shorthand: str | None = None) -> Any:
        """Read a value of the type `hint`, or note why not and return BAD.

        Args:
            tree: What was written.
            hint: A type hint.
            key: The dotted key, for messages.
            shorthand: The field of a dataclass that anything but a mapping stands for.
        """
        self.places[key] = tree.place
        if isinstance(tree, Scalar) and tree.broken:
            return BAD
        if hint in _SCALARS:
            return self._scalar(tree, _SCALARS[hint], key)
        if dataclasses.is_dataclass(hint):
            if shorthand is not None and not isinstance(tree, Table):
                inner = self.value(tree, typing.get_type_hints(hint)[shorthand], key)
                return BAD if inner is BAD else typing.cast("type", hint)(**{shorthand: inner})
            return self.record(tree, typing.cast("type", hint), key)
        origin, arguments = get_origin(hint), get_args(hint)
        if origin is Literal:
            return self._scalar(tree, lambda text: _one_of(text, arguments), key)
        if origin is tuple:
            return self._list(tree, arguments[0], key)
        if origin is dict:
            return self._mapping(tree, arguments[1], key)
        if origin in (types.UnionType, typing.Union):
            if isinstance(tree, Scalar) and tree.text is None:
                return None
            return self.value(tree, _meant_by(tree, arguments), key)
        raise TypeError(f"{key}: no reader for {hint}")

    def record(self, tree: Tree, cls: type, key: str) -> Any:
        """Read a mapping into the dataclass `cls`."""
        table = self.table(tree, key)
        if table is None:
            return BAD
        self.unknown(table, key, known_keys(cls))
        return self.fields(table, cls, key)

    def fields(self, table: Table, cls: type, key: str) -> Any:
        """Read those keys of `table` that are fields of `cls`."""
        hints = typing.get_type_hints(cls)
        found: dict[str, Any] = {}
        bad = False
        for field in dataclasses.fields(cls):
            path = f"{key}.{field.name}" if key else field.name
            value = self._secret(table, field.name, path) if is_secret(hints[field.name]) else None
            if value is None and field.name in table.entries:
                shorthand = field.metadata.get("shorthand")
                value = self.value(table.entries[field.name][1], hints[field.name], path, shorthand)
            elif value is None:
                if _required(field):
                    self.problem(table.place, path, "is missing")
                    bad = True
                continue
            if value is BAD or not self._within(value, field, table, path):
                bad = True
            elif value is not None or not _required(field):
                found[field.name] = value
            else:
                self.problem(table.place, path, "is empty")
                bad = True
        if bad:
            return BAD
        try:
            return cls(**{name: value for name, value in found.items() if value is not None})
        except ValueError as error:  # of what its fields are together
            self.problems.append(at_key(self.places, table.place, key, str(error)))
            return BAD

    def _within(self, value: Any, field: "dataclasses.Field[Any]", table: Table, path: str) -> bool:
        """Whether a number keeps the bounds in its field's metadata."""
        rules = field.metadata
        trouble = None
        if not isinstance(value, int | float):
            return True
        if "above" in rules and value <= rules["above"]:
            trouble = f"must be more than {rules['above']}"
        elif "most" in rules and not rules["least"] <= value <= rules["most"]:
            trouble = f"must be from {rules['least']} to {rules['most']}"
        elif "least" in rules and value < rules["least"]:
            trouble = f"must be at least {rules['least']}"
        if trouble:
            self.problem(table.entries[field.name][1].place, path, trouble)
        return trouble is None

    def table(self, tree: Tree, key: str) -> Table | None:
        """The tree as a mapping; an empty value counts as one."""
        if isinstance(tree, Table):
            return tree
        if isinstance(tree, Scalar) and tree.text is None:
            return Table(tree.place)
        self.problem(tree.place, key, "must be a mapping of keys and values")
        return None

    def unknown(self, table: Table, key: str, known: Iterable[str]) -> None:
        """Note every key that is not `known`, with the one that was probably meant."""
        names = list(known)
        for name, (place, _) in table.entries.items():
            if name not in names:
                path = f"{key}.{name}" if key else name
                self.problem(place, path, f"unknown key{suggest(name, names)}")

    def _scalar(self, tree: Tree, read: Callable[[str], Any], key: str) -> Any:
        if not isinstance(tree, Scalar):
            self.problem(tree.place, key, "must be a single value")
            return BAD
        if tree.text is None or tree.text == "":
            self.problem(tree.place, key, "is empty")
            return BAD
        if read is Secret and tree.written is None:
            self.literal_secrets.append((tree.place, key))
        try:
            _check_text(tree.text)
            return read(tree.text)
        except ValueError as error:
            quotes = tree.written is not None and not isinstance(error, values.UnquotedError)
            self.problem(tree.place, key, _about(tree.written or "", read) if quotes else str(error))
            return BAD

    def _list(self, tree: Tree, hint: Any, key: str) -> Any:
        if isinstance(tree, Sequence):
            items = [self.value(item, hint, f"{key}[{at}]") for at, item in enumerate(tree.items)]
        elif isinstance(tree, Scalar) and tree.text is not None:
            items = [self.value(tree, hint, key)]  # a single value is a list of one
        elif isinstance(tree, Table) and dataclasses.is_dataclass(_meant_by(tree, get_args(hint) or (hint,))):
            items = [self.value(tree, hint, f"{key}[0]")]  # and so is a single mapping
        else:
            self.problem(tree.place, key, "must be a value or a list of values")
            return BAD
        return BAD if any(item is BAD for item in items) else tuple(items)

    def _mapping(self, tree: Tree, hint: Any, key: str) -> Any:
        table = self.table(tree, key)
        if table is None:
            return BAD
        found = {}
        for name, (place, inner) in table.entries.items():
            try:
                values.name(name)
            except ValueError as error:
                self.problem(place, f"{key}.{name}", str(error))
                return BAD
            found[name] = self.value(inner, hint, f"{key}.{name}")
        return BAD if any(each is BAD for each in found.values()) else found

    def _secret(self, table: Table, name: str, key: str) -> Any:
        by_file = table.entries.get(f"{name}_file")
        if by_file is None:
            return None
        if name in table.entries:
            self.problem(by_file[0], f"{key}_file", f"is given beside {name}: remove one")
            return BAD
        self.places[f"{key}_file"] = by_file[1].place
        tree = by_file[1]
        path = self._scalar(tree, values.path, f"{key}_file")
        return (
            path
            if path is BAD
            else Secret(path=path, unexpanded_path=tree.written if isinstance(tree, Scalar) else None)
        )


def at_key(places: Mapping[str, str], place: str, key: str, message: str) -> Problem:
    """A problem of a mapping, at the key with which its message begins, where that was written.

    Args:
        places: Where each key was written.
        place: Where the mapping was.
        key: The mapping's dotted key.
        message: `KEY: what is wrong`, or what is wrong with the mapping.
    """
    name, _, rest = message.partition(": ")
    inner = f"{key}.{name}" if key else name
    written = places.get(inner) or places.get(f"{inner}[0]")
    return Problem(written, inner, rest) if written and rest else Problem(place, key, message)


def known_keys(*classes: type) -> list[str]:
    """Every key that these dataclasses read."""
    names = []
    for cls in classes:
        hints = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            names.append(field.name)
            if is_secret(hints[field.name]):
                names.append(f"{field.name}_file")
    return names


def hints_by_key(cls: type, above: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted key that a dataclass reads, inner mappings included, with its type hint."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint, key = hints[field.name], above + field.name
        inner = [each for each in (hint, *get_args(hint)) if dataclasses.is_dataclass(each)]
        for each in inner:
            yield from hints_by_key(typing.cast("type", each), f"{key}.")
            if "shorthand" in field.metadata:
                hint = typing.get_type_hints(each)[field.metadata["shorthand"]]
        yield key, hint


def is_record(hint: Any) -> bool:
    """Whether a key of this type holds a mapping of keys that are known."""
    return any(dataclasses.is_dataclass(each) for each in (hint, *get_args(hint)))


def is_list(hint: Any) -> bool:
    """Whether a key of this type holds several values."""
    return tuple in (get_origin(hint), *map(get_origin, get_args(hint)))


def suggest(name: str, known: Iterable[str]) -> str:
    """`; did you mean …?` for a near miss, else what there is."""
    names = list(known)
    if len(names) > _MOST_KNOWN:
        return ""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f" (known: {', '.join(sorted(names))})" if names else ""


def is_secret(hint: Any) -> bool:
    """Whether a key of this type holds a secret itself."""
    return hint is Secret or Secret in get_args(hint)


def _meant_by(tree: Tree, arguments: tuple[Any, ...]) -> Any:
    """Which of a union's types are meant: a mapping, or in short a single value, where it has both."""
    rest = [each for each in arguments if each is not type(None)]
    records = [each for each in rest if dataclasses.is_dataclass(each)]
    if len(records) not in (0, len(rest)):
        rest = records if isinstance(tree, Table) else [each for each in rest if each not in records]
    return functools.reduce(operator.or_, rest)


def _required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _check_text(text: str) -> None:
    """Refuse what no file name, address or password can hold.

    Raises:
        UnquotedError: The text has a null character, or half of a surrogate pair.
    """
    try:
        null = b"\0" in os.fsencode(text)
    except UnicodeEncodeError as error:
        raise values.UnquotedError("has half of a surrogate pair, which is no text: remove it") from error
    if null:
        raise values.UnquotedError("has a null character: remove it")


def _about(written: str, read: Callable[[str], Any]) -> str:
    """What is wrong with a value from the environment, without the value: it may be a secret under the wrong key."""
    try:
        read(written)
    except ValueError as error:
        message = str(error)
    else:
        message = f"{written!r} stands for a value that does not fit here"
    return f"{message} (values from the environment are not shown)"


def _one_of(text: str, choices: tuple[str, ...]) -> str:
    if text not in choices:
        raise ValueError(f"{text!r} is not one of {', '.join(choices)}{_meant(text, choices)}")
    return text


def _meant(text: str, choices: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(text, choices, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
