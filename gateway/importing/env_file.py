"""Parses env files in the syntax of `docker run --env-file` and Compose."""

import os.path
import re
from collections.abc import Callable, Mapping, Sequence

EnvFileReader = Callable[[str], dict[str, str] | None]
"""Returns the variables in the env file at a path; None if the file is not a source."""


def parse_env_file(text: str) -> dict[str, str]:
    """Return the variables in an env file.

    Args:
        text: The content of the file: `NAME=value` lines, with comments, quotes and `export`.
    """
    found: dict[str, str] = {}
    for line in text.splitlines():
        match = re.match(r"\s*(?:export\s+)?([A-Za-z_][\w.]*)\s*=\s*(.*?)\s*$", line)
        if match:
            value = match[2]
            quoted = re.match(r"""(['"])(.*?)\1\s*(?:#.*)?$""", value)
            found[match[1]] = quoted[2] if quoted else re.sub(r"\s+#.*$", "", value)
    return found


class EnvFiles:
    """Stores the env files that were passed as sources, and records which of them are used.

    Args:
        texts: The content of each file, by its path.
    """

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._files = {_key(path): parse_env_file(text) for path, text in texts.items()}
        self._read: set[str] = set()
        self._used: set[tuple[str, str]] = set()

    def read(self, path: str, folders: Sequence[str]) -> dict[str, str] | None:
        """Return the variables in a container's env file, and record the read; None if the file is not a source.

        Args:
            path: The path of the file.
            folders: The directories to which a relative path can be relative.
        """
        keys = [_key(path, folder) for folder in folders]
        key = next((each for each in keys if each in self._files), keys[0])
        self._read.add(key)
        return self._files.get(key)

    def value(self, name: str, folder: str) -> str:
        """Return the value of a variable in the `.env` of a Compose file, and record its use; empty if it is not set.

        Args:
            name: The name of the variable.
            folder: The directory of the Compose file.
        """
        key = _key(".env", folder)
        self._used.add((key, name))
        return self._files.get(key, {}).get(name, "")

    def values(self, folder: str) -> dict[str, str]:
        """Return the variables in the `.env` of a Compose file; empty if the file is not a source.

        Args:
            folder: The directory of the Compose file.
        """
        return self._files.get(_key(".env", folder), {})

    def is_read(self, path: str) -> bool:
        """Return whether a container uses an env file."""
        return _key(path) in self._read

    def unused(self, path: str) -> list[str]:
        """Return the variables in a `.env` file that no Compose file uses."""
        key = _key(path)
        return [name for name in self._files[key] if (key, name) not in self._used]


def _key(path: str, folder: str = "") -> str:
    return os.path.abspath(os.path.join(folder, path))  # noqa: PTH100, PTH118 - does not resolve symbolic links
