"""Checks commands in the configuration, and replaces their placeholders, such as `{host}`."""

import re
from collections.abc import Mapping, Sequence

_PLACEHOLDER = re.compile(r"(?<!\$)\{(\w+)\}")


def placeholder_problem(word: str, known: Sequence[str]) -> str | None:
    """Return an error message if a word contains an unknown placeholder; otherwise None.

    Args:
        word: One word of a command.
        known: The names of the placeholders.
    """
    for name in _PLACEHOLDER.findall(word):
        if name not in known:
            choice = ", ".join(f"{{{each}}}" for each in known)
            return f"{{{name}}} is not a placeholder (use {choice}); for literal braces, write {{ {name} }}"
    return None


def fill_placeholders(command: Sequence[str], values: Mapping[str, str]) -> tuple[str, ...]:
    """Return a command with its placeholders replaced.

    Args:
        command: The program and its arguments.
        values: The value of each placeholder, by its name without braces.
    """
    return tuple(_PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), word) for word in command)


def check_command(key: str, command: Sequence[str], known: Sequence[str]) -> None:
    """Check the words of a command in the configuration.

    Args:
        key: The configuration key of the command, for messages.
        command: The program and its arguments.
        known: The names of the placeholders.

    Raises:
        ValueError: The command is empty or contains an unknown placeholder. The message starts with the key.
    """
    if not command or not command[0]:
        raise ValueError(f"{key}: the command is empty: write [program, argument, …]")
    for number, word in enumerate(command):
        if problem := placeholder_problem(word, known):
            raise ValueError(f"{f'{key}[{number}]' if len(command) > 1 else key}: {problem}")
