"""Calls libpq's login function in a thread, because a malicious server can make one call last for half an hour.

In SCRAM, the server chooses how many times the client hashes its password (RFC 5802, section 3). libpq accepts up to
2³¹ iterations, and cannot be interrupted during them. psycopg holds the GIL during the call, and so would block
the event loop. Therefore, this module calls libpq with ctypes, which releases the GIL.
"""

import asyncio
import contextlib
import ctypes
import os
import sys
import threading
from typing import Any

from psycopg import pq
from psycopg.pq.abc import PGconn

from gateway.contracts.phase_timer import PhaseTimer

_COMPUTING = "libpq is still hashing the password: the server may request too many SCRAM iterations"
_VERBOSE = 2
"""PQERRORS_VERBOSE of libpq-fe.h."""
_LOWEST_PRIORITY = 19
"""The nice value of the lowest priority (setpriority(2))."""


def _libpq(conn: PGconn) -> Any:
    """Return the library libpq that psycopg uses."""
    if pq.__impl__ == "python":
        return sys.modules["psycopg.pq._pq_ctypes"].pq
    # psycopg's extension module depends on libpq, so dlsym(3) also finds libpq's functions.
    return ctypes.CDLL(sys.modules[type(conn).__module__].__file__)


def _connect_poll(conn: PGconn) -> int:
    """Call `PQconnectPoll` without holding the GIL."""
    if pq.__impl__ == "python":  # psycopg's Python implementation already uses ctypes
        return conn.connect_poll()
    connect_poll = _libpq(conn).PQconnectPoll
    connect_poll.argtypes, connect_poll.restype = [ctypes.c_void_p], ctypes.c_int
    return int(connect_poll(conn.pgconn_ptr))  # type: ignore[attr-defined] # an attribute that type stubs omit


def _add_sqlstate(conn: PGconn) -> None:
    """Make libpq add the SQLSTATE to messages of the server about failed logins."""
    set_verbosity = _libpq(conn).PQsetErrorVerbosity
    set_verbosity.argtypes, set_verbosity.restype = [ctypes.c_void_p, ctypes.c_int], ctypes.c_int
    set_verbosity(conn.pgconn_ptr, _VERBOSE)  # type: ignore[attr-defined] # an attribute that type stubs omit


class PostgresLogin:
    """One login on a libpq connection. The caller calls `poll` until libpq reports success or failure.

    Args:
        conn: The connection from `connect_start`. `finish` closes the connection.
    """

    def __init__(self, conn: PGconn) -> None:
        _add_sqlstate(conn)
        self.conn = conn
        self._polling: asyncio.Future[pq.PollingStatus] | None = None

    @property
    def is_computing(self) -> bool:
        """Whether a thread is inside `PQconnectPoll`. Until the call returns, nothing else may use the connection."""
        return self._polling is not None and not self._polling.done()

    async def poll(self, phases: PhaseTimer) -> pq.PollingStatus:
        """Call `PQconnectPoll` in a thread, and return its result.

        If the caller is cancelled, the thread continues with the lowest priority until libpq returns.

        Args:
            phases: If the check times out during this call, `timeout_hint` contains the likely cause.

        Raises:
            psycopg.Error: The connection is closed.
        """
        loop = asyncio.get_running_loop()
        polling = self._polling = loop.create_future()

        def run() -> None:
            status: pq.PollingStatus | None = None
            failure: Exception | None = None
            try:
                status = pq.PollingStatus(_connect_poll(self.conn))
            except Exception as error:  # noqa: BLE001 - `poll` raises the exception
                failure = error
            with contextlib.suppress(RuntimeError):  # raised if the event loop is closed
                loop.call_soon_threadsafe(_set_outcome, polling, status, failure)

        # Use a daemon thread, because it does not delay the exit of the process.
        thread = threading.Thread(target=run, name="postgres-check", daemon=True)
        thread.start()
        hint, phases.timeout_hint = phases.timeout_hint, _COMPUTING
        try:
            result: pq.PollingStatus = await asyncio.shield(polling)
        except asyncio.CancelledError:
            if thread.native_id is not None:
                with contextlib.suppress(OSError):  # the thread has exited, or setpriority(2) is not permitted
                    os.setpriority(os.PRIO_PROCESS, thread.native_id, _LOWEST_PRIORITY)
            raise
        phases.timeout_hint = hint
        return result

    def finish(self) -> None:
        """Close the connection.

        If a thread is inside a libpq call, close the connection when that call returns. Otherwise, close it
        immediately.
        """
        if self._polling is None or self._polling.done():
            self.conn.finish()
        else:
            self._polling.add_done_callback(self._finish)

    def _finish(self, polling: "asyncio.Future[pq.PollingStatus]") -> None:
        polling.exception()  # mark the exception as retrieved, because no task awaits it
        self.conn.finish()


def _set_outcome(
    polling: "asyncio.Future[pq.PollingStatus]", status: pq.PollingStatus | None, failure: Exception | None
) -> None:
    if failure is not None:
        polling.set_exception(failure)
    elif status is not None:
        polling.set_result(status)
