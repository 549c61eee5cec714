"""Defines the class `Secret`. Its value is in the configuration, or in a file that the configuration names."""

import errno
from pathlib import Path

from gateway.secret_files import read_secret, unreadable


class Secret:
    """A secret, or a file that contains a secret. `repr` hides the value. Each use reads the file again.

    Args:
        value: The secret; None if it is in the file `path`.
        path: A file that contains the secret. One newline at the end of the file is not part of the secret.
        unexpanded_path: The path as written in the configuration, if it contains environment variables.
    """

    __slots__ = ("_value", "path", "unexpanded_path")

    def __init__(
        self, value: str | None = None, path: Path | None = None, unexpanded_path: str | None = None
    ) -> None:
        self._value = value
        self.path = path
        self.unexpanded_path = unexpanded_path

    @property
    def display_path(self) -> str:
        """The path for messages. A path without a slash is hidden, because it might be a misplaced password."""
        if self.unexpanded_path is not None:
            return self.unexpanded_path
        return str(self.path) if "/" in str(self.path) else "a file in the working directory"

    def reveal(self) -> str:
        """Return the secret. If the secret is in a file, read the file.

        Raises:
            OSError: The file cannot be read, is readable by every user, or is not UTF-8. The `filename` of the error
                is `display_path`.
        """
        if self.path is None:
            return self._value or ""
        try:
            return read_secret(self.path).decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise OSError(
                errno.EILSEQ, "not valid UTF-8 text: correct the file or its path", self.display_path
            ) from error
        except OSError as error:
            raise OSError(error.errno, unreadable(self.path, error, self.display_path), self.display_path) from error

    def __repr__(self) -> str:
        return f"Secret(path={self.display_path!r})" if self.path else "Secret(***)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and (self._value, self.path) == (other._value, other.path)

    def __hash__(self) -> int:
        return hash((self._value, self.path))
