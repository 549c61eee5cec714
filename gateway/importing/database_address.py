"""Defines the address of a database, as parsed from environment variables."""

import re
from dataclasses import dataclass

from gateway.backends import KINDS, BackendKind, kind_of_port
from gateway.importing.ssh_forward import port_number

DATABASE_NAME = re.compile(
    r"(?i)(^|_)(db|database|datasource|sql|pg|mysql|mariadb|postgres(ql)?|redis|mongo(db)?)\d?($|_)"
)
"""Matches the names of variables that describe a database."""
OTHER_PORTS = {"mongodb": 27017, "mongo": 27017, "amqp": 5672, "amqps": 5671, "sqlserver": 1433, "mssql": 1433,
               "oracle": 1521}  # fmt: skip
"""Default ports of services for which the gateway has no backend kind."""
_TLS = re.compile(r"(?i)\b(?:(?:pg)?sslmode|ssl-mode|mode|ssl|usessl|tls)=(require\w*|verify[\w-]*|true|1)\b")
"""URL parameters that request TLS."""


@dataclass(frozen=True)
class DatabaseAddress:
    """The address of a database.

    Args:
        variables: The variables that contain the address: host and port, or a URL.
        prefix: The common prefix of the variables' names.
        host: The host, in its original spelling.
        port: The port as a string; empty if it is not known.
        words: Space-separated words that can name the database kind or a driver, such as a URL scheme.
        user: The user; empty if it is not known.
        password: The name of the variable with the password; empty if there is none.
        database: The database; empty if it is not known.
        parts: All variables that describe the database or the login.
        tls: The URL scheme or parameter that requests TLS; empty if there is none.
        more: Additional hosts, each with or without a port.
    """

    variables: tuple[str, ...]
    prefix: str
    host: str
    port: str
    words: str
    user: str = ""
    password: str = ""
    database: str = ""
    parts: tuple[str, ...] = ()
    tls: str = ""
    more: tuple[str, ...] = ()

    def kind(self) -> tuple[str, int, str]:
        """Return the backend kind, the port and a note.

        If the kind or the port is a guess, the note says so. Otherwise, the note is empty.

        Raises:
            UsageError: The port is not a port number.
        """
        words = re.findall(r"[a-z0-9]+", self.words.lower())
        found = filter(None, map(kind_of_word, words))
        kind = next((each for each in found if not each.imports.common_protocol), None)
        if self.port.isdecimal():
            port = port_number(self.port)
            return (kind or kind_of_port(port)).name, port, ""
        problem = "has no value" if self.port.startswith("${") else "is not a port number"
        guess = f"{self.port} {problem}, so the configuration uses the default port" if self.port else ""
        if kind is not None and kind.default_port:
            return kind.name, kind.default_port, guess
        other = next((OTHER_PORTS[word] for word in words if word in OTHER_PORTS), 0)
        if other:
            return "tcp", other, guess
        assumed = next(each for each in KINDS.values() if each.imports.is_guess)
        note = f"the variables contain no port; if the kind is not {assumed.name}, set kind and port"
        return assumed.name, assumed.default_port, note


def kind_of_word(word: str) -> BackendKind | None:
    """Return the backend kind that a word refers to; None if there is none.

    Args:
        word: The name or an alias of a kind, a URL scheme, or the name of a driver.
    """
    for kind in KINDS.values():
        if word in (kind.name, *kind.aliases, *kind.schemes, *kind.imports.driver_names):
            return kind
    return None


def requested_tls(text: str) -> str:
    """Return the first parameter that requests TLS; empty if there is none.

    Args:
        text: The query of a URL, or one parameter as `name=value`.
    """
    match = _TLS.search(text)
    return match[0] if match else ""
