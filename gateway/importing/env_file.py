"""Parses env files in the syntax of `docker run --env-file` and Compose."""

import os.path
import re
from collections.abc import Callable, Mapping, Sequence

from gateway.importing.compose_interpolation import interpolated

EnvFileReader = Callable[[str], dict[str, str] | None]
"""A function that returns the variables in the env file at a path. It returns None if the file was not passed as a
source."""


def parse_env_file(text: str, value: Callable[[str], str] | None = None) -> dict[str, str]:
    """Return the variables in an env file.

    Args:
        text: The content of the file: `NAME=value` lines, with comments, quotes and `export`.
        value: Returns the value of a variable that no earlier line sets; an empty string if the value is unknown.
            If `value` is None, references such as `${NAME}` stay unchanged, as with `docker run`.
    """
    found: dict[str, str] = {}

    def known(name: str) -> str:
        return found.get(name) or (value(name) if value is not None else "")

    for line in text.splitlines():
        match = re.match(r"\s*(?:export\s+)?([A-Za-z_][\w.]*)\s*=\s*(.*?)\s*$", line)
        if match is None:
            continue
        quoted = re.match(r"""(['"])(.*?)\1\s*(?:#.*)?$""", match[2])
        setting = quoted[2] if quoted else re.sub(r"\s+#.*$", "", match[2])
        if value is not None and not (quoted and quoted[1] == "'"):
            setting = interpolated(setting, known)
        found[match[1]] = setting
    return found


class EnvFiles:
    """Holds the env files that the user passed as sources, and records which files and variables are used.

    Args:
        texts: The content of each file, by its path.
    """

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = {_key(path): text for path, text in texts.items()}
        self._dotenv: dict[str, dict[str, str]] = {}
        """The variables of each `.env` file that was read for a Compose file."""
        self._read: set[str] = set()
        self._used: set[tuple[str, str]] = set()

    def read(
        self, path: str, folders: Sequence[str], value: Callable[[str], str] | None = None
    ) -> dict[str, str] | None:
        """Return the variables in a container's env file, and record that the file is used.

        Args:
            path: The path of the file.
            folders: The directories in which to look for a relative path.
            value: A function that returns the value of a variable. See `parse_env_file`.

        Returns:
            The variables; None if the file was not passed as a source.
        """
        keys = [_key(path, folder) for folder in folders]
        key = next((each for each in keys if each in self._texts), keys[0])
        self._read.add(key)
        return parse_env_file(self._texts[key], value) if key in self._texts else None

    def value(self, name: str, folder: str) -> str:
        """Return the value of a variable in the `.env` file next to a Compose file. Mark the variable as used.

        Args:
            name: The name of the variable.
            folder: The directory of the Compose file.

        Returns:
            The value; empty if the variable is not set, or if `.env` was not passed as a source.
        """
        self._used.add((_key(".env", folder), name))
        return self.values(folder).get(name, "")

    def values(self, folder: str) -> dict[str, str]:
        """Return the variables in the `.env` file next to a Compose file; empty if `.env` was not passed as a source.

        Args:
            folder: The directory of the Compose file.
        """
        key = _key(".env", folder)
        if key not in self._dotenv:
            self._dotenv[key] = parse_env_file(self._texts.get(key, ""), lambda _: "")
        return self._dotenv[key]

    def is_read(self, path: str) -> bool:
        """Return whether a container uses the env file `path`."""
        return _key(path) in self._read

    def unused(self, path: str) -> list[str]:
        """Return the variables in a `.env` file to which neither a Compose file nor the `.env` file itself refers."""
        key = _key(path)
        text = self._texts[key]
        inner = set(re.findall(r"\$\{?(\w+)", text))
        return [name for name in parse_env_file(text) if (key, name) not in self._used and name not in inner]


def _key(path: str, folder: str = "") -> str:
    return os.path.abspath(os.path.join(folder, path))  # noqa: PTH100, PTH118 - Path.resolve would follow symbolic links
