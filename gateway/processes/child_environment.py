"""Chooses the environment variables that child processes inherit."""

import os
import re
from collections.abc import Iterator, Sequence

_MINIMAL = ("LANG", "LC_ALL", "TZ")
"""Environment variables that each child process inherits, in addition to PATH. The list is short, because other
variables, such as `GATEWAY_…`, can contain passwords."""
_OF_USER = ("HOME", "USER", "LOGNAME")
"""Variables that the programs of `command` tunnels and of `proxy_command` inherit in addition to `_MINIMAL`."""


def minimal_environment() -> dict[str, str]:
    """Return an environment that contains only PATH, the locale and the time zone."""
    return {"PATH": search_path()} | _existing(_MINIMAL)


def environment_of_user(inherited: Sequence[str]) -> dict[str, str]:
    """Return `minimal_environment`, plus HOME, USER, LOGNAME and the variables in `inherited`.

    Omit variables that are not set in the gateway's environment.
    """
    return minimal_environment() | _existing((*_OF_USER, *inherited))


def check_environment(key: str, names: Sequence[str]) -> None:
    """Check the names of environment variables in a list in the configuration.

    Args:
        key: The configuration key that contains `names`, for messages.
        names: The names of the variables.

    Raises:
        ValueError: A name is not valid. The message starts with the key.
    """
    for number, name in enumerate(names):
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            place = f"{key}[{number}]" if len(names) > 1 else key
            raise ValueError(
                f"{place}: {name.partition('=')[0]!r} is not the name of an environment variable:"
                " write only the name, which consists of letters, digits and _"
            )


def unset_variables(key: str, names: Sequence[str]) -> Iterator[str]:
    """Yield one warning with the names of all variables that are not set in the gateway's environment.

    A program cannot inherit these variables. If all variables are set, yield nothing.

    Args:
        key: The configuration key of the list.
        names: The names of the variables.
    """
    if unset := [name for name in names if name not in os.environ]:
        yield (
            f"{key}: not set in the gateway's environment: {', '.join(unset)}"
            " (set each of them, or remove it from the list)"
        )


def search_path() -> str:
    """Return the directories in which the gateway searches for programs: PATH, /usr/sbin and /sbin."""
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def _existing(names: Sequence[str]) -> dict[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}
