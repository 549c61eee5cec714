"""Keeps values that came from the environment out of errors: one may be a password under the wrong key. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

_SHORTEST = 3
"""Characters of a value that is worth hiding."""
_ANYWHERE = 6
"""Characters from which a value is hidden within a word too; a shorter one may be a part of any."""
_COMMON = {"true", "false", "yes", "off", "null", "none"}


@dataclass(frozen=True)
class Hidden:
    """What errors about one configuration must not show.

    Args:
        used: What was written, by the value that came of it; nowhere shown.
        at: The same by place, such as a variable with a URL: its values are not shown where that is the place. They
            may be names too, which other errors need.
    """

    used: dict[str, str] = field(default_factory=dict, repr=False)
    at: dict[str, dict[str, str]] = field(default_factory=dict, repr=False)

    def add(self, variable: str, *values: str) -> None:
        """Show none of these values of a variable."""
        self.at.setdefault(variable, {}).update(dict.fromkeys(values, f"${{{variable}}}"))

    def hide(self, message: str, place: str) -> str:
        """A message as it may be shown, about a value at `place`."""
        return hide(message, {**self.used, **self.at.get(place, {})})


def hide(message: str, used: Mapping[str, str]) -> str:
    """A message with each value replaced by what was written for it, such as `${NAME}`.

    Args:
        message: The message.
        used: What was written, by the value.
    """
    forms = {form: written for value, written in used.items() for form in _forms(value)}
    if not forms:
        return message
    longest_first = sorted(forms, key=len, reverse=True)
    return re.sub("|".join(map(_pattern, longest_first)), lambda found: forms[found[0]], message)


def _forms(value: str) -> set[str]:
    """How a value may stand in a message: as it is, as Python writes text, as a URL means it."""
    found = {value, repr(value)[1:-1], unquote(value), repr(unquote(value))[1:-1]}
    return {form for form in found if len(form) >= _SHORTEST and form.lower() not in _COMMON}


def _pattern(form: str) -> str:
    return re.escape(form) if len(form) >= _ANYWHERE else rf"(?<!\w){re.escape(form)}(?!\w)"
