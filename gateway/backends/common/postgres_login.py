"""The steps of a login with libpq, each in a thread: the server decides how long one takes.

SCRAM has the client hash its password as often as the server says (RFC 5802, section 3), and libpq accepts up to 2³¹
times, which is half an hour. Nothing can stop it meanwhile. psycopg's own call keeps the interpreter's lock;
ctypes releases it, so that the loop goes on.
"""

import asyncio
import contextlib
import ctypes
import os
import sys
import threading

from psycopg import pq
from psycopg.pq.abc import PGconn

from gateway.contracts import Phases

_COMPUTING = "libpq computes: does the server ask for too many SCRAM iterations?"
_LOWEST_PRIORITY = 19
"""Of setpriority(2)."""


def _poll(conn: PGconn) -> int:
    if pq.__impl__ == "python":  # psycopg's own call is by ctypes
        return conn.connect_poll()
    # The library that psycopg's extension module is linked with (dlsym(3)).
    connect_poll = ctypes.CDLL(sys.modules[type(conn).__module__].__file__).PQconnectPoll
    connect_poll.argtypes, connect_poll.restype = [ctypes.c_void_p], ctypes.c_int
    return int(connect_poll(conn.pgconn_ptr))  # type: ignore[attr-defined] # the protocol leaves it out


class Login:
    """A connection of libpq that logs in.

    Args:
        conn: The connection, as `connect_start` gives it; `finish` closes it.
    """

    def __init__(self, conn: PGconn) -> None:
        self.conn = conn
        self._step: asyncio.Future[pq.PollingStatus] | None = None

    @property
    def computes(self) -> bool:
        """Whether a step still runs; nobody else may use the connection meanwhile."""
        return self._step is not None and not self._step.done()

    async def step(self, phases: Phases) -> pq.PollingStatus:
        """Give what `PQconnectPoll` says.

        A step that is cancelled runs on, with the lowest priority, until libpq has finished it.

        Args:
            phases: Where to say what a deadline interrupts.

        Raises:
            psycopg.Error: The connection is closed.
        """
        loop = asyncio.get_running_loop()
        step = self._step = loop.create_future()

        def run() -> None:
            said: pq.PollingStatus | None = None
            trouble: Exception | None = None
            try:
                said = pq.PollingStatus(_poll(self.conn))
            except Exception as error:  # noqa: BLE001 - it is raised where it is awaited
                trouble = error
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(_settle, step, said, trouble)

        # A daemon, which the process does not wait for at its end.
        thread = threading.Thread(target=run, name="postgres-check", daemon=True)
        thread.start()
        hint, phases.timeout_hint = phases.timeout_hint, _COMPUTING
        try:
            polled: pq.PollingStatus = await asyncio.shield(step)
        except asyncio.CancelledError:
            if thread.native_id is not None:
                with contextlib.suppress(OSError):  # it has ended, or may not
                    os.setpriority(os.PRIO_PROCESS, thread.native_id, _LOWEST_PRIORITY)
            raise
        phases.timeout_hint = hint
        return polled

    def finish(self) -> None:
        """Close the connection, as soon as no step runs."""
        if self._step is None or self._step.done():
            self.conn.finish()
        else:
            self._step.add_done_callback(self._finish)

    def _finish(self, step: "asyncio.Future[pq.PollingStatus]") -> None:
        step.exception()  # nobody awaits it any more
        self.conn.finish()


def _settle(
    step: "asyncio.Future[pq.PollingStatus]", said: pq.PollingStatus | None, trouble: Exception | None
) -> None:
    if trouble is not None:
        step.set_exception(trouble)
    elif said is not None:
        step.set_result(said)
