"""Defines the types of secrets, monitored certificates and insecure settings."""

import errno
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gateway.secret_files import read_secret, unreadable

_WEEK = 7 * 86400.0


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
            raise OSError(errno.EILSEQ, "not valid UTF-8 text", self.display_path) from error
        except OSError as error:
            raise OSError(error.errno, unreadable(self.path, error, self.display_path), self.display_path) from error

    def __repr__(self) -> str:
        return f"Secret(path={self.display_path!r})" if self.path else "Secret(***)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and (self._value, self.path) == (other._value, other.path)

    def __hash__(self) -> int:
        return hash((self._value, self.path))


class ValidityPeriod(NamedTuple):
    """The beginning and end of a certificate's validity, in seconds since the epoch (`time.time()`)."""

    begins: float
    expires: float

    def expires_soon(self, now: float) -> bool:
        """Return whether the expiry is near: less than a third of the validity period and less than a week remain.

        Args:
            now: Seconds since the epoch.
        """
        return self.expires - now < min((self.expires - self.begins) / 3, _WEEK)


@dataclass(frozen=True)
class MonitoredCertificate:
    """A certificate whose expiry the gateway monitors: one that the gateway uses, or one that a server presented.

    Args:
        kind: `ssh_certificate`, `tls` or `vpn`.
        name: The path of the certificate's file, or the address of the server that presented the certificate.
        validity: The certificate's validity period.
    """

    kind: str
    name: str
    validity: ValidityPeriod


class InsecureSetting(NamedTuple):
    """An insecure setting in the configuration, which strict mode refuses.

    Args:
        key: The configuration key, relative to the tunnel or backend.
        message: The problem, and the setting to use instead. The message is printed after the key, and continues it
            as a sentence, such as `is absent, so …`.
        advised: Whether to warn about the setting if strict mode is off.
    """

    key: str
    message: str
    advised: bool
