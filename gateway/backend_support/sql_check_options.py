"""Defines the `check:` keys and the facts (reported values) that all SQL databases have in common."""

import math
from dataclasses import dataclass
from typing import Any

from gateway.backend_support import login_options, tls_options
from gateway.backend_support.login_options import LoginCheckOptions
from gateway.backend_support.replication_facts import LAG, READ_ONLY
from gateway.backend_support.role_from_http import HttpRoleQueryOptions
from gateway.contracts.certificate import MonitoredCertificate
from gateway.contracts.config_types import Duration, HostPort
from gateway.facts import IDENTITY, VERSION

DATABASE_FACTS = (READ_ONLY, LAG, VERSION, IDENTITY)
IMPORT_NOTE = "add check: {user: …, password_file: …} with an account that can only log in"


@dataclass(frozen=True)
class SqlCheckOptions(LoginCheckOptions):
    """The `check:` keys that all kinds of SQL database have.

    Args:
        user: The user to log in as. Without a user, the check does not log in. If neither `user` nor `via_http`
            is set, the state of the target is `unknown`.
        database: The database to connect to. Default: none for MySQL, `postgres` for PostgreSQL.
        max_lag: Maximum replication lag. A replica with a larger lag is `down`.
        via_http: An HTTP server on the target's host that reports the role of the database, such as Patroni's REST
            API.
    """

    database: str | None = None
    max_lag: Duration | None = None
    via_http: HttpRoleQueryOptions | None = None


def verify(options: object, check: Any) -> None:
    """Verify the files and the password program to which the key `check` refers; see `BackendKind.verify`.

    Args:
        options: Not used.
        check: A `SqlCheckOptions`.

    Raises:
        GatewayError: The program or one of the files cannot be used.
    """
    login_options.verify(options, check)
    if check.via_http is not None:
        tls_options.context(check.via_http.tls, "check.via_http.tls")


def credentials(options: object, check: Any) -> list[MonitoredCertificate]:
    """Return the CA certificates to monitor, including those for `via_http`; see `BackendKind.credentials`."""
    via_http = check.via_http
    of_http = login_options.credentials(options, via_http) if via_http is not None else []
    return [*login_options.credentials(options, check), *of_http]


def endpoints(check: SqlCheckOptions, target: HostPort) -> tuple[HostPort, ...]:
    """Return the target and, if `via_http` is set, the HTTP server on the target's host.

    Implements `BackendKind.endpoints`.
    """
    via_http = check.via_http
    return (target, via_http.server(target)) if via_http is not None else (target,)


def without_database(scheme: str, path: str) -> dict[str, str]:
    """Raise an error if a URL contains a path, which would be the name of a database.

    SQL kinds use this function as `BackendKind.read_url`.

    Args:
        scheme: The scheme of the URL.
        path: The path of the URL.

    Raises:
        ValueError: The URL contains a path.
    """
    name = path.strip("/")
    if name:
        raise ValueError(
            f"a {scheme} URL must not have a path: remove {path!r}; if the check needs this database, write"
            f" check.database={name}"
        )
    return {}


def parse_lag(value: Any) -> float:
    """Parse the replication lag, in seconds, that a server reported.

    Args:
        value: The lag, as a number or a string.

    Raises:
        ValueError: The value is not a finite number.
    """
    try:
        lag = float(value)
    except OverflowError as error:
        raise ValueError("the replication lag is not a finite number") from error
    if not math.isfinite(lag):
        raise ValueError(f"the replication lag is not a finite number ({lag})")
    return lag
