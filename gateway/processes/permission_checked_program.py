"""Finds the program of a command, and checks who can change it."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from gateway.contracts.insecure_setting import InsecureSetting
from gateway.errors import GatewayError
from gateway.processes.child_environment import search_path
from gateway.processes.program_file_permissions import lookup_steps, program_writers


class PermissionCheckedProgram(NamedTuple):
    """A program whose permissions `resolve_program` has checked.

    Args:
        name: The absolute path at which the program was found; can be a symbolic link. The gateway passes it as
            `argv[0]`, because some programs depend on the name by which they are called.
        file: The path of the file to execute, without symbolic links.
    """

    name: str
    file: str


def find_program(name: str) -> str | None:
    """Search PATH, /usr/sbin and /sbin for a program. Return its path, or None if it is not installed."""
    return shutil.which(name, path=search_path())


def _ignore_path(path: str) -> None:
    del path


def resolve_program(command: Sequence[str], visit: Callable[[str], None] = _ignore_path) -> PermissionCheckedProgram:
    """Find the program of a command, and check who can change it. Blocks until the file system responds.

    Args:
        command: The program and its arguments.
        visit: Called with each path before the path is looked up.

    Raises:
        GatewayError: The program does not exist or cannot be executed, or other users can change it; see
            `gateway.processes.program_file_permissions`.
        OSError: A file was removed during the lookup.
    """
    name, found = command[0], None
    for folder in [""] if "/" in name else search_path().split(":"):
        visit(os.path.join(folder, name))  # noqa: PTH118 - an empty entry in PATH means the current folder
        if (found := shutil.which(name, path=folder)) is not None:
            break
    if found is None:
        raise GatewayError(_why_not_found(command))
    path = Path(found).absolute()
    steps = lookup_steps(path)
    for writer in program_writers(path, steps):
        if writer.refused:
            raise GatewayError(writer.problem)
    return PermissionCheckedProgram(str(path), str(steps[-1]))


def insecure_program(key: str, command: Sequence[str]) -> Iterator[InsecureSetting]:
    """If other users can change the program of a command, yield an `InsecureSetting`.

    Yield nothing if `resolve_program` refuses the program, because the gateway then never runs it.

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


def _why_not_found(command: Sequence[str]) -> str:
    name = command[0]
    if len(command) == 1 and len(name.split()) > 1:
        first = name.split()[0]  # do not show the other words, which can contain secrets from the environment
        return (
            f"the command is one word that starts with {first!r}, not a list of words: write [program, argument, …]"
        )
    if "/" not in name:
        return f"{name} is not installed: install it, or write its path"
    if Path(name).exists():
        return f"{name}: cannot be executed: chmod +x it"
    return f"{name}: no such file: correct the path"
