"""Defines `kind: postgres`. The probe logs in and runs a query, with the non-blocking interface of libpq.

The probe permits only SCRAM authentication (RFC 5802), which also authenticates the server. Over TLS, channel binding
binds SCRAM to the server's certificate (RFC 5929, tls-server-end-point), so that a man in the middle cannot relay the
login. The probe requires channel binding if it does not verify the certificate. Otherwise channel binding is
optional, because some connection poolers do not support it.

This module calls libpq directly instead of psycopg's asyncio interface. In psycopg, cancelling a login to a silent
server takes eleven seconds.
"""

import math
import os
import socket
import ssl
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo

from gateway.backend_support.login_options import insecure_settings
from gateway.backend_support.loopback_forwarder import loopback_forwarder
from gateway.backend_support.password_source import PasswordSource
from gateway.backend_support.postgres_cancel_protocol import PostgresCancelProtocol
from gateway.backend_support.postgres_certificate_fetcher import PostgresCertificateFetcher
from gateway.backend_support.postgres_errors import NO_PASSWORD, login_error
from gateway.backend_support.postgres_login import PostgresLogin
from gateway.backend_support.postgres_session import error_message, log_in, run_query
from gateway.backend_support.replication_facts import LAG, READ_ONLY
from gateway.backend_support.role_from_http import with_http_role
from gateway.backend_support.sql_check_options import (
    DATABASE_FACTS,
    IMPORT_NOTE,
    SqlCheckOptions,
    credentials,
    endpoints,
    parse_lag,
    verify,
    without_database,
)
from gateway.backends import BackendKind, EmptyOptions, ImportedBackendDefaults
from gateway.contracts.backend import ProbeResult
from gateway.contracts.config_types import HostPort
from gateway.contracts.link import SocketConnector
from gateway.contracts.phase_timer import PhaseTimer
from gateway.errors import FailureReason, UnusableTargetError
from gateway.facts import VERSION

_QUERY = b"""
SELECT pg_is_in_recovery(),
       current_setting('transaction_read_only') = 'on',
       current_setting('server_version'),
       CASE WHEN NOT pg_is_in_recovery() THEN NULL
            WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn()
                 AND EXISTS (SELECT FROM pg_stat_wal_receiver) THEN 0
            ELSE extract(epoch FROM now() - pg_last_xact_replay_timestamp()) END,
       CASE WHEN pg_is_in_recovery() THEN EXISTS (SELECT FROM pg_stat_wal_receiver) END
"""

_AUTHORITIES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
"""The files of certificate authorities in Debian, in Red Hat's distributions, and in Alpine."""
_DEFAULT_DATABASE = "postgres"
"""The database to which the check connects by default. initdb creates it on every server."""
_STILL_COMPUTING = (
    "libpq is still hashing the password of the previous login: the server requests too many SCRAM iterations (if you"
    " trust the server, lower scram_iterations and set the user's password again)"
)


def _system_authorities() -> str:
    """Return the path of the file with the certificate authorities that the system trusts.

    Return `system` if SSL_CERT_FILE is set, or if there is no such file. With `system`, libpq uses OpenSSL's default
    file. The OpenSSL library in psycopg's wheels has a different default file than the system's OpenSSL library.
    """
    if "SSL_CERT_FILE" in os.environ:
        return "system"  # OpenSSL then uses the file that SSL_CERT_FILE names
    candidates = (ssl.get_default_verify_paths().cafile, *_AUTHORITIES)
    return next((each for each in candidates if each and Path(each).is_file()), "system")


class PostgresBackend:
    """A PostgreSQL backend, whose probe logs in and runs a query; implements `gateway.contracts.backend.Backend`.

    Args:
        options: An empty object, because this kind has no options.
        check: The check of the backend.
    """

    def __init__(self, options: EmptyOptions, check: SqlCheckOptions) -> None:
        self.options = options
        self.check = check
        self._last_in_sync: dict[HostPort, float] = {}
        """For each standby: the monotonic time at which it last had all data of its primary."""
        self._passwords = PasswordSource()
        self._certificates = PostgresCertificateFetcher()
        self._abandoned: dict[HostPort, PostgresLogin] = {}
        """For each target: the most recent login that was aborted while libpq was hashing the password. Until libpq
        finishes hashing, further checks of the target fail."""

    async def probe(self, link: SocketConnector, target: HostPort, phases: PhaseTimer) -> ProbeResult:
        """Log in and query the role, version and replication lag; see `gateway.contracts.backend.Backend`."""
        if self.check.user is None:
            return ProbeResult(unprobed="check.user is not set")
        if target in self._abandoned and self._abandoned[target].is_computing:
            raise UnusableTargetError(FailureReason.PROTOCOL, _STILL_COMPUTING)
        password = await self._passwords.get(self.check, target, phases)
        try:
            row, password_was_used = await self._query(link, target, phases, password)
            finding = self._evaluate(row, target, time.monotonic())
        except UnusableTargetError as error:
            self._passwords.report(self.check, target, error)
            raise
        except ValueError as error:
            raise UnusableTargetError(
                FailureReason.PROTOCOL,
                f"not a valid PostgreSQL response ({error}): check that the target is a PostgreSQL server",
            ) from error
        if password and not password_was_used:
            finding = replace(finding, degraded=(FailureReason.UNAUTHENTICATED, NO_PASSWORD))
        if self.check.tls.mode == "off":
            return finding
        return replace(finding, certificate=await self._certificates.validity(link, target))

    async def _query(
        self, link: SocketConnector, target: HostPort, phases: PhaseTimer, password: str
    ) -> tuple[list[str | None], bool]:
        """Log in and run `_QUERY`. Return the selected row, and whether the server requested the password."""
        async with loopback_forwarder(link, target, phases) as local:
            conn = pq.PGconn.connect_start(self._conninfo(target, local.port, password))
            login = PostgresLogin(conn)
            try:
                if conn.status == pq.ConnStatus.BAD:
                    raise UnusableTargetError(FailureReason.PROTOCOL, error_message(conn))
                with socket.socket(fileno=socket.dup(conn.socket)) as sock:
                    await local.join(sock.getsockname())
                    await log_in(login, sock, phases)
                    with phases("query"):
                        return await run_query(conn, sock, _QUERY), bool(conn.used_password)
            except psycopg.Error as error:
                raise login_error(str(error).strip()) from error
            finally:
                if login.is_computing:
                    self._abandoned[target] = login
                login.finish()

    def _conninfo(self, target: HostPort, port: int, password: str) -> bytes:
        check = self.check
        arguments: dict[str, Any] = {
            # libpq verifies the certificate against `host`, and connects to `hostaddr`.
            "host": check.tls.server_name or target.host,
            "hostaddr": "127.0.0.1",
            "port": port,
            "user": check.user,
            "dbname": check.database or _DEFAULT_DATABASE,
            "application_name": "gateway-check",
            "sslmode": {"off": "disable", "require": "require", "verify": "verify-full"}[check.tls.mode],
            "gssencmode": "disable",
            "require_auth": "scram-sha-256,none",
        }
        if password:
            arguments["password"] = password
        if check.tls.mode == "verify":
            arguments["sslrootcert"] = str(check.tls.ca_file) if check.tls.ca_file else _system_authorities()
        if check.tls.mode == "require" and password:
            arguments["channel_binding"] = "require"
        return make_conninfo("", **arguments).encode()

    def _evaluate(self, row: list[str | None], target: HostPort, now: float) -> ProbeResult:
        """Create a probe result from the row that `_QUERY` returned. `now` is the current monotonic time."""
        in_recovery, default_read_only, version, lag_text, streaming = row
        read_only = in_recovery == "t" or default_read_only == "t"
        lag = parse_lag(lag_text) if lag_text is not None else None
        if streaming == "t" and lag == 0:
            self._last_in_sync[target] = now
        elif streaming == "f" and target in self._last_in_sync:
            # The standby does not stream, so `lag` is the age of the last replayed transaction. If the primary was
            # idle, this age is larger than the actual lag. The actual lag also cannot exceed the time since the
            # standby was last in sync. Use the smaller value.
            lag = min(now - self._last_in_sync[target], math.inf if lag is None else lag)
        max_lag = self.check.max_lag
        unusable = None
        if in_recovery == "t" and max_lag is not None and (lag is None or lag > max_lag):
            behind = "an unknown time" if lag is None else f"{lag:g} s"
            unusable = (FailureReason.LAG, f"{behind} behind its primary (max_lag {max_lag:g} s)")
        return ProbeResult(
            role="replica" if in_recovery == "t" else "primary",
            read_only=read_only,
            facts={READ_ONLY: read_only, LAG: lag, VERSION: version},
            degraded=(FailureReason.LAG, "the replica is not streaming from its primary")
            if streaming == "f"
            else None,
            unusable=unusable,
        )


KIND = BackendKind(
    "postgres",
    EmptyOptions,
    SqlCheckOptions,
    lambda options, check: with_http_role(PostgresBackend(options, check), check.via_http),
    schemes=("postgres",),
    read_url=without_database,
    default_port=5432,
    aliases=("postgresql",),
    endpoints=endpoints,
    has_roles=lambda _: True,
    facts=DATABASE_FACTS,
    imports=ImportedBackendDefaults(note=IMPORT_NOTE, driver_names=("pgsql", "pg", "psycopg", "psycopg2", "asyncpg")),
    insecure_settings=insecure_settings,
    cancels=PostgresCancelProtocol(),
    verify=verify,
    credentials=credentials,
    init_keys=("user", "password", "database"),
)
