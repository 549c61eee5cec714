"""Defines `kind: mysql` for MySQL and MariaDB. The probe logs in and runs a query.

A server counts each connection that is closed during the handshake. If the count reaches `max_connect_errors`, the
server blocks the source address. All clients behind a bastion have the same source address. Therefore, the probe
closes a connection during the handshake only if the probe times out, is cancelled, or fails, for example in TLS. The
probe counts each such connection.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pymysql
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from gateway.backend_support import tls_options
from gateway.backend_support.login_options import insecure_settings
from gateway.backend_support.mysql_errors import is_error_packet, mysql_error, protocol_error
from gateway.backend_support.mysql_login import RestrictedMysqlConnection
from gateway.backend_support.mysql_status import query_status
from gateway.backend_support.password_source import PasswordSource
from gateway.backend_support.probe_login_limiter import ProbeLoginLimiter
from gateway.backend_support.role_from_http import with_http_role
from gateway.backend_support.sql_check_options import (
    DATABASE_FACTS,
    IMPORT_NOTE,
    SqlCheckOptions,
    credentials,
    endpoints,
    verify,
    without_database,
)
from gateway.backends import BackendKind, EmptyOptions, ImportedBackendDefaults
from gateway.contracts.backend import ProbeResult
from gateway.contracts.config_types import HostPort
from gateway.contracts.link import SocketConnector
from gateway.contracts.login_limiter import LoginLimiter
from gateway.contracts.phase_timer import PhaseTimer
from gateway.errors import FailureReason, TargetPathError, UnusableTargetError
from gateway.secret_files import unreadable

_IO_TIMEOUT = 3600.0
"""Time limit of one blocking PyMySQL operation, in seconds. Only a safeguard: the check cancels the query much
earlier, by shutting the socket down."""
_THREAD_TIMEOUT = 1.0
"""Maximum seconds to wait until a thread exits after its socket was shut down. Most threads exit immediately, but a
busy machine can delay the exit."""
_PROTOCOL_ERRORS = (
    OSError, ValueError, LookupError, AssertionError, TypeError, AttributeError, RuntimeError, ArithmeticError,
    struct.error,
)  # fmt: skip
"""Exceptions that PyMySQL raises if a server violates the protocol, for example with a request for a local file."""
_ABORT_LIMIT = 100
"""The default of `max_connect_errors` in MySQL and MariaDB."""


@dataclass(frozen=True)
class MysqlCheckOptions(SqlCheckOptions):
    """The `check:` keys of a MySQL backend.

    Args:
        server_public_key_file: The server's public RSA key in PEM, as the status variable
            `Caching_sha2_password_rsa_public_key` shows it. If the connection does not use TLS and the server
            requests the password, the gateway encrypts the password with this key. Without the key, the gateway does
            not send the password.
    """

    server_public_key_file: Path | None = None


class MysqlBackend:
    """A MySQL or MariaDB backend, whose probe runs a query; implements `gateway.contracts.backend.Backend`.

    Args:
        options: An empty object, because this kind has no options.
        check: The check of the backend.
    """

    def __init__(self, options: EmptyOptions, check: MysqlCheckOptions) -> None:
        self.options = options
        self.check = check
        self._passwords = PasswordSource()
        self._file_thread = ThreadPoolExecutor(1, thread_name_prefix="mysql-files")
        """Executor with one thread, which reads the files that logins need. If a file system hangs, only this thread
        blocks."""

    async def probe(self, link: SocketConnector, target: HostPort, phases: PhaseTimer) -> ProbeResult:
        """Log in, and query role, version and replication lag; see `gateway.contracts.backend.Backend`.

        After too many aborted logins, `phases.logins` sets a pause, during which each probe fails without a login.
        """
        if self.check.user is None:
            return ProbeResult(unprobed="check.user is not set, and MySQL must not be probed without a login")
        logins = phases.logins or ProbeLoginLimiter(_ABORT_LIMIT)
        async with logins.attempt():
            return await self._log_in(link, target, phases, logins)

    async def _log_in(
        self, link: SocketConnector, target: HostPort, phases: PhaseTimer, logins: LoginLimiter
    ) -> ProbeResult:
        pause = logins.pause(time.monotonic())
        if pause:
            raise TargetPathError(
                FailureReason.TIMEOUT,
                f"the last {logins.aborted} logins were aborted, and too many aborted logins make the server block"
                f" the gateway (max_connect_errors): the next login is in {pause:.0f} s",
            )
        # Get the password before connecting: if a step fails after the connection opens, the server counts an aborted
        # login.
        password = await self._passwords.get(self.check, target, phases)
        loop = asyncio.get_running_loop()
        login = await loop.run_in_executor(self._file_thread, self._create_login, target, phases, password)
        sock = await link.socket(target, phases)
        # Keep a duplicate of the socket, to shut the connection down if the check is cancelled. The original socket
        # object does not suffice, because TLS detaches the descriptor from it.
        handle = sock.dup()
        # Run the query in a separate thread, because PyMySQL's calls block.
        thread = ThreadPoolExecutor(1, thread_name_prefix="mysql-check")
        query = loop.run_in_executor(thread, self._query, login, sock, phases)
        thread.shutdown(wait=False)
        query.add_done_callback(lambda done: _close(done, sock, handle))
        query.add_done_callback(
            lambda done: self._passwords.report(self.check, target, None if done.cancelled() else done.exception())
        )
        try:
            return await asyncio.shield(query)
        except asyncio.CancelledError:
            with contextlib.suppress(OSError):  # the socket may already be closed
                handle.shutdown(socket.SHUT_RDWR)  # unblocks PyMySQL, so that the query's thread exits
            if login.login_started_at is None:
                phases.on_abandoned()
                logins.record_abort(time.monotonic())
            await asyncio.wait({query}, timeout=_THREAD_TIMEOUT)
            raise
        except UnusableTargetError:
            if login.is_aborted:
                phases.on_abandoned()
                logins.record_abort(time.monotonic())
            raise
        finally:
            if login.login_started_at is not None:
                logins.record_success(login.login_started_at)

    def _create_login(self, target: HostPort, phases: PhaseTimer, password: str) -> RestrictedMysqlConnection:
        """Return a connection object that is not connected yet. Blocks while it reads the TLS files or public key."""
        check = self.check
        context = tls_options.context(check.tls)
        return RestrictedMysqlConnection(
            phases,
            verified=check.tls.mode == "verify",
            server_public_key=_read_public_key(check.server_public_key_file) if context is None else None,
            host=check.tls.server_name or target.host,
            user=check.user,
            password=password.encode(),  # pass bytes in UTF-8, because PyMySQL encodes a str as Latin-1
            database=check.database,
            defer_connect=True,
            autocommit=True,
            read_timeout=_IO_TIMEOUT,
            write_timeout=_IO_TIMEOUT,
            ssl=context,
            ssl_disabled=context is None,
            program_name="gateway-check",
        )

    def _query(self, login: RestrictedMysqlConnection, sock: socket.socket, phases: PhaseTimer) -> ProbeResult:
        """Log in and query the status. Blocks until the query ends or the connection is shut down."""
        try:
            login.connect(sock)
            with phases("query"):
                found = query_status(login, self.check.max_lag, has_password=self.check.has_password)
            return replace(found, certificate=login.certificate, login_started_at=login.login_started_at)
        except ssl.SSLError as error:
            login.record_failure()
            raise UnusableTargetError(FailureReason.TLS, tls_options.describe_tls_error(error)) from error
        except pymysql.err.MySQLError as error:
            if not is_error_packet(error):
                login.record_failure()
            raise mysql_error(error, uses_tls=self.check.tls.mode != "off") from error
        except _PROTOCOL_ERRORS as error:
            login.record_failure()
            raise protocol_error(error) from error
        finally:
            with contextlib.suppress(pymysql.err.MySQLError, OSError):
                login.close()


def _close(query: "asyncio.Future[ProbeResult]", *sockets: socket.socket) -> None:
    """Close the sockets of a finished query.

    If the query failed, also retrieve its exception. Otherwise, asyncio would log a warning.
    """
    for each in sockets:
        each.close()
    if not query.cancelled():
        query.exception()


def _read_public_key(file: Path | None) -> bytes | None:
    """Read a public RSA key in PEM.

    Raises:
        TargetPathError: The file cannot be read, or does not contain a public RSA key.
    """
    if file is None:
        return None
    try:
        data = file.read_bytes()
    except OSError as error:
        raise TargetPathError(
            FailureReason.AUTH, f"check.server_public_key_file: {file}: {unreadable(file, error)}"
        ) from error
    try:
        key = load_pem_public_key(data)
    except ValueError as error:
        detail = f"check.server_public_key_file: {file}: does not contain a public key in PEM format"
        raise TargetPathError(FailureReason.AUTH, detail) from error
    if not isinstance(key, RSAPublicKey):
        raise TargetPathError(FailureReason.AUTH, f"check.server_public_key_file: {file}: is not an RSA key")
    return data


def _verify(options: EmptyOptions, check: MysqlCheckOptions) -> None:
    verify(options, check)
    _read_public_key(check.server_public_key_file)
    if check.server_public_key_file is not None and check.tls.mode != "off":
        raise TargetPathError(
            FailureReason.AUTH,
            "check.server_public_key_file is not used with TLS, which already encrypts the password: remove"
            " check.server_public_key_file, and set check.tls.mode: verify",
        )


KIND = BackendKind(
    "mysql",
    EmptyOptions,
    MysqlCheckOptions,
    lambda options, check: with_http_role(MysqlBackend(options, check), check.via_http),
    schemes=("mysql",),
    read_url=without_database,
    default_port=3306,
    aliases=("mariadb", "percona"),
    endpoints=endpoints,
    has_roles=lambda _: True,
    facts=DATABASE_FACTS,
    imports=ImportedBackendDefaults(
        other_ports=(33060,), note=IMPORT_NOTE, driver_names=("mysqli", "pymysql", "mysql2"), is_guess=True
    ),
    insecure_settings=insecure_settings,
    abort_limit=_ABORT_LIMIT,
    verify=_verify,
    credentials=credentials,
    init_keys=("user", "password", "database"),
)
