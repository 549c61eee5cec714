"""`kind: postgres`: PostgreSQL, asked with a full login and a query, on libpq's non-blocking interface.

The only login is SCRAM (RFC 5802), in which the server proves that it knows the password too. Over TLS it is bound to
the server's certificate (RFC 5929, tls-server-end-point), so that an attacker in between cannot relay it. Where that
certificate is not verified, this is required; where it is, it is used if the server offers it, as a pooler may not.

psycopg's own connection waits for the server when it is cancelled: eleven seconds against a silent one. Here
the loop drives libpq itself, and `finish()` ends everything at once, unless libpq is computing.
"""

import asyncio
import math
import re
import socket
import struct
import time
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo
from psycopg.pq.abc import PGconn

from gateway.backends import BackendKind, NoOptions
from gateway.backends.common.database import DatabaseCheck, credentials, seconds, verify
from gateway.backends.common.loopback import doorway
from gateway.backends.common.postgres_cancel import PostgresCancels
from gateway.backends.common.postgres_certificate import ServerCertificates
from gateway.backends.common.postgres_errors import NO_PASSWORD, refusal
from gateway.backends.common.postgres_login import Login
from gateway.backends.common.secrets import Passwords
from gateway.contracts import Endpoint, Finding, Link, Phases
from gateway.errors import ProbeError, Reason

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

_SQLSTATES = {
    "53300": Reason.TOO_MANY_CONNECTIONS,
    "57P03": Reason.STARTING,
    "57P01": Reason.STARTING,
    "57P02": Reason.STARTING,
    "28P01": Reason.AUTH,
    "28000": Reason.AUTH,
    "42501": Reason.AUTH,
}
"""PostgreSQL manual, appendix A."""
_MOST_BYTES = 64 * 1024
"""Of all that a server sends in one login and its query: a usual check reads less than 8 KiB, with certificates."""
_ENDLESS = (
    "the last login still computes: the server asks for too many SCRAM iterations (on an honest one, set"
    " scram_iterations and the user's password again)"
)
_RECEIVED = struct.Struct("=128xQ")
"""`tcpi_bytes_received` in `struct tcp_info` (linux/tcp.h)."""
_STATUS_PHASE = {
    pq.ConnStatus.STARTED: "greeting",
    pq.ConnStatus.MADE: "greeting",
    pq.ConnStatus.SSL_STARTUP: "tls",
    pq.ConnStatus.AWAITING_RESPONSE: "auth",
    pq.ConnStatus.AUTH_OK: "auth",
}


@dataclass(frozen=True)
class PostgresBackend:
    """See `gateway.contracts.Backend`.

    Args:
        options: None of its own.
        check: How to log in.
    """

    options: NoOptions
    check: DatabaseCheck
    _in_sync: dict[Endpoint, float] = field(default_factory=dict, compare=False)
    """When each standby was last seen to have all that its primary had, in monotonic seconds."""
    _passwords: Passwords = field(default_factory=Passwords, compare=False)
    _certificates: ServerCertificates = field(default_factory=ServerCertificates, compare=False)
    _logins: dict[Endpoint, Login] = field(default_factory=dict, compare=False)
    """The last of each target: one may still compute."""

    async def probe(self, link: Link, target: Endpoint, phases: Phases) -> Finding:
        """Log in, and ask for role, version and lag."""
        if self.check.user is None:
            return Finding(unprobed="no check.user is set")
        if target in self._logins and self._logins[target].computes:
            raise ProbeError(Reason.PROTOCOL, _ENDLESS)
        password = await self._passwords.of(self.check, target, phases)
        try:
            row, asked = await self._ask(link, target, phases, password)
            finding = self._judge(row, target, time.monotonic())
        except ProbeError as error:
            self._passwords.tried(self.check, target, error)
            raise
        except ValueError as error:
            raise ProbeError(Reason.PROTOCOL, f"not a PostgreSQL's answer: {error}") from error
        if password and not asked:
            finding = replace(finding, degraded=(Reason.UNAUTHENTICATED, NO_PASSWORD))
        if self.check.tls.mode == "off":
            return finding
        return replace(finding, certificate=await self._certificates.validity(link, target))

    async def _ask(
        self, link: Link, target: Endpoint, phases: Phases, password: str
    ) -> tuple[list[str | None], bool]:
        """Give the answer, and whether the server asked for the password."""
        async with doorway(link, target, phases) as door:
            conn = pq.PGconn.connect_start(self._conninfo(target, door.port, password))
            login = self._logins[target] = Login(conn)
            try:
                if conn.status == pq.ConnStatus.BAD:
                    raise ProbeError(Reason.PROTOCOL, _text(conn))
                with socket.socket(fileno=socket.dup(conn.socket)) as ours:
                    admitted = door.admit(ours.getsockname())
                    await admitted
                    await _connect(login, ours, phases)
                    with phases("query"):
                        return await _query(conn, ours, _QUERY), bool(conn.used_password)
            except psycopg.Error as error:
                raise refusal(str(error).strip()) from error
            finally:
                login.finish()

    def _conninfo(self, target: Endpoint, port: int, password: str) -> bytes:
        check = self.check
        arguments: dict[str, Any] = {
            # libpq verifies the certificate against `host`, and connects to `hostaddr`.
            "host": check.tls.server_name or target.host,
            "hostaddr": "127.0.0.1",
            "port": port,
            "user": check.user,
            "dbname": check.database or check.user,
            "application_name": "gateway-check",
            "sslmode": {"off": "disable", "require": "require", "verify": "verify-full"}[check.tls.mode],
            "gssencmode": "disable",
            "require_auth": "scram-sha-256,none",
            "options": "-c statement_timeout=30000",
        }
        if password:
            arguments["password"] = password
        if check.tls.mode == "verify":
            arguments["sslrootcert"] = str(check.tls.ca_file) if check.tls.ca_file else "system"
        if check.tls.mode == "require" and password:
            arguments["channel_binding"] = "require"
        return make_conninfo("", **arguments).encode()

    def _judge(self, row: list[str | None], target: Endpoint, now: float) -> Finding:
        in_recovery, read_only, version, lag_text, streaming = row
        lag = seconds(lag_text) if lag_text is not None else None
        if streaming == "t" and lag == 0:
            self._in_sync[target] = now
        elif streaming == "f" and target in self._in_sync:
            # Of a primary that has written nothing for an hour, its standby is not an hour behind.
            lag = min(now - self._in_sync[target], math.inf if lag is None else lag)
        max_lag = self.check.max_lag
        unusable = None
        if in_recovery == "t" and max_lag is not None and (lag is None or lag > max_lag):
            told = "an unknown time" if lag is None else f"{lag:g} s"
            unusable = (Reason.LAG, f"{told} behind its primary (max_lag {max_lag:g} s)")
        return Finding(
            role="replica" if in_recovery == "t" else "primary",
            read_only=in_recovery == "t" or read_only == "t",
            lag=lag,
            version=version,
            degraded=(Reason.LAG, "the replica is not streaming from its primary") if streaming == "f" else None,
            unusable=unusable,
        )


async def _ready(sock: socket.socket, *, write: bool) -> None:
    """Wait until libpq can go on with its connection, of which `sock` is a duplicate.

    Raises:
        ProbeError: The server has sent more than any check needs.
    """
    await _event(sock.fileno(), write=write)
    (received,) = _RECEIVED.unpack(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RECEIVED.size))
    if received > _MOST_BYTES:
        raise ProbeError(Reason.PROTOCOL, f"the server sends more than {_MOST_BYTES >> 10} KiB for one check")


async def _event(fd: int, *, write: bool) -> None:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not done.done():
            done.set_result(None)

    if write:
        loop.add_writer(fd, wake)
    else:
        loop.add_reader(fd, wake)
    try:
        await done
    finally:
        if write:
            loop.remove_writer(fd)
        else:
            loop.remove_reader(fd)


async def _connect(login: Login, sock: socket.socket, phases: Phases) -> None:
    # libpq's rule: wait for writing first, then for whatever the last poll said (manual, 34.1).
    conn, waits_to_write = login.conn, True
    while True:
        started = time.perf_counter()
        phase = _STATUS_PHASE.get(pq.ConnStatus(conn.status), "auth")
        await _ready(sock, write=waits_to_write)
        polled = await login.step(phases)
        phases.add(phase, time.perf_counter() - started)
        if polled == pq.PollingStatus.OK:
            conn.nonblocking = 1
            return
        if polled == pq.PollingStatus.FAILED:
            raise refusal(_text(conn))
        waits_to_write = polled == pq.PollingStatus.WRITING


async def _query(conn: PGconn, sock: socket.socket, sql: bytes) -> list[str | None]:
    conn.send_query(sql)
    while conn.flush():
        await _ready(sock, write=True)
    row: list[str | None] = []
    while True:
        while conn.is_busy():
            await _ready(sock, write=False)
            conn.consume_input()
        result = conn.get_result()
        if result is None:
            return row
        if result.status != pq.ExecStatus.TUPLES_OK:
            state = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
            text = result.error_message.decode(errors="replace").strip()
            raise ProbeError(_SQLSTATES.get(state, Reason.QUERY), text)
        values = [result.get_value(0, column) for column in range(result.nfields)]
        row = [value.decode() if value is not None else None for value in values]


def _text(conn: PGconn) -> str:
    # The address is our own doorway's; what matters is what follows it.
    text = conn.error_message.decode(errors="replace").strip()
    return re.sub(r"^connection to server at .*?, port \d+ failed: ", "", text)


KIND = BackendKind(
    "postgres",
    NoOptions,
    DatabaseCheck,
    PostgresBackend,
    scheme="postgres",
    default_port=5432,
    has_roles=True,
    cancels=PostgresCancels(),
    verify=verify,
    credentials=credentials,
)
