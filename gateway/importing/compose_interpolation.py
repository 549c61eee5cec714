"""Interpolates variables in the values of Compose files and env files (Compose specification, "Interpolation")."""

import re
from collections.abc import Callable, Iterator

_VARIABLE = re.compile(r"\$(?:(\$)|([A-Za-z_]\w*)|\{(\w+)(?:(:?[-?+])((?:\$\{[^{}]*\}|\$(?!\{)|[^}$])*))?\})")


def interpolated(text: str, value: Callable[[str], str]) -> str:
    """Replace the variables in a string by their values.

    A variable that has no value and no default becomes `${NAME}`. If the variable has no value, `${NAME:+TEXT}`
    becomes an empty string.

    Args:
        text: The string.
        value: A function that returns the value of the variable with the given name. An empty string means that the
            variable has no known value.
    """
    return "".join(part for _, part in _parts(text, value))


def replaced(text: str, start: int, end: int, new: str, value: Callable[[str], str]) -> str | None:
    """Replace a part of a string. Outside this part, keep the references to variables.

    Args:
        text: The string, before interpolation.
        start: The start of the part, as an index in the interpolated string.
        end: The end of the part (exclusive), as an index in the interpolated string.
        new: The replacement for the part.
        value: A function that returns the value of a variable. See `interpolated`.

    Returns:
        The new string, before interpolation. None if the part starts or ends inside the value of a variable.
    """
    first, last = _index(text, start, value), _index(text, end, value)
    return None if first is None or last is None else text[:first] + new + text[last:]


def _index(text: str, index: int, value: Callable[[str], str]) -> int | None:
    """Convert an index in the interpolated string to an index in `text`.

    Return None if the index is inside the value of a variable.
    """
    before, after = 0, 0
    for raw, part in _parts(text, value):
        if index <= after + len(part) and raw == part:
            return before + index - after
        if index == after:
            return before
        if index < after + len(part):
            return None
        before, after = before + len(raw), after + len(part)
    return before


def _parts(text: str, value: Callable[[str], str]) -> Iterator[tuple[str, str]]:
    """Split a string into literals and references to variables. Yield pairs: a part, and its interpolated value."""
    end = 0
    for match in _VARIABLE.finditer(text):
        yield text[end : match.start()], text[end : match.start()]
        yield match[0], _replacement(match, value)
        end = match.end()
    yield text[end:], text[end:]


def _replacement(match: re.Match[str], value: Callable[[str], str]) -> str:
    if match[1]:
        return "$"
    name, operator = match[2] or match[3], (match[4] or "").removeprefix(":")
    found = value(name)
    if operator == "+":
        return interpolated(match[5], value) if found else ""
    if found:
        return found
    return interpolated(match[5], value) if operator == "-" else f"${{{name}}}"
