"""Searches for programs in threads, because a file system that hangs would block the event loop.

Each lookup has its own thread, and each command has at most one lookup at a time. The number of commands in the
configuration therefore limits the number of threads.
"""

import asyncio
import errno
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from gateway.errors import GatewayError
from gateway.processes.programs import Program, resolve_program
from gateway.relay.per_loop import per_loop


class LookupTimeoutError(Exception):
    """The file system did not answer a lookup in time. The message contains the path."""


@dataclass
class _Lookup:
    path: str
    """The path that the thread examines."""
    found: "Future[Program]" = field(default_factory=Future)

    def visit(self, path: str) -> None:
        self.path = path


@per_loop
def _in_flight(loop: asyncio.AbstractEventLoop) -> dict[tuple[str, ...], _Lookup]:
    """Return the lookups of the running loop that have no result yet."""
    del loop
    return {}


async def look_up_program(command: Sequence[str], timeout: float) -> Program:  # noqa: ASYNC109
    """Call `resolve_program` in a thread.

    Args:
        command: The program and its arguments.
        timeout: Time limit in seconds.

    Raises:
        GatewayError: See `resolve_program`.
        LookupTimeoutError: The file system does not answer within the time limit.
        OSError: A file was removed meanwhile, or no thread can be started.
    """
    key, in_flight = tuple(command), _in_flight()
    lookup = in_flight.get(key)
    if lookup is None or lookup.found.done():
        lookup = in_flight[key] = _start(key)
    try:
        async with asyncio.timeout(timeout):
            return await asyncio.wrap_future(lookup.found)
    except TimeoutError:
        raise LookupTimeoutError(f"{lookup.path}: the file system did not answer within {timeout:g} s") from None
    finally:
        if lookup.found.done() and in_flight.get(key) is lookup:
            del in_flight[key]


def _start(command: tuple[str, ...]) -> _Lookup:
    lookup = _Lookup(command[0])
    lookup.found.set_running_or_notify_cancel()  # it cannot be cancelled from now on
    # A daemon thread, because the gateway must not wait for the file system when it exits.
    thread = threading.Thread(target=_run, args=(command, lookup), name="program-lookup", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from None
    return lookup


def _run(command: tuple[str, ...], lookup: _Lookup) -> None:
    try:
        lookup.found.set_result(resolve_program(command, lookup.visit))
    except (OSError, GatewayError) as error:
        lookup.found.set_exception(error)
