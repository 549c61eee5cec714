"""Parses env files in the syntax of `docker run --env-file` and Compose."""

import re
from collections.abc import Mapping


def read_env_file(text: str) -> dict[str, str]:
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
    """The env files that were passed as sources.

    Args:
        texts: The content of each file, by its path.
    """

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._files = {path.rpartition("/")[2]: read_env_file(text) for path, text in texts.items()}
        self._read: set[str] = set()
        self._unused = dict(self._files.get(".env", {}))

    def read(self, path: str) -> dict[str, str] | None:
        """Return the variables in a container's env file, and record the read; None if the file is not a source."""
        name = path.rpartition("/")[2]
        self._read.add(name)
        return self._files.get(name)

    def value(self, name: str) -> str:
        """Return the value of a variable in `.env`, and record its use by a Compose file; empty if it is not set."""
        self._unused.pop(name, None)
        return self._files.get(".env", {}).get(name, "")

    def is_read(self, path: str) -> bool:
        """Return whether a container uses an env file."""
        return path.rpartition("/")[2] in self._read

    @property
    def unused(self) -> list[str]:
        """The variables in `.env` that no Compose file uses."""
        return [] if self.is_read(".env") else list(self._unused)
