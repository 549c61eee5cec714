"""What every kind of database has: who logs in for the check, and how."""

import math
from dataclasses import dataclass, field
from typing import Any

from gateway.backends.common import tls
from gateway.backends.common.tls import Tls
from gateway.backends.common.token import executable
from gateway.certificates import authority
from gateway.contracts import POSITIVE, Credential, Duration, Secret


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
            raise ValueError("password_command is given beside password: remove one")


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
        executable(check.password_command[0])
