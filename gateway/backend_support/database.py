"""Defines the check options that all kinds of database use."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.backend_support import tls
from gateway.backend_support.password_command import resolve_executable
from gateway.backend_support.tls import TlsOptions
from gateway.certificates import ca_credentials
from gateway.contracts.security import Credential, InsecureSetting, Secret
from gateway.contracts.values import POSITIVE, Duration
from gateway.errors import GatewayError
from gateway.facts import IDENTITY, VERSION, Fact
from gateway.vpn.child_process import find_program

READ_ONLY = Fact(
    "read_only",
    "Whether the database refuses writes.",
    metric="gateway_database_read_only",
    describe=lambda read_only: "read-only" if read_only else "",
)
LAG = Fact(
    "lag_seconds",
    "How far a replica is behind.",
    metric="gateway_database_replication_lag_seconds",
    describe=lambda seconds: f"{seconds:g} s lag" if seconds else "",
)
DATABASE_FACTS = (READ_ONLY, LAG, VERSION, IDENTITY)
IMPORT_NOTE = "add check: {user: …, password_file: …} with an account that can only log in"
PLACEHOLDERS = ("host", "port", "user")
_PLACEHOLDER = re.compile(r"(?<!\$)\{(\w+)\}")


@dataclass(frozen=True)
class DatabaseCheck:
    """The check of a database backend.

    Args:
        user: The user to log in as. Without it, targets are not probed and their state is `unknown`.
        password: Password of `user`.
        password_command: A program, with its arguments, that prints the password as one line. It runs without a
            shell. `{host}`, `{port}` and `{user}` are replaced by the host and port of the target and by `user`.
        password_environment: Names of environment variables to pass to the program, in addition to PATH, HOME and the
            locale.
        password_timeout: Time limit for the program.
        password_cache: How long to reuse the printed password, unless a login with it is refused.
        database: The database to connect to. Default: none for MySQL, the one named like the user for PostgreSQL.
        tls: TLS settings of the check's connection. They do not affect clients.
        max_lag: Largest replication lag. A replica with a larger lag is `down`.
    """

    user: str | None = None
    password: Secret | None = None
    password_command: tuple[str, ...] = ()
    password_environment: tuple[str, ...] = ()
    password_timeout: Duration = field(default=Duration(10.0), metadata=POSITIVE)
    password_cache: Duration = Duration(600.0)
    database: str | None = None
    tls: TlsOptions = field(default_factory=TlsOptions)
    max_lag: Duration | None = None

    def __post_init__(self) -> None:
        if self.password_command and self.password is not None:
            other = "password" if self.password.path is None else "password_file"
            raise ValueError(f"password_command: is set together with {other}: remove one of them")
        for word in self.password_command:
            for name in _PLACEHOLDER.findall(word):
                if name not in PLACEHOLDERS:
                    known = ", ".join(f"{{{each}}}" for each in PLACEHOLDERS)
                    message = f"{{{name}}} is not a placeholder (use {known}); for literal braces, write {{ {name} }}"
                    raise ValueError(f"password_command: {message}")


def parse_lag(value: Any) -> float:
    """Convert the replication lag that a server reports to seconds.

    Args:
        value: The lag in seconds, as a number or as text.

    Raises:
        ValueError: The value is not a finite number.
    """
    lag = float(value)
    if not math.isfinite(lag):
        raise ValueError(f"the replication lag is {lag}")
    return lag


def credentials(options: object, check: Any) -> list[Credential]:
    """Return the certificate authorities that the check trusts; see `BackendKind.credentials`."""
    del options
    return ca_credentials(check.tls.ca_file) if check.tls.mode == "verify" else []


def verify(options: object, check: Any) -> None:
    """Check the files and the program that a check names; see `BackendKind.verify`.

    Args:
        options: Not used.
        check: A `DatabaseCheck`.

    Raises:
        GatewayError: The program or one of the files cannot be used.
    """
    tls.verify(options, check)
    if check.password_command:
        if find_program(check.password_command[0]) is None:
            raise GatewayError(f"check.password_command: {_why_not_found(check.password_command)}")
        resolve_executable(check.password_command[0])


def insecure_settings(options: object, check: Any, plain: bool) -> Iterator[InsecureSetting]:
    """Yield the insecure TLS settings, if the check has a password; see `BackendKind.insecure_settings`.

    Args:
        options: Not used.
        check: A `DatabaseCheck`.
        plain: Whether the path to a target is unencrypted and leaves this host.
    """
    del options
    if check.password is None and not check.password_command:
        return
    if check.tls.mode == "off":
        message = "is off, so the check logs in with its password on an unencrypted connection: use mode: verify"
        yield InsecureSetting("check.tls.mode", message, plain)
    elif check.tls.mode == "require":
        message = "is require, which does not verify the server: use mode: verify, with ca_file"
        yield InsecureSetting("check.tls.mode", message, advised=False)


def _why_not_found(command: tuple[str, ...]) -> str:
    name = command[0]
    if len(command) == 1 and len(name.split()) > 1:
        first = name.split()[0]  # the rest can be a value from the environment
        return (
            f"{first!r} and the text after it are one word, because there is no shell: write [program, argument, …]"
        )
    if "/" not in name:
        return f"{name} is not installed"
    return f"{name}: {'cannot be executed' if Path(name).exists() else 'no such file'}"
