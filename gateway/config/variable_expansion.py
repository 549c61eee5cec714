"""Replaces references such as `${NAME}` with the values of environment variables. Does no I/O."""

import re
from collections.abc import Callable, Mapping

_PATHS = ("HOME", "SSH_AUTH_SOCK", "XDG_RUNTIME_DIR")
"""Variables that contain paths. Errors show their values, so that the operator sees the path of a missing file."""
_REFERENCE = re.compile(r"\$\$|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


def expand(
    text: str,
    environment: Mapping[str, str],
    used: dict[str, str] | None = None,
    encode: Callable[[str], str] = str,
) -> str:
    """Expand `${NAME}` and `${NAME:-default}`. Convert `$$` to a dollar sign.

    Args:
        text: The string with references.
        environment: The environment variables.
        used: Maps the values of variables to their references, such as `${NAME}`, so that errors can show the
            reference instead of a secret. The function adds an entry for each variable whose value it inserts,
            except the variables in `_PATHS`. None to add no entries.
        encode: Encodes the value of each variable.

    Raises:
        KeyError: A variable without a default is not set.
    """

    def value(match: re.Match[str]) -> str:
        name, default = match.groups()
        if name is None:
            return "$"
        if environment.get(name):
            if used is not None and name not in _PATHS:
                used[environment[name]] = f"${{{name}}}"
            return encode(environment[name])
        if default is not None:
            return str(default)
        if name in environment:
            return ""
        raise KeyError(name)

    return _REFERENCE.sub(value, text)


def references(text: str) -> set[str]:
    """Return the names of the environment variables to which `text` refers."""
    return {match[1] for match in _REFERENCE.finditer(text) if match[1]}
