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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import pymysql
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from gateway.backends import BackendKind, NoOptions
from gateway.backends.common import tls
from gateway.backends.common.aborted_logins import BrokenLogins
from gateway.backends.common.database import DatabaseCheck, credentials, verify
from gateway.backends.common.mysql_login import MysqlLogin
from gateway.backends.common.mysql_status import look
from gateway.backends.common.secrets import Passwords
from gateway.contracts import Endpoint, Finding, Link, Phases
from gateway.errors import ProbeError, ReachError, Reason

_MAX_BLOCK = 3600.0
"""Seconds that a thread may block: its socket is shut down long before."""
_ENDING = 1.0
"""Seconds for a thread to end whose socket was shut down; it needs none, but the machine may be busy."""
_NONSENSE = (
    OSError, ValueError, LookupError, AssertionError, TypeError, AttributeError, RuntimeError, ArithmeticError,
    struct.error,
)  # fmt: skip
"""What PyMySQL raises at bytes that are no answer, such as a request for a local file."""
_ABORT_LIMIT = 100
"""`max_connect_errors` as it is by default."""

_REASONS = {
    1040: Reason.TOO_MANY_CONNECTIONS,
    1203: Reason.TOO_MANY_CONNECTIONS,
    1226: Reason.TOO_MANY_CONNECTIONS,
    1129: Reason.HOST_BLOCKED,
    1130: Reason.HOST_BLOCKED,
    1044: Reason.AUTH,
    1045: Reason.AUTH,
    1698: Reason.AUTH,
    1251: Reason.AUTH,
    1820: Reason.AUTH,
    1862: Reason.AUTH,
    3118: Reason.AUTH,
    4151: Reason.AUTH,
    1047: Reason.STARTING,
    1053: Reason.STARTING,
    2026: Reason.TLS,
    2002: Reason.RESET,
    2003: Reason.RESET,
    2006: Reason.RESET,
    2013: Reason.RESET,
}
"""Server and client error numbers, from the MySQL and MariaDB manuals; any other is a failed query.

1130 refuses every user from an address, so that clients do not get in either.
"""


@dataclass(frozen=True)
class MysqlCheck(DatabaseCheck):
    """How a MySQL is checked.

    Args:
        server_public_key_file: The server's RSA key in PEM, as its status variable
            `Caching_sha2_password_rsa_public_key` shows it. A server that asks for the password without TLS gets it
            encrypted for this key; without the key, it gets none.
    """

    server_public_key_file: Path | None = None


@dataclass(frozen=True)
class MysqlBackend:
    """See `gateway.contracts.Backend`.

    Args:
        options: None of its own.
        check: How to log in.
    """

    options: NoOptions
    check: MysqlCheck
    _broken: dict[Endpoint, BrokenLogins] = field(default_factory=dict, compare=False)
    _passwords: Passwords = field(default_factory=Passwords, compare=False)
    _files: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="mysql-files"), compare=False
    )
    """Reads the files of a login: their file system may hang, which then holds one thread."""

    async def probe(self, link: Link, target: Endpoint, phases: Phases) -> Finding:
        """Log in, and ask for role, version and lag; at a deadline, everything ends at once.

        A login that breaks off so counts in the server, and for us. After many in a row, the next ones wait.
        """
        if self.check.user is None:
            return Finding(unprobed="no check.user is set, and a MySQL must not be probed without a login")
        broken = self._broken.setdefault(target, BrokenLogins(_ABORT_LIMIT))
        pause = broken.pause(time.monotonic())
        if pause:
            raise ReachError(
                Reason.TIMEOUT,
                f"the last {broken.count} logins were not answered in time, and the server counts them: the next one"
                f" in {pause:.0f} s",
            )
        # Before anything is dialled: what breaks off after that, the server counts.
        password = await self._passwords.of(self.check, target, phases)
        loop = asyncio.get_running_loop()
        login = await loop.run_in_executor(self._files, self._login, target, phases, password)
        sock = await link.socket(target, phases)
        # A duplicate, since TLS takes the descriptor out of the first object.
        handle = sock.dup()
        thread = ThreadPoolExecutor(1, thread_name_prefix="mysql-check")  # PyMySQL blocks
        asking = loop.run_in_executor(thread, self._ask, login, sock, phases)
        thread.shutdown(wait=False)
        asking.add_done_callback(lambda asked: _close(asked, sock, handle))
        asking.add_done_callback(
            lambda asked: self._passwords.tried(self.check, target, None if asked.cancelled() else asked.exception())
        )
        try:
            finding = await asyncio.shield(asking)
        except asyncio.CancelledError:
            with contextlib.suppress(OSError):  # it may be closed already
                handle.shutdown(socket.SHUT_RDWR)  # frees the thread, whatever it waits for
            if not login.logged_in:
                phases.given_up()
                broken.broke_off(time.monotonic())
            await asyncio.wait({asking}, timeout=_ENDING)
            raise
        finally:
            if login.logged_in:
                broken.logged_in()
        broken.limit = finding.abort_limit or broken.limit
        return finding

    def _login(self, target: Endpoint, phases: Phases, password: str) -> MysqlLogin:
        check = self.check
        context = tls.context(check.tls)
        return MysqlLogin(
            phases,
            verified=check.tls.mode == "verify",
            server_public_key=_public_key(check.server_public_key_file) if context is None else None,
            host=check.tls.server_name or target.host,
            user=check.user,
            password=password.encode(),  # PyMySQL encodes text in Latin-1
            database=check.database,
            defer_connect=True,
            autocommit=True,
            read_timeout=_MAX_BLOCK,
            write_timeout=_MAX_BLOCK,
            ssl=context,
            ssl_disabled=context is None,
            program_name="gateway-check",
        )

    def _ask(self, login: MysqlLogin, sock: socket.socket, phases: Phases) -> Finding:
        try:
            login.connect(sock)
            with phases("query"):
                has_password = self.check.password is not None or bool(self.check.password_command)
                found = look(login, self.check.max_lag, password=has_password)
            return replace(found, certificate=login.certificate)
        except ssl.SSLError as error:
            raise ProbeError(Reason.TLS, str(error)) from error
        except pymysql.err.MySQLError as error:
            raise _explain(error) from error
        except _NONSENSE as error:
            raise ProbeError(Reason.PROTOCOL, f"not a MySQL answer: {error}") from error
        finally:
            with contextlib.suppress(pymysql.err.MySQLError, OSError):
                login.close()


def _close(asked: "asyncio.Future[Finding]", *sockets: socket.socket) -> None:
    """The thread has ended: its sockets are not used any more, and after a deadline neither is its result."""
    for each in sockets:
        each.close()
    if not asked.cancelled():
        asked.exception()


def _public_key(file: Path | None) -> bytes | None:
    """What `file` holds, an RSA key in PEM.

    Raises:
        ReachError: It cannot be read, or holds something else.
    """
    if file is None:
        return None
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ReachError(Reason.AUTH, f"check.server_public_key_file: {file}: {error.strerror}") from error
    try:
        key = load_pem_public_key(data)
    except ValueError as error:
        raise ReachError(Reason.AUTH, f"check.server_public_key_file: {file}: no public key in PEM") from error
    if not isinstance(key, RSAPublicKey):
        raise ReachError(Reason.AUTH, f"check.server_public_key_file: {file}: no RSA key")
    return data


def _verify(options: NoOptions, check: MysqlCheck) -> None:
    """Raises `GatewayError` when a file or program cannot be used, or never is; for `BackendKind.verify`."""
    verify(options, check)
    _public_key(check.server_public_key_file)
    if check.server_public_key_file is not None and check.tls.mode != "off":
        raise ReachError(
            Reason.AUTH,
            "check.server_public_key_file has no use with TLS, where a server takes the password itself: remove it,"
            " and set check.tls.mode: verify",
        )


def _explain(error: pymysql.err.MySQLError) -> ReachError:
    original = getattr(error, "original_exception", None)
    if isinstance(original, ssl.SSLError):
        return ProbeError(Reason.TLS, str(original))
    number = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    text = str(error.args[1]) if len(error.args) > 1 else str(error)
    if not number:  # PyMySQL itself could not make sense of what it read
        return ProbeError(Reason.PROTOCOL, str(error))
    return ProbeError(_REASONS.get(number, Reason.QUERY), f"{text} (error {number})")


KIND = BackendKind(
    "mysql",
    NoOptions,
    MysqlCheck,
    MysqlBackend,
    scheme="mysql",
    default_port=3306,
    has_roles=True,
    abort_limit=_ABORT_LIMIT,
    verify=_verify,
    credentials=credentials,
)
