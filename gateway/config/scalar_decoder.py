"""Decodes single values to the type that their key requires. Hides values of environment variables in errors."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gateway.config import value_parsers
from gateway.config.parsed_tree import ParsedScalar
from gateway.config.suggestions import similar
from gateway.contracts.config_types import Duration, HostPort, IpAddress, IpNetwork, ListenAddress, Size
from gateway.contracts.secret import Secret
from gateway.fleet.member_addresses import MemberAddress, parse_member

SCALARS: dict[Any, Callable[[str], Any]] = {
    str: str,
    int: value_parsers.integer,
    bool: value_parsers.boolean,
    Duration: value_parsers.duration,
    Size: value_parsers.size,
    Path: value_parsers.path,
    Secret: Secret,
    HostPort: value_parsers.host_port,
    ListenAddress: value_parsers.listener,
    IpNetwork: value_parsers.network,
    IpAddress: value_parsers.address,
    value_parsers.LogTarget: value_parsers.log_target,
    value_parsers.ThreadCount: value_parsers.thread_count,
    MemberAddress: parse_member,
}
"""The parser for each type that a single value can have."""


def read_scalar(tree: ParsedScalar, text: str, read: Callable[[str], Any]) -> Any:
    """Parse a single value.

    Args:
        tree: The parsed value.
        text: The value as a string, after the expansion of environment variables.
        read: The parser.

    Raises:
        ValueError: The value is not valid. The message contains no values of environment variables, except
            file paths from variables such as HOME. The caller adds the key and its place in the file.
    """
    try:
        _check_text(text)
        return read(text)
    except value_parsers.SuspectedSecretError:
        raise
    except ValueError:
        if tree.written is None:
            raise
        raise ValueError(_error_of_reference(tree.written, read)) from None


def _check_text(text: str) -> None:
    """Check that a value contains only characters that are valid in file names, addresses and passwords.

    Raises:
        SuspectedSecretError: The text contains a null character or an unpaired surrogate.
    """
    try:
        null = b"\0" in os.fsencode(text)
    except UnicodeEncodeError as error:
        raise value_parsers.SuspectedSecretError(
            "contains an unpaired surrogate, which is not valid text: remove it"
        ) from error
    if null:
        raise value_parsers.SuspectedSecretError("contains a null character: remove it")


def _error_of_reference(written: str, read: Callable[[str], Any]) -> str:
    """Return an error message that shows `written`, the unexpanded value. The expanded value can be a secret."""
    try:
        read(written)
    except ValueError as error:
        message = str(error)
    else:
        message = f"the value of {written!r} is not valid for this key"
    return f"{message} (values from the environment are not shown)"


def one_of(text: str, choices: tuple[str, ...]) -> str:
    """Return `text` if it is one of the choices.

    Raises:
        ValueError: `text` is not one of the choices. The message suggests the most similar choice.
    """
    if text not in choices:
        raise ValueError(f"{text!r} is not one of {', '.join(choices)}{similar(text, choices)}")
    return text


def broken_rule(value: Any, rules: Mapping[str, Any]) -> str | None:
    """Return an error message if a value breaks a rule of its field; None if the value is valid.

    Args:
        value: The decoded value.
        rules: The metadata of the field. For a number: its limits (`POSITIVE`, `AT_LEAST_ONE`, `PORT`). For a string:
            the function `check`, which raises `ValueError` if the string is not valid. For a list: `NOT_EMPTY`.
    """
    if value == () and "not_empty" in rules:
        return "is an empty list: add a value, or remove the key, which then permits everything"
    if isinstance(value, str) and "check" in rules:
        try:
            rules["check"](value)
        except ValueError as error:
            return str(error)
    if not isinstance(value, int | float):
        return None
    if "above" in rules and value <= rules["above"]:
        return f"must be more than {rules['above']}: choose a larger value"
    if "most" in rules and not rules["least"] <= value <= rules["most"]:
        return f"must be from {rules['least']} to {rules['most']}: choose another value"
    if "least" in rules and value < rules["least"]:
        return f"must be at least {rules['least']}: choose a larger value"
    return None
