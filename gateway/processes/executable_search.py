"""Uses threads to search for programs, because a file system that hangs would block the event loop.

Each lookup has its own thread. A command has at most one lookup at a time, so a file system that hangs blocks at most
one thread for each command.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from gateway.daemon_thread import run_in_daemon_thread
from gateway.processes.permission_checked_program import PermissionCheckedProgram, resolve_program
from gateway.relay.per_loop_instances import per_loop


class ExecutableSearchTimeoutError(Exception):
    """The file system did not respond to a lookup within the time limit. The message contains the path."""


@dataclass
class _ExaminedFile:
    """The path that the lookup thread is examining, for the error message after a timeout."""

    path: str

    def visit(self, path: str) -> None:
        self.path = path


@dataclass(frozen=True)
class _PendingExecutableSearch:
    examined: _ExaminedFile
    found: "Future[PermissionCheckedProgram]"


@per_loop
def _in_flight(loop: asyncio.AbstractEventLoop) -> dict[tuple[str, ...], _PendingExecutableSearch]:
    del loop
    return {}


async def look_up_program(command: Sequence[str], timeout: float) -> PermissionCheckedProgram:  # noqa: ASYNC109
    """Call `resolve_program` in a thread, with a time limit.

    Args:
        command: The program and its arguments.
        timeout: Time limit in seconds.

    Raises:
        GatewayError: See `resolve_program`.
        ExecutableSearchTimeoutError: The file system does not respond within the time limit.
        OSError: A file was removed during the lookup, or no thread can be started.
    """
    key, in_flight = tuple(command), _in_flight()
    lookup = in_flight.get(key)
    if lookup is None or lookup.found.done():
        lookup = in_flight[key] = _start(key)
    try:
        async with asyncio.timeout(timeout):
            return await asyncio.wrap_future(lookup.found)
    except TimeoutError:
        raise ExecutableSearchTimeoutError(
            f"{lookup.examined.path}: the file system did not respond within {timeout:g} s"
        ) from None
    finally:
        if lookup.found.done() and in_flight.get(key) is lookup:
            del in_flight[key]


def _start(command: tuple[str, ...]) -> _PendingExecutableSearch:
    path = _ExaminedFile(command[0])
    return _PendingExecutableSearch(
        path, run_in_daemon_thread(lambda: resolve_program(command, path.visit), "program-lookup")
    )
