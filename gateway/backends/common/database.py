"""What every kind of database has: who logs in for the check, and how."""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.backends.common import tls
from gateway.backends.common.password_command import executable
from gateway.backends.common.tls import Tls
from gateway.certificates import authority
from gateway.contracts import POSITIVE, Credential, Duration, Secret
from gateway.errors import GatewayError
from gateway.vpn.child import program

PLACEHOLDERS = ("host", "port", "user")
_PLACEHOLDER = re.compile(r"(?<!\$)\{(\w+)\}")


@dataclass(frozen=True)
class DatabaseCheck:
    """How a database is checked.

    Args:
        user: Who logs in; without one nothing is asked, and the state is `unknown`.
        password: The user's password.
        password_command: A program and its arguments, run without a shell, that prints the password as one line;
            `{host}`, `{port}` and `{user}` stand for the target's and the check's.
        password_environment: Names of variables of our environment that the program gets, beside PATH, HOME and the
            locale.
        password_timeout: How long the program may take.
        password_cache: How long what it printed is used, unless a login is refused.
        database: The database to use; absent: none, and in PostgreSQL the one with the user's name.
        tls: Encryption of the check's own connection.
        max_lag: A replica further behind than this is down.
    """

    user: str | None = None
    password: Secret | None = None
    password_command: tuple[str, ...] = ()
    password_environment: tuple[str, ...] = ()
    password_timeout: Duration = field(default=Duration(10.0), metadata=POSITIVE)
    password_cache: Duration = Duration(600.0)
    database: str | None = None
    tls: Tls = field(default_factory=Tls)
    max_lag: Duration | None = None

    def __post_init__(self) -> None:
        if self.password_command and self.password is not None:
            other = "password" if self.password.path is None else "password_file"
            raise ValueError(f"password_command: is given beside {other}: remove one")
        for word in self.password_command:
            for name in _PLACEHOLDER.findall(word):
                if name not in PLACEHOLDERS:
                    known = ", ".join(f"{{{each}}}" for each in PLACEHOLDERS)
                    message = f"{{{name}}} stands for nothing (known: {known}); for braces write {{ {name} }}"
                    raise ValueError(f"password_command: {message}")


def seconds(value: Any) -> float:
    """What a server says of its lag.

    Raises:
        ValueError: It is no number, or none that is finite.
    """
    found = float(value)
    if not math.isfinite(found):
        raise ValueError(f"a lag of {found}")
    return found


def credentials(options: object, check: Any) -> list[Credential]:
    """The authorities that the check trusts; for `BackendKind.credentials`."""
    del options
    return authority(check.tls.ca_file) if check.tls.mode == "verify" else []


def verify(options: object, check: Any) -> None:
    """Raises `GatewayError` when a file or program that the check needs cannot be used; for `BackendKind.verify`."""
    tls.verify(options, check)
    if check.password_command:
        if program(check.password_command[0]) is None:
            raise GatewayError(f"check.password_command: {_trouble(check.password_command)}")
        executable(check.password_command[0])


def _trouble(command: tuple[str, ...]) -> str:
    name = command[0]
    if len(command) == 1 and len(name.split()) > 1:
        first = name.split()[0]  # the rest may come from the environment
        return f"{first!r} and what follows it is one word, and no shell reads it: write [program, argument, …]"
    if "/" not in name:
        return f"{name} is not installed"
    return f"{name}: {'cannot be executed' if Path(name).exists() else 'no such file'}"
