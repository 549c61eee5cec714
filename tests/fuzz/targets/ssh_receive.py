"""Fuzz the code that processes received SSH packets, and compare the two data planes; see docs/testing.md."""

import asyncio
import logging
import select

from gateway.relay.event_loop import RelayEventLoop
from tests.fuzz.ssh import adapter, script
from tests.fuzz.ssh.drive import Drive
from tests.fuzz.ssh.judge import compare, judge_closed, judge_open, receive_ends, settle
from tests.fuzz.ssh.peer import Peer
from tests.fuzz.ssh.seal import Keys, OracleError
from tests.fuzz.ssh.turns import Side

LONGEST, UNIT, HEAD = script.LONGEST, script.RECORD, script.HEADER
mutate = script.mutate
_GOODBYE = b"\x01\0\0\0\x0b" + bytes(8)


def describe(data: bytes) -> str:
    """Return a description of the script in `data`."""
    return str(script.decode(data))


def check(data: bytes) -> None:
    """Execute the script in `data` on an SSH connection of each data plane.

    Raises:
        OracleError: An invariant is violated.
    """
    chosen = script.decode(data)
    problems: list[str] = []
    errors = _Errors(problems)
    log = logging.getLogger("gateway")
    log.addHandler(errors)
    try:
        with adapter.small_windows(chosen.window), asyncio.Runner(loop_factory=RelayEventLoop) as runner:
            loop = runner.get_loop()
            loop.set_exception_handler(lambda _, context: problems.append(f"in the loop's handler\n{context}"))
            runner.run(_run(chosen, problems))
    finally:
        log.removeHandler(errors)
    if problems:
        raise OracleError(problems[0])


async def _run(chosen: script.Script, problems: list[str]) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, RelayEventLoop)
    adapter.run_engine_inside(loop)
    watcher = select.poll()
    watcher.register(loop.relays.fileno(), select.POLLIN)

    def idle() -> bool:
        return not (loop._ready or loop.relays._at_end or watcher.poll(0))  # type: ignore[attr-defined]

    drive = Drive(chosen, idle)
    sides = drive.sides
    try:
        for name in adapter.NAMES:
            connection = await adapter.connect(
                name, wired=chosen.wired, keys=Keys(), narrow=chosen.narrow, problems=problems
            )
            sides.append(Side(connection, Peer(Keys(), connection.conn._client_version)))
        await drive.run()
        await settle(drive)
        if problems:
            raise OracleError(problems[0])
        judge_open(drive)
        compare(drive)
        await _end(drive)
        judge_closed(drive)
        for end in (end for side in sides for end in side.ends):
            end.leave(hard=True)
        await drive.turn()
        if adapter.registered(loop):
            raise OracleError("descriptors are still registered")
    finally:
        for side in sides:
            for end in side.ends:
                end.close()
            side.connection.hang_up()
            side.connection.conn.abort()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def _end(drive: Drive) -> None:
    """Close the SSH connections, and then close the SSH server's sockets.

    `Script.end` selects what closes the connections first: 1 for `PooledConnection.close`, 2 for
    `PooledConnection.abort`, 3 for a DISCONNECT packet from the SSH server, and 0 for nothing.
    """
    for side in drive.sides:
        if drive.script.end == 1:
            await side.connection.pooled.close()
        elif drive.script.end == 2:
            side.connection.pooled.abort("the script ends")
        elif drive.script.end == 3 and side.alive:
            side.peer.say(_GOODBYE, now=True)
    await drive.turn()
    for side in drive.sides:
        side.connection.hang_up()
        side.lost = True
    await drive.turn()
    await receive_ends(drive)


class _Errors(logging.Handler):
    """Collects log records of level ERROR. The fuzzer reports them even if the gateway has handled the error."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._problems = problems

    def emit(self, record: logging.LogRecord) -> None:
        self._problems.append(logging.Formatter("%(message)s").format(record))
