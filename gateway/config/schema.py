"""Lists the keys and types of the configuration's dataclasses. Does no I/O."""

import dataclasses
import functools
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

from gateway.contracts.secret import Secret


@functools.cache
def type_hints(cls: type) -> Mapping[str, Any]:
    """Return the type hints of a class, like `typing.get_type_hints`, but resolve them only once for each class."""
    return types.MappingProxyType(typing.get_type_hints(cls))


def known_keys(*classes: type) -> list[str]:
    """Return the configuration keys of dataclasses. For a secret, also include the key with the suffix `_file`."""
    names = []
    for cls in classes:
        hints = type_hints(cls)
        for field in dataclasses.fields(cls):
            names.append(field.name)
            if is_secret(hints[field.name]):
                names.append(f"{field.name}_file")
    return names


def hints_by_key(cls: type, above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all dotted keys of a dataclass, including those of inner mappings, with their type hints.

    For a mapping that has a shorthand, such as `allow`, yield the type hint of the shorthand.

    Args:
        cls: The dataclass.
        above: The prefix of the keys, such as `check.`.
    """
    hints = type_hints(cls)
    for field in dataclasses.fields(cls):
        hint, key = hints[field.name], above + field.name
        inner = [typing.cast("type", each) for each in (hint, *get_args(hint)) if dataclasses.is_dataclass(each)]
        for each in inner:
            yield from hints_by_key(each, f"{key}.")
            if "shorthand" in field.metadata:
                hint = type_hints(each)[field.metadata["shorthand"]]
        yield key, hint


def is_record(hint: Any) -> bool:
    """Return whether a key with this type hint contains a mapping with fixed keys."""
    return any(dataclasses.is_dataclass(each) for each in (hint, *get_args(hint)))


def is_list(hint: Any) -> bool:
    """Return whether a key with this type hint contains a list."""
    return tuple in (get_origin(hint), *map(get_origin, get_args(hint)))


def is_secret(hint: Any) -> bool:
    """Return whether a key with this type hint contains a secret. The path of a secret's file does not count."""
    return hint is Secret or Secret in get_args(hint)
