"""Finds programs, fills in the placeholders of their arguments, and chooses their environment variables."""

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from gateway.contracts.security import InsecureSetting
from gateway.errors import GatewayError
from gateway.processes.program_permissions import lookup_steps, program_writers

_PLACEHOLDER = re.compile(r"(?<!\$)\{(\w+)\}")
_MINIMAL = ("LANG", "LC_ALL", "TZ")
"""Environment variables that each child process inherits, in addition to PATH. Other variables can contain passwords
(`GATEWAY_…`)."""
_OF_USER = ("HOME", "USER", "LOGNAME")
"""Additional variables for programs that the operator configures."""


class Program(NamedTuple):
    """A checked program: the path in the configuration, and the executable file to which it resolves.

    Args:
        name: The absolute path at which the program was found. It can be a symbolic link. The program gets it as
            `argv[0]`, because some programs depend on the name by which they are called.
        file: The path of the file to execute, without symbolic links.
    """

    name: str
    file: str


def find_program(name: str) -> str | None:
    """Search PATH, /usr/sbin and /sbin for a program; return its path, or None if it is not installed."""
    return shutil.which(name, path=_path())


def _ignore_path(path: str) -> None:
    del path


def resolve_program(command: Sequence[str], visit: Callable[[str], None] = _ignore_path) -> Program:
    """Find the program of a command, and check who can change it. Blocks until the file system responds.

    Args:
        command: The program and its arguments.
        visit: Called with each path before the path is looked up.

    Raises:
        GatewayError: The program does not exist or cannot be executed, or other users can change it; see
            `gateway.processes.program_permissions`.
    """
    name, found = command[0], None
    for folder in [""] if "/" in name else _path().split(":"):
        visit(os.path.join(folder, name))  # noqa: PTH118 - an empty folder is the current one
        if (found := shutil.which(name, path=folder)) is not None:
            break
    if found is None:
        raise GatewayError(_why_not_found(command))
    path = Path(found).absolute()
    steps = lookup_steps(path)
    for writer in program_writers(path, steps):
        if writer.refused:
            raise GatewayError(writer.problem)
    return Program(str(path), str(steps[-1]))


def insecure_program(key: str, command: Sequence[str]) -> Iterator[InsecureSetting]:
    """Yield an insecure setting if other users can change a program, and only strict mode refuses to run it.

    Args:
        key: The configuration key of the command.
        command: The program and its arguments; empty if there is none.
    """
    found = find_program(command[0]) if command else None
    if found is not None:
        path = Path(found).absolute()
        writers = list(program_writers(path, lookup_steps(path)))
        if writers and not any(each.refused for each in writers):
            yield InsecureSetting(key, f"runs {writers[0].problem}", advised=False)


def minimal_environment() -> dict[str, str]:
    """Return an environment that contains only PATH, the locale and the time zone."""
    return {"PATH": _path()} | _existing(_MINIMAL)


def environment_of_user(inherited: Sequence[str]) -> dict[str, str]:
    """Return the minimal environment, with HOME, USER, LOGNAME and the variables in `inherited` that are set."""
    return minimal_environment() | _existing((*_OF_USER, *inherited))


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
        raise ValueError(f"{key}: is empty: write [program, argument, …]")
    for number, word in enumerate(command):
        if problem := placeholder_problem(word, known):
            raise ValueError(f"{f'{key}[{number}]' if len(command) > 1 else key}: {problem}")


def check_environment(key: str, names: Sequence[str]) -> None:
    """Check a list of environment variables.

    Args:
        key: The configuration key of the list, for messages.
        names: The names of the variables.

    Raises:
        ValueError: A name is not valid. The message starts with the key.
    """
    for number, name in enumerate(names):
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            place = f"{key}[{number}]" if len(names) > 1 else key
            raise ValueError(
                f"{place}: {name.partition('=')[0]!r} is not the name of an environment variable:"
                " write only the name, in letters, digits and _"
            )


def unset_variables(key: str, names: Sequence[str]) -> Iterator[str]:
    """Yield a warning that lists the variables that a program cannot inherit because they are not set.

    Args:
        key: The configuration key of the list.
        names: The names of the variables.
    """
    if unset := [name for name in names if name not in os.environ]:
        yield f"{key}: not set in the gateway's environment: {', '.join(unset)} (set it, or remove it from the list)"


def _existing(names: Sequence[str]) -> dict[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def _why_not_found(command: Sequence[str]) -> str:
    name = command[0]
    if len(command) == 1 and len(name.split()) > 1:
        first = name.split()[0]  # do not show the rest, which can be a secret from the environment
        return f"the command is one word that starts with {first!r}; no shell splits it: write [program, argument, …]"
    if "/" not in name:
        return f"{name} is not installed: install it, or write its path"
    if Path(name).exists():
        return f"{name}: cannot be executed: chmod +x it"
    return f"{name}: no such file: correct the path"
