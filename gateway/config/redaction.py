"""Redacts the values of environment variables in error messages, because a value can be a password. Does no I/O."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

_MIN_LENGTH = 3
"""The gateway does not redact values that are shorter than this number of characters."""
_MIN_LENGTH_IN_WORDS = 6
"""Minimum length of a value that the gateway also redacts inside a longer word. The gateway redacts a shorter value
only as a whole word, because a longer word can contain the value by chance."""
_SUGGESTION = re.compile(
    r"(?:(?:: use| is not) one of [\w.@+-]+(?:, [\w.@+-]+)*)?(?:; did you mean '[\w.@+-]+'\?|: use '[\w.@+-]+')?$"
)
"""Matches the suggested names at the end of a message. They are not redacted, because they are not secret."""
_COMMON = {"true", "false", "yes", "off", "null", "none"}


@dataclass(frozen=True)
class Redactor:
    """Replaces the values of environment variables in error messages about one configuration.

    Args:
        references: Maps each value to the reference, such as `${NAME}`, that replaces it in all messages.
        by_place: For each environment variable, such as `GATEWAY_OPS_LISTEN`: the values in the variable, each with
            the reference that replaces it. The gateway redacts these values only in messages about the variable. In
            other messages, the same text usually has another meaning, for example the name of a backend.
    """

    references: dict[str, str] = field(default_factory=dict, repr=False)
    by_place: dict[str, dict[str, str]] = field(default_factory=dict, repr=False)

    def add(self, variable: str, *values: str) -> None:
        """From now on, redact `values` in error messages about the environment variable `variable`."""
        self.by_place.setdefault(variable, {}).update(dict.fromkeys(values, f"${{{variable}}}"))

    def redact(self, message: str, place: str) -> str:
        """Replace the values of environment variables in a message with references such as `${NAME}`.

        Do not change the suggestion (`did you mean …?`) at the end, because it contains only known names.

        Args:
            message: The message.
            place: The file, line and column that the message is about, or the environment variable or flag.
        """
        suggestion = _SUGGESTION.search(message)
        end = suggestion.start() if suggestion else len(message)
        return redact(message[:end], {**self.references, **self.by_place.get(place, {})}) + message[end:]


def redact(message: str, references: Mapping[str, str]) -> str:
    """Return a message with each value replaced by its reference.

    Args:
        message: The message.
        references: Maps each value to the reference, such as `${NAME}`, that replaces it.
    """
    forms = {form: reference for value, reference in references.items() for form in _forms(value)}
    if not forms:
        return message
    longest_first = sorted(forms, key=len, reverse=True)
    return re.sub("|".join(map(_pattern, longest_first)), lambda found: forms[found[0]], message)


def _forms(value: str) -> set[str]:
    """Return the forms in which a message can contain a value: unchanged, as Python's `repr`, or percent-decoded."""
    found = {value, repr(value)[1:-1], unquote(value), repr(unquote(value))[1:-1]}
    return {form for form in found if len(form) >= _MIN_LENGTH and form.lower() not in _COMMON}


def _pattern(form: str) -> str:
    return re.escape(form) if len(form) >= _MIN_LENGTH_IN_WORDS else rf"(?<!\w){re.escape(form)}(?!\w)"
