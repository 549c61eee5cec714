"""Defines the `check:` keys for a login: user, password and TLS."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from gateway.backend_support import tls_options
from gateway.backend_support.tls_options import HealthCheckTlsOptions
from gateway.certificate_validity import ca_credentials
from gateway.contracts.certificate import MonitoredCertificate
from gateway.contracts.config_types import POSITIVE, SENSITIVE, Duration
from gateway.contracts.insecure_setting import InsecureSetting
from gateway.contracts.secret import Secret
from gateway.errors import GatewayError
from gateway.processes.command_template import placeholder_problem
from gateway.processes.permission_checked_program import insecure_program, resolve_program

PLACEHOLDERS = ("host", "port", "user")


@dataclass(frozen=True)
class LoginCheckOptions:
    """The `check:` keys of backends whose check logs in.

    Args:
        user: The user to log in as.
        password: Password of `user`.
        password_command: A program, with its arguments, that prints the password as one line. It runs without a
            shell. `{host}`, `{port}` and `{user}` are replaced by the host and port of the target and by `user`.
        password_environment: Names of environment variables to pass to the program, in addition to PATH, HOME and the
            locale.
        password_timeout: Maximum time that the program may run.
        password_cache: Time for which checks reuse the printed password. If the server refuses the password, the next
            check runs the program again.
        tls: TLS settings of the check's connection. They do not affect clients.
    """

    user: str | None = None
    password: Secret | None = None
    password_command: tuple[str, ...] = field(default=(), metadata=SENSITIVE)
    password_environment: tuple[str, ...] = ()
    password_timeout: Duration = field(default=Duration(10.0), metadata=POSITIVE)
    password_cache: Duration = Duration(600.0)
    tls: HealthCheckTlsOptions = field(default_factory=HealthCheckTlsOptions)

    def __post_init__(self) -> None:
        if self.password_command and self.password is not None:
            other = "password" if self.password.path is None else "password_file"
            raise ValueError(f"password_command: is set together with {other}: remove one of them")
        for word in self.password_command:
            if problem := placeholder_problem(word, PLACEHOLDERS):
                raise ValueError(f"password_command: {problem}")

    @property
    def has_password(self) -> bool:
        """Whether the check has a password."""
        return self.password is not None or bool(self.password_command)


def credentials(options: object, check: Any) -> list[MonitoredCertificate]:
    """Return the CA certificates to monitor, from `check.tls.ca_file`; see `BackendKind.credentials`."""
    del options
    return ca_credentials(check.tls.ca_file) if check.tls.mode == "verify" else []


def verify(options: object, check: Any) -> None:
    """Verify that the CA file and the password program of a check can be used; see `BackendKind.verify`.

    Args:
        options: Not used.
        check: A `LoginCheckOptions`.

    Raises:
        GatewayError: The program or the CA file cannot be used.
    """
    tls_options.verify(options, check)
    if check.password_command:
        try:
            resolve_program(check.password_command)
        except GatewayError as error:
            raise GatewayError(f"check.password_command: {error}") from error


def insecure_settings(options: object, check: Any, plain: bool) -> Iterator[InsecureSetting]:
    """Yield the insecure settings of a check that has a password; see `BackendKind.insecure_settings`.

    Args:
        options: Not used.
        check: A `LoginCheckOptions`.
        plain: Whether traffic to a target leaves this host unencrypted.
    """
    del options
    if not check.has_password:
        return
    yield from insecure_program("check.password_command", check.password_command)
    if check.tls.mode == "off":
        message = "is off, so the check sends its login over an unencrypted connection: use mode: verify"
        yield InsecureSetting("check.tls.mode", message, plain)
    elif check.tls.mode == "require":
        message = "is require, which does not verify the server: use mode: verify, with ca_file"
        yield InsecureSetting("check.tls.mode", message, advised=False)
