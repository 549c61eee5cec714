"""Checks and converts values in Compose files."""

import shlex
from typing import Any

from gateway.errors import UsageError

_FORMS: dict[type, str] = {dict: "a mapping", list: "a list"}


def mapping(value: Any, where: str) -> dict[str, Any]:
    """Check that a value is a mapping, and convert its keys to strings. Convert an absent value to an empty mapping.

    Raises:
        UsageError: The value is not a mapping.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UsageError(f"{where} must be a mapping of keys and values")
    return {str(key): inner for key, inner in value.items()}


def list_of(value: Any, where: str) -> list[Any]:
    """Convert a value to a list: a string becomes a list of one item, and an absent value becomes an empty list.

    Raises:
        UsageError: The value is neither a list nor a string.
    """
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise UsageError(f"{where} must be a list")
    return value


def string_of(value: Any, where: str) -> str:
    """Convert a string, a number or a boolean to a string. Convert an absent value to "".

    Raises:
        UsageError: The value has another type. The message does not contain the value, which can be a password.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str | int | float):
        form = _FORMS.get(type(value), "a value with another YAML tag")
        raise UsageError(f"{where} must be a string, not {form}")
    return str(value)


def strings_of(value: Any, where: str) -> list[str]:
    """Convert a value to a list of strings. See `list_of`.

    Raises:
        UsageError: The value is neither a list nor a string, or an item of the list is not a string. The message does
            not contain the item, which can be a password.
    """
    items = list_of(value, where)
    for index, each in enumerate(items):
        if each is None:
            raise UsageError(f"{where}.{index} must be a string, not null")
        if string_of(each, f"{where}.{index}") != each:
            raise UsageError(f"{where}.{index} must be a string: write it in quotation marks")
    return items


def words_of(value: Any, where: str) -> list[str]:
    """Return the words of a command.

    Args:
        value: A list of words, or a command line; None for no words.
        where: The name of the value in error messages.

    Raises:
        UsageError: `value` is neither a list of strings nor a string, or a quotation mark is not closed.
    """
    if isinstance(value, str):
        try:
            return shlex.split(value)
        except ValueError as error:
            raise UsageError(f"{where}: {error}") from error
    return strings_of(value, where)


def environment(value: Any, where: str) -> dict[str, str]:
    """Return the environment variables of a service.

    Args:
        value: A mapping, or a list of `NAME=value`; None for no variables. A variable `NAME` without a value gets the
            value `${NAME}`.
        where: The name of the service in error messages.

    Raises:
        UsageError: `value` is neither a mapping nor a list of strings, or the value of a variable is a mapping or a
            list.
    """
    where = f"{where}.environment"
    if isinstance(value, list):
        pairs = [each.partition("=") for each in strings_of(value, where)]
        return {key: text if equals else f"${{{key}}}" for key, equals, text in pairs}
    found = mapping(value, where)
    return {key: f"${{{key}}}" if each is None else string_of(each, f"{where}.{key}") for key, each in found.items()}
