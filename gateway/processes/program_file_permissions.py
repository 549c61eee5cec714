"""Finds the users who can change or replace a program that the gateway runs."""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

_ROOT = 0
_MAX_LINKS = 40
"""The kernel's limit of symbolic links in one lookup (path_resolution(7))."""


class ProgramPermissionProblem(NamedTuple):
    """A permission that lets other users change a program.

    Args:
        problem: A message that names the users. The message ends with a command that fixes the problem, such as
            `chmod o-w FILE`.
        refused: Whether the gateway always refuses to run the program; False if only strict mode refuses it.
    """

    problem: str
    refused: bool


def lookup_steps(path: Path) -> list[Path]:
    """Return the directories and symbolic links that the kernel visits to find a file, followed by the file itself.

    No parent directory of a returned path is a symbolic link. See path_resolution(7).

    Args:
        path: The absolute path of the file.

    Raises:
        OSError: The file does not exist, or there are more than 40 symbolic links.
    """
    here = Path("/")
    steps, links = [here], 0
    rest = list(reversed(path.parts[1:]))
    while rest:
        name = rest.pop()
        if name == "..":
            here = here.parent
            continue
        step = here / name
        steps.append(step)
        if stat.S_ISLNK(step.lstat().st_mode):
            links += 1
            if links > _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
            target = step.readlink()
            here = Path("/") if target.is_absolute() else here
            rest += reversed(target.parts[1:] if target.is_absolute() else target.parts)
        else:
            here = step
    steps.append(here)
    return list(reversed(dict.fromkeys(reversed(steps))))


def program_writers(path: Path, steps: Sequence[Path]) -> Iterator[ProgramPermissionProblem]:
    """Yield each permission that lets users other than root and the gateway's user change a program.

    Replacing the program, or a directory or link on its path, counts as a change. The gateway refuses a program that
    every user can change. If the gateway runs as root, it also refuses a program if another user owns the program, a
    directory on the program's path, or, in a sticky directory, a link on this path.

    Args:
        path: The absolute path of the program.
        steps: The result of `lookup_steps` for `path`.

    Raises:
        OSError: The program does not exist.
    """
    for each in reversed(steps):
        status = each.lstat()
        is_link = stat.S_ISLNK(status.st_mode)
        # Check the owner of a link only in a sticky directory, where the owner can replace the link. In any other
        # directory, everyone who can write to the directory can replace the link. The loop also checks the directory.
        if is_link and not each.parent.stat().st_mode & stat.S_ISVTX:
            continue
        mode = 0 if is_link else stat.S_IMODE(status.st_mode)
        is_sticky = stat.S_ISDIR(status.st_mode) and mode & stat.S_ISVTX
        what = "change it" if each == steps[-1] else f"replace it in {each}"
        if mode & stat.S_IWOTH and not is_sticky and _is_traversable(each, stat.S_IXOTH):
            problem = f"{path}: everybody can {what} (mode {mode:04o}): chmod o-w {each}"
            yield ProgramPermissionProblem(problem, refused=True)
        by_group = mode & stat.S_IWGRP and status.st_gid != _ROOT and not is_sticky
        if by_group and _is_traversable(each, stat.S_IXOTH | stat.S_IXGRP):
            problem = f"{path}: the group {status.st_gid} can {what} (mode {mode:04o}): chmod g-w {each}"
            yield ProgramPermissionProblem(problem, refused=False)
        if status.st_uid not in (_ROOT, os.geteuid()):
            fix = f"chown {'-h ' if is_link else ''}root {each}"
            problem = f"{path}: the user {status.st_uid}, who owns {each}, can {what}: {fix}"
            yield ProgramPermissionProblem(problem, refused=os.geteuid() == _ROOT)


def _is_traversable(path: Path, permissions: int) -> bool:
    """Return whether users can reach `path` through its parent directories.

    Args:
        path: The absolute path.
        permissions: The execute bits that apply to these users. The mode of each parent directory must contain at
            least one of these bits.
    """
    return all(each.stat().st_mode & permissions for each in path.parents)
