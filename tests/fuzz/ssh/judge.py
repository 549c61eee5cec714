"""Checks the results of a fuzz script, a generated sequence of operations on two SSH connections.

`judge_open` and `compare` check the connections when both are idle. `judge_closed` checks them when both are closed.
"""

import asyncio
import time
from collections.abc import Callable

from asyncssh.packet import UInt32

from gateway.contracts.states import CloseReason
from tests.fuzz.ssh import adapter, peer
from tests.fuzz.ssh.drive import Drive
from tests.fuzz.ssh.ends import End
from tests.fuzz.ssh.peer import to_channel
from tests.fuzz.ssh.seal import OracleError
from tests.fuzz.ssh.turns import Side, Slot

_PATIENCE = 2.0
"""Maximum time in seconds to wait for missing data. If a receive buffer was full, TCP can wait 0.2 s before it
sends more data."""
_PLENTY = 1 << 20
_CLOSED_BY_BOTH = frozenset(
    {"window", "packets of no bytes", "confirmation", "refusal", "adjust", "request", "close"}
)
"""Violations of the protocol after which both data planes close the SSH connection."""


async def settle(drive: Drive) -> None:
    """Run both SSH connections until nothing changes.

    Meanwhile, the clients read all data. The SSH server sends window adjustments, and confirms closed channels.

    Raises:
        OracleError: See `Turns.turn`.
    """
    for side in drive.sides:
        side.stalled = False

    def act() -> None:
        _grant(drive)
        _confirm_closes(drive)

    def waits() -> bool:
        return any(" of " in missing for side in drive.sides for missing in _missing(drive, side))

    await _until_quiet(drive, act, waits)


async def receive_ends(drive: Drive) -> None:
    """After the SSH connections have closed, let the clients receive the remaining data and the end of each stream.

    Raises:
        OracleError: See `Turns.turn`.
    """
    ends = [end for side in drive.sides for end in side.ends]

    def waits() -> bool:
        return any(end.relay is not None and not (end.gone or end.end) for end in ends)

    await _until_quiet(drive, lambda: None, waits)


async def _until_quiet(drive: Drive, act: Callable[[], None], waits: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        before = None
        while before != (before := _progress(drive)):
            act()
            await drive.turn()
            for end in (end for side in drive.sides for end in side.ends):
                while end.read(1 << 16):
                    pass
        if not waits() or time.monotonic() > deadline:
            return
        await asyncio.sleep(0.01)


def _progress(drive: Drive) -> list[object]:
    found: list[object] = []
    for side in drive.sides:
        for end in side.ends:
            line = end.line
            found += [end.got, end.end]
            found += [] if line is None else [len(line.got), line.eof, line.close, line.window, line.may_send]
    return found


def _grant(drive: Drive) -> None:
    for side in drive.sides:
        for slot, end in zip(drive.slots, side.ends, strict=True):
            line = end.line
            wants = line is not None and slot.open and not (slot.close or line.eof)
            if side.alive and line is not None and wants and line.may_send < _PLENTY:
                line.may_send += _PLENTY
                side.peer.say(to_channel(peer.ADJUST, line.number, UInt32(_PLENTY)))


def _confirm_closes(drive: Drive) -> None:
    """Send CHANNEL_CLOSE for each channel that the gateway has closed on both connections.

    If the gateway has closed a channel on one connection only, the SSH server does not close the channel yet, because
    it sends the same packets on both connections.
    """
    alive = [side for side in drive.sides if side.alive]
    for slot in drive.slots:
        lines = [side.ends[slot.index].line for side in alive]
        if lines and slot.open and not slot.close and all(line is not None and line.close for line in lines):
            drive.end_stream(slot)
            slot.close = True
            for side in alive:
                side.peer.say(to_channel(peer.CLOSE, slot.number or 0))


def _missing(drive: Drive, side: Side) -> list[str]:
    """Return a message for each wrong or missing result on one connection, such as missing data.

    After an illegal step, or if the connection is closed, return an empty list.
    """
    if drive.illegal or not side.alive or side.connection.pooled.closing:
        return []
    return [
        f"{side.connection.name}, channel {slot.index}: {what}"
        for slot, end in zip(drive.slots, side.ends, strict=True)
        for what in _missing_of(slot, end)
    ]


def _missing_of(slot: Slot, end: End) -> list[str]:
    line = end.line
    if not slot.open or line is None or slot.aborted:
        return []
    if end.relay is None:
        return [] if line.close else ["the client has left, but the channel is not closed"]
    ended = slot.eof or slot.close
    download = [
        (end.got < (end.complete if ended else end.fed), f"the client got {end.got} of {end.fed} bytes"),
        (ended and end.end != "clean", f"the client saw {end.end or 'no end'} rather than a clean end"),
        (end.end == "reset" and not ended, "the client is reset without a reason"),
        (not ended and line.window < line.size // 2, f"{line.window} of {line.size} bytes are granted"),
    ]
    upload = [
        (len(line.got) < end.sent, f"the peer got {len(line.got)} of {end.sent} bytes"),
        (end.shut and len(line.got) == end.sent and not line.eof, "the peer got no CHANNEL_EOF"),
    ]
    over = slot.close or end.hard or (slot.eof and end.shut)
    judged = [*([] if end.gone else download), *([] if end.gone or slot.close else upload)]
    judged.append((over and not line.close, "the channel is not closed"))
    return [what for wrong, what in judged if wrong]


def judge_open(drive: Drive) -> None:
    """Check the invariants of connections that are open.

    Raises:
        OracleError: An invariant is violated.
    """
    for side in drive.sides:
        if found := _missing(drive, side):
            raise OracleError("; ".join(found))
        over = side.lost or side.connection.pooled.closing
        if side.connection.dead and not (drive.illegal or over):
            detail = side.peer.goodbye
            raise OracleError(f"{side.connection.name}: the connection is closed without a reason\n{detail}")


def compare(drive: Drive) -> None:
    """Check that each channel has the same results on both SSH connections: with the native engine and with asyncssh.

    In one iteration of the event loop, two events can be processed in either order. Therefore, some results are
    allowed to differ: the results of abandoned channel requests, of aborted channels, of clients that closed or reset
    their sockets, and of uploads after the SSH server closed the channel. If an SSH connection is closed, its results
    are not compared.

    If the SSH server violated the protocol, this function only checks that either both SSH connections or none is
    closed. After a violation that is not in `_CLOSED_BY_BOTH`, it omits this check, because the data planes are
    allowed to differ. For example, the native engine ignores a second CHANNEL_EOF, empty data after CHANNEL_EOF,
    extended data, and bytes after the end of a message.

    Raises:
        OracleError: The results differ.
    """
    alive = [side.alive for side in drive.sides]
    if drive.illegal:
        if any(alive) and not all(alive) and _CLOSED_BY_BOTH.issuperset(drive.illegal):
            raise OracleError(f"only one connection is closed\n{drive.illegal}: {alive}")
        return
    if not all(alive):
        return
    for slot in drive.slots:
        outcomes = {side.connection.name: _outcome(slot, side.ends[slot.index]) for side in drive.sides}
        if any(outcome != outcomes["asyncssh"] for outcome in outcomes.values()) and not (
            slot.given_up or slot.aborted
        ):
            raise OracleError(f"the data planes differ\nchannel {slot.index}: {outcomes}")


def _outcome(slot: Slot, end: End) -> dict[str, object]:
    found: dict[str, object] = {"open": end.relay is not None, "failed": end.failed is not None}
    if not end.gone:
        found |= {"ending": end.ending, "end": end.end, "download": end.fed - end.got}
        if end.line is not None and not slot.close:
            found |= {"close": end.line.close, "eof": end.line.eof, "upload": end.sent - len(end.line.got)}
    return found


def judge_closed(drive: Drive) -> None:
    """Check the invariants of connections that are closed.

    Raises:
        OracleError: An invariant is violated.
        Exception: `PooledConnection.join` raised an unexpected error; this function raises the same error.
    """
    for side in drive.sides:
        for slot, end in zip(drive.slots, side.ends, strict=True):
            if what := _wrong(slot, end):
                raise OracleError(f"{side.connection.name}, channel {slot.index}: {what}")
        if side.connection.pooled.load or not side.connection.forgotten:
            raise OracleError(f"{side.connection.name}: a closed connection has channels")
    if adapter.budget_taken():
        raise OracleError(f"{adapter.budget_taken()} bytes are not returned to the budgets")


def _wrong(slot: Slot, end: End) -> str | None:
    if not end.joining.done():
        return "the connection is closed, and a client waits for it"
    if not end.joining.cancelled() and (error := end.joining.exception()) is not None:
        raise error
    if end.relay is None:
        return None
    rules = {
        "the connection is closed, and the relay has not ended": end.ending is None,
        "a clean end before the peer's": end.end == "clean" and not (slot.eof or slot.close),
        f"a clean end after {end.got} of {end.complete} bytes": end.end == "clean" and end.got < end.complete,
        "the relay finished, and the client saw a reset": end.ending is CloseReason.FINISHED and end.end == "reset",
        "the relay has ended, and the client sees nothing": not (end.gone or end.end),
    }
    return next((what for what, broken in rules.items() if broken), None)
