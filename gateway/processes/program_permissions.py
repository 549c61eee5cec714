"""Finds the users who can change or replace a program that the gateway runs."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_ROOT = 0


class ProgramWriter(NamedTuple):
    """A finding that other users can change a program.

    Args:
        problem: Who they are, and the command that prevents it.
        refused: Whether the gateway does not run the program. Otherwise, only strict mode refuses it.
    """

    problem: str
    refused: bool


def program_writers(path: Path) -> Iterator[ProgramWriter]:
    """Yield the users other than root and the gateway's user who can change or replace a program.

    A program that everybody can change is refused. If the gateway runs as root, one of another owner is refused, too.

    Args:
        path: The absolute path of the program; symbolic links are followed.

    Raises:
        OSError: The program does not exist.
    """
    real = path.resolve(strict=True)
    for each in dict.fromkeys((real, *real.parents, *path.parents)):
        status = each.stat()
        mode = stat.S_IMODE(status.st_mode)
        is_sticky = stat.S_ISDIR(status.st_mode) and mode & stat.S_ISVTX
        what = "change it" if each == real else f"replace it in {each}"
        if mode & stat.S_IWOTH and not is_sticky and _is_traversable(each, stat.S_IXOTH):
            yield ProgramWriter(f"{path}: everybody can {what} (mode {mode:04o}): chmod o-w {each}", refused=True)
        by_group = mode & stat.S_IWGRP and status.st_gid != _ROOT and not is_sticky
        if by_group and _is_traversable(each, stat.S_IXOTH | stat.S_IXGRP):
            problem = f"{path}: the group {status.st_gid} can {what} (mode {mode:04o}): chmod g-w {each}"
            yield ProgramWriter(problem, refused=False)
        if status.st_uid not in (_ROOT, os.geteuid()):
            problem = f"{path}: the user {status.st_uid}, who owns {each}, can {what}: chown root {each}"
            yield ProgramWriter(problem, refused=os.geteuid() == _ROOT)


def _is_traversable(path: Path, permissions: int) -> bool:
    """Return whether the mode of each parent directory grants one of some permissions."""
    return all(each.stat().st_mode & permissions for each in path.resolve().parents)
