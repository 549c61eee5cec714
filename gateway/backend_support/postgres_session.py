"""Logs in to a PostgreSQL server and runs a query, with libpq's non-blocking interface."""

import asyncio
import re
import socket
import struct

from psycopg import pq
from psycopg.pq.abc import PGconn

from gateway.backend_support.postgres_errors import login_error
from gateway.backend_support.postgres_login import PostgresLogin
from gateway.contracts.phase_timer import PhaseTimer
from gateway.errors import FailureReason, UnusableTargetError

_SQLSTATES = {
    "53300": FailureReason.TOO_MANY_CONNECTIONS,
    "57P03": FailureReason.STARTING,
    "57P01": FailureReason.STARTING,
    "57P02": FailureReason.STARTING,
    "28P01": FailureReason.AUTH,
    "28000": FailureReason.AUTH,
    "42501": FailureReason.AUTH,
}
"""Maps SQLSTATE codes to reasons (PostgreSQL manual, appendix A)."""
_MAX_BYTES = 64 * 1024
"""Maximum number of bytes to accept from a server in one check. A normal check receives less than 8 KiB."""
_RECEIVED = struct.Struct("=128xQ")
"""Reads the field `tcpi_bytes_received` of `struct tcp_info` (linux/tcp.h)."""
_STATUS_PHASE = {
    pq.ConnStatus.STARTED: "greeting",
    pq.ConnStatus.MADE: "greeting",
    pq.ConnStatus.SSL_STARTUP: "tls",
    pq.ConnStatus.AWAITING_RESPONSE: "auth",
    pq.ConnStatus.AUTH_OK: "auth",
}


async def _wait_ready(sock: socket.socket, *, write: bool) -> None:
    """Wait until libpq's connection is readable or writable.

    Args:
        sock: A duplicate of the connection's socket.
        write: True to wait until the socket is writable; False to wait until it is readable.

    Raises:
        UnusableTargetError: The server has sent more than `_MAX_BYTES`.
    """
    await _wait_event(sock.fileno(), write=write)
    (received,) = _RECEIVED.unpack(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RECEIVED.size))
    if received > _MAX_BYTES:
        detail = f"the server sent more than {_MAX_BYTES >> 10} KiB during one check"
        raise UnusableTargetError(FailureReason.PROTOCOL, detail)


async def _wait_event(fd: int, *, write: bool) -> None:
    loop = asyncio.get_running_loop()
    event: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not event.done():
            event.set_result(None)

    if write:
        loop.add_writer(fd, wake)
    else:
        loop.add_reader(fd, wake)
    try:
        await event
    finally:
        if write:
            loop.remove_writer(fd)
        else:
            loop.remove_reader(fd)


async def log_in(login: PostgresLogin, sock: socket.socket, phases: PhaseTimer) -> None:
    """Complete a login that `connect_start` has begun.

    Args:
        login: The login.
        sock: A duplicate of the connection's socket.
        phases: Receives the duration of each phase of the login.

    Raises:
        UnusableTargetError: The login failed, or the server has sent too much data.
        psycopg.Error: The connection is closed.
    """
    # First wait until the socket is writable. After each poll, wait for the event that the poll returned (PostgreSQL
    # manual, `PQconnectPoll`).
    conn, write = login.conn, True
    while True:
        with phases(_STATUS_PHASE.get(pq.ConnStatus(conn.status), "auth")):
            await _wait_ready(sock, write=write)
            status = await login.poll(phases)
        if status == pq.PollingStatus.OK:
            conn.nonblocking = 1
            return
        if status == pq.PollingStatus.FAILED:
            raise login_error(error_message(conn))
        write = status == pq.PollingStatus.WRITING


async def run_query(conn: PGconn, sock: socket.socket, sql: bytes) -> list[str | None]:
    """Run a query, and return the values of the first row as strings.

    Args:
        conn: The connection.
        sock: A duplicate of the connection's socket.
        sql: The query.

    Raises:
        UnusableTargetError: The query failed, or the server has sent too much data.
        psycopg.Error: The connection failed.
    """
    conn.send_query(sql)
    while conn.flush():
        await _wait_ready(sock, write=True)
    row: list[str | None] = []
    while True:
        while conn.is_busy():
            await _wait_ready(sock, write=False)
            conn.consume_input()
        result = conn.get_result()
        if result is None:
            return row
        if result.status != pq.ExecStatus.TUPLES_OK:
            state = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
            text = result.error_message.decode(errors="replace").strip()
            raise UnusableTargetError(_SQLSTATES.get(state, FailureReason.QUERY), text)
        values = [result.get_value(0, column) for column in range(result.nfields)]
        row = [value.decode() if value is not None else None for value in values]


def error_message(conn: PGconn) -> str:
    """Return libpq's error message without the loopback address, which the operator would not recognize."""
    text = conn.error_message.decode(errors="replace").strip()
    return re.sub(r"^connection to server at .*?, port \d+ failed: ", "", text)
