"""`kind: mysql`: MySQL and MariaDB, asked with a full login and a query.

A server counts every connection that breaks off during its handshake, and at `max_connect_errors` refuses the
whole host: through a bastion, that is every client. So nothing here ever connects just to close again.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import pymysql
from pymysql.cursors import DictCursor

from gateway.backends import BackendKind, NoOptions
from gateway.backends.common.database import DatabaseCheck, credentials, verify
from gateway.backends.common.secrets import Passwords
from gateway.backends.common.tls import context
from gateway.certificates import of_der
from gateway.contracts import Endpoint, Finding, Link, Phases, Validity
from gateway.errors import ProbeError, ReachError, Reason

_THREADS = ThreadPoolExecutor(max_workers=1024, thread_name_prefix="mysql-check")
"""PyMySQL blocks. A pool of our own, since the default one resolves names too; threads start when needed."""
_MAX_BLOCK = 3600.0
"""Seconds that a thread may block: its socket is shut down long before."""
_PATIENCE = 120.0
"""Seconds for a login, beyond its deadline too."""

_REASONS = {
    1040: Reason.TOO_MANY_CONNECTIONS,
    1203: Reason.TOO_MANY_CONNECTIONS,
    1226: Reason.TOO_MANY_CONNECTIONS,
    1129: Reason.HOST_BLOCKED,
    1130: Reason.AUTH,
    1044: Reason.AUTH,
    1045: Reason.AUTH,
    1698: Reason.AUTH,
    1251: Reason.AUTH,
    1047: Reason.STARTING,
    1053: Reason.STARTING,
    2026: Reason.TLS,
    2002: Reason.RESET,
    2003: Reason.RESET,
    2006: Reason.RESET,
    2013: Reason.RESET,
}
"""Server and client error numbers, from the MySQL and MariaDB manuals; any other is a failed query."""


@dataclass(frozen=True)
class MysqlBackend:
    """See `gateway.contracts.Backend`.

    Args:
        options: None of its own.
        check: How to log in.
    """

    options: NoOptions
    check: DatabaseCheck
    _under_way: dict[Endpoint, asyncio.Future[Finding]] = field(default_factory=dict, compare=False)
    _passwords: Passwords = field(default_factory=Passwords, compare=False)

    async def probe(self, link: Link, target: Endpoint, phases: Phases) -> Finding:
        """Log in, and ask for role, version and lag.

        A login that is not done when the deadline comes goes on behind it: to break it off would count against us,
        and a server that is frozen for a minute would find a dozen. Until it is done, further probes wait for it.
        """
        if self.check.user is None:
            return Finding(unprobed="no check.user is set, and a MySQL must not be probed without a login")
        under_way = self._under_way.get(target)
        if under_way is not None:
            return await asyncio.shield(under_way)
        # Before anything is dialled: what breaks off after that, the server counts.
        password = await self._passwords.of(self.check, target, phases)
        connection = self._connection(target, phases, password)
        sock = await link.socket(target, phases)
        # A duplicate, since TLS takes the descriptor out of the first object.
        handle = sock.dup()
        loop = asyncio.get_running_loop()
        asking = loop.run_in_executor(_THREADS, self._ask, connection, sock, phases)
        self._under_way[target] = asking
        patience = loop.call_later(_PATIENCE, _hang_up, handle)

        def done(asked: asyncio.Future[Finding]) -> None:
            self._under_way.pop(target, None)
            patience.cancel()
            handle.close()
            self._passwords.tried(self.check, target, None if asked.cancelled() else asked.exception())
            _forget(asked, sock)

        asking.add_done_callback(done)
        return await asyncio.shield(asking)

    def _connection(self, target: Endpoint, phases: Phases, password: str) -> "_TimedConnection":
        check = self.check
        tls = context(check.tls)
        return _TimedConnection(
            phases,
            host=check.tls.server_name or target.host,
            user=check.user,
            password=password,
            database=check.database,
            defer_connect=True,
            autocommit=True,
            read_timeout=_MAX_BLOCK,
            write_timeout=_MAX_BLOCK,
            ssl=tls,
            ssl_disabled=tls is None,
            auth_plugin_map={"mysql_clear_password": _RefuseCleartext} if tls is None else None,
            program_name="gateway-check",
        )

    def _ask(self, connection: "_TimedConnection", sock: socket.socket, phases: Phases) -> Finding:
        try:
            connection.connect(sock)
            with phases("query"):
                found = _ask_role(connection, self.check.max_lag)
            return replace(found, certificate=connection.certificate)
        except ssl.SSLError as error:
            raise ProbeError(Reason.TLS, str(error)) from error
        except pymysql.err.MySQLError as error:
            raise _explain(error) from error
        except (OSError, ValueError, LookupError, AssertionError, TypeError, AttributeError, struct.error) as error:
            raise ProbeError(Reason.PROTOCOL, f"not a MySQL answer: {error}") from error
        finally:
            with contextlib.suppress(pymysql.err.MySQLError, OSError):
                connection.close()


def _hang_up(sock: socket.socket) -> None:
    """Free the thread, whatever it waits for."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _forget(done: asyncio.Future[Finding], sock: socket.socket) -> None:
    """The thread has ended: nobody reads its socket or, after a deadline, its result any more."""
    sock.close()
    if not done.cancelled():
        done.exception()


class _TimedConnection(pymysql.connections.Connection):
    """PyMySQL's connection, with its phases timed; the two methods are PyMySQL 1.2's."""

    def __init__(self, phases: Phases, **arguments: Any) -> None:
        self._phases = phases
        self.certificate: Validity | None = None
        super().__init__(cursorclass=DictCursor, **arguments)

    def _get_server_information(self) -> None:
        with self._phases("greeting"):
            super()._get_server_information()  # type: ignore[misc]

    def _request_authentication(self) -> None:
        context: ssl.SSLContext | None = getattr(self, "ctx", None)
        if context is None or not self.ssl:
            with self._phases("auth"):
                super()._request_authentication()  # type: ignore[misc]
            return
        tls = _TimedContext(context)
        self.ctx = tls
        started = time.perf_counter()
        try:
            super()._request_authentication()  # type: ignore[misc]
        finally:
            self.certificate = tls.certificate
            self._phases.add("tls", tls.seconds)
            self._phases.add("auth", time.perf_counter() - started - tls.seconds)


class _TimedContext:
    """An SSL context as far as PyMySQL uses one, that times the handshake."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self.seconds = 0.0
        self.certificate: Validity | None = None

    def wrap_socket(self, sock: socket.socket, server_hostname: str) -> ssl.SSLSocket:
        started = time.perf_counter()
        try:
            made = self._context.wrap_socket(sock, server_hostname=server_hostname)
            self.certificate = of_der(made.getpeercert(binary_form=True) or b"")
            return made
        finally:
            self.seconds = time.perf_counter() - started


class _RefuseCleartext:
    """Stands in for the plugin that would send the password in the clear."""

    def __init__(self, connection: Any) -> None:
        del connection

    def authenticate(self, packet: Any) -> None:
        del packet
        raise ProbeError(Reason.AUTH, "the server wants the password in the clear: set check.tls.mode")


def _explain(error: pymysql.err.MySQLError) -> ReachError:
    original = getattr(error, "original_exception", None)
    if isinstance(original, ssl.SSLError):
        return ProbeError(Reason.TLS, str(original))
    number = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    text = str(error.args[1]) if len(error.args) > 1 else str(error)
    if not number:  # PyMySQL itself could not make sense of what it read
        return ProbeError(Reason.PROTOCOL, str(error))
    return ProbeError(_REASONS.get(number, Reason.QUERY), f"{text} (error {number})")


def _ask_role(connection: _TimedConnection, max_lag: float | None) -> Finding:
    with connection.cursor(DictCursor) as cursor:
        cursor.execute(
            "SELECT @@global.read_only AS read_only, @@server_id AS server_id, @@version AS version, "
            "@@global.max_connect_errors AS max_connect_errors"
        )
        row: dict[str, Any] = cursor.fetchone() or {}
        lag, is_replica, trouble = _replication(cursor)
    version = str(row.get("version"))
    read_only = bool(row.get("read_only"))
    unusable = degraded = None
    if trouble and (read_only or max_lag is not None):
        unusable = trouble
    elif trouble:
        # It takes writes, and may be one of two that replicate from each other: it does not fall with the other.
        degraded = f"{trouble}; one that was promoted needs RESET REPLICA ALL"
    elif is_replica and max_lag is not None and lag is not None and lag > max_lag:
        unusable = f"{lag:g} s behind its source (max_lag {max_lag:g} s)"
    return Finding(
        role="replica" if is_replica or read_only else "primary",
        read_only=read_only,
        lag=lag,
        version=version,
        identity=str(row.get("server_id")),
        abort_limit=int(row["max_connect_errors"]) if row.get("max_connect_errors") else None,
        degraded=(Reason.LAG, degraded) if degraded else None,
        unusable=(Reason.LAG, unusable) if unusable else None,
    )


def _replication(cursor: DictCursor) -> tuple[float | None, bool, str | None]:
    """Lag in seconds, whether it is a replica, and what is wrong with its replication."""
    rows: dict[str, Any] | None = None
    attempts: tuple[Callable[[], object], ...] = (
        lambda: cursor.execute("SHOW REPLICA STATUS"),
        lambda: cursor.execute("SHOW SLAVE STATUS"),
    )
    for attempt in attempts:
        try:
            attempt()
            rows = cursor.fetchone()
            break
        except pymysql.err.ProgrammingError:  # servers before 8.0.22 and MariaDB before 10.5.1
            continue
        except (pymysql.err.OperationalError, pymysql.err.InternalError):
            return None, False, None  # the check user may not ask (REPLICATION CLIENT); read_only still tells
    if not rows:
        return None, False, None
    seconds = rows.get("Seconds_Behind_Source", rows.get("Seconds_Behind_Master"))
    if seconds is None:
        error = rows.get("Last_SQL_Error") or rows.get("Last_IO_Error") or "replication is stopped"
        return None, True, str(error)
    return float(seconds), True, None


KIND = BackendKind(
    "mysql",
    NoOptions,
    DatabaseCheck,
    MysqlBackend,
    scheme="mysql",
    default_port=3306,
    has_roles=True,
    abort_limit=100,
    verify=verify,
    credentials=credentials,
)
