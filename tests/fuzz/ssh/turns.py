"""Sends packets on both SSH connections, runs the event loop until it is idle, and then checks the invariants."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.fuzz.ssh import adapter
from tests.fuzz.ssh.ends import End
from tests.fuzz.ssh.peer import Line, Peer
from tests.fuzz.ssh.script import Script, Step
from tests.fuzz.ssh.seal import OracleError

_VAIN = 1000
"""If the event loop transfers no data in this number of iterations, but is not idle, the fuzzer reports an error."""
_OVERHEAD = 4096
"""The buffers of a channel are allowed to use twice the size of the buffered data, plus this number of bytes."""


@dataclass
class Side:
    """An SSH connection, its simulated SSH server, and its channels. `ends` has the same order as `Turns.slots`."""

    connection: adapter.Connection
    peer: Peer
    ends: list[End] = field(default_factory=list)
    stalled: bool = False
    lost: bool = False

    @property
    def alive(self) -> bool:
        """Whether the SSH connection is open."""
        return not (self.lost or self.connection.dead)


@dataclass
class Slot:
    """The state of a channel that is the same on both SSH connections. `End` contains the state that can differ.

    Args:
        index: Position in `Turns.slots`.
        number: The channel number that the gateway chose; None until the gateway requests the channel.
        open: Whether the SSH server confirmed the channel.
        refused: Whether the SSH server refused the channel.
        eof: Whether the SSH server sent CHANNEL_EOF.
        close: Whether the SSH server sent CHANNEL_CLOSE.
        aborted: Whether the script aborted the channel's relay.
        given_up: Whether the script made the gateway abandon the request for the channel.
    """

    index: int
    number: int | None = None
    open: bool = False
    refused: bool = False
    eof: bool = False
    close: bool = False
    aborted: bool = False
    given_up: bool = False


class Turns:
    """The state of the two SSH connections and of their channels while a script runs.

    Args:
        script: The script to execute.
        idle: Function that returns whether the event loop has no work.
    """

    def __init__(self, script: Script, idle: Callable[[], bool]) -> None:
        self.script = script
        self.sides: list[Side] = []
        self.slots: list[Slot] = []
        self.current: dict[int, Slot] = {}
        """The newest channel for each value of `Step.slot`."""
        self.illegal: list[str] = []
        """The violations of the SSH protocol by the SSH server."""
        self._idle = idle

    async def turn(self, most: int | None = None) -> None:
        """Send the SSH server's encrypted packets, and run the event loop until it is idle.

        Args:
            most: Maximum number of bytes to send on each connection; None for all.

        Raises:
            OracleError: An invariant is violated, or the event loop never becomes idle.
        """
        for side in self.sides:
            self._flush(side, most)
        vain = 0
        while vain < _VAIN:
            await asyncio.sleep(0)
            moved = [self._exchange(side) for side in self.sides]
            if not any(moved) and self._idle():
                break
            vain = 0 if any(moved) else vain + 1
        else:
            raise OracleError("the event loop never becomes idle")
        for side in self.sides:
            self._check(side)

    def end_of(self, side: Side, step: Step) -> End | None:
        """Return the step's channel on one connection; None if the channel does not exist."""
        slot = self.current.get(step.slot)
        return side.ends[slot.index] if slot is not None else None

    def _exchange(self, side: Side) -> bool:
        """Send and receive the pending bytes of one connection. Return whether any bytes were transferred."""
        pushed = side.connection.push()
        if side.stalled or side.lost or not (data := side.connection.take()):
            return pushed
        before = len(side.peer.asked)
        side.peer.receive(data)
        for line in side.peer.asked[before:]:
            self._asked(side, line)
        if side.peer.answers:
            side.peer.answers = False
            self._flush(side, None)
        return True

    @staticmethod
    def _flush(side: Side, most: int | None) -> None:
        out = side.peer.out
        data = bytes(out[:most])
        del out[: len(data)]
        if data and not side.lost:
            side.connection.feed(data)

    def _asked(self, side: Side, line: Line) -> None:
        for slot, end in zip(self.slots, side.ends, strict=True):
            if end.line is None:
                end.line = line
                if slot.number not in (None, line.number):
                    raise OracleError(f"one connection numbers a channel {line.number}, the other {slot.number}")
                slot.number = line.number
                return
        raise OracleError("the gateway opens a channel without a client")

    def _check(self, side: Side) -> None:
        """Check the data from the clients of one connection, and the gateway's buffers for these clients."""
        total = 0
        for end in side.ends:
            end.check_upload()
            if end.relay is None or end.line is None:
                continue
            line, held, costs = end.line, adapter.holds(end.relay), adapter.costs(end.relay)
            total += held
            if costs > 2 * held + _OVERHEAD:
                raise OracleError(f"{side.connection.name}: {held} buffered bytes use {costs} bytes of memory")
            if not self.illegal and side.alive and not line.close and held + line.window > line.size:
                raise OracleError(
                    f"{side.connection.name}: {held} buffered bytes and {line.window} granted exceed {line.size}"
                )
        allowed = adapter.budget_taken() + adapter.least() * sum(end.ending is None for end in side.ends)
        if total > allowed:
            raise OracleError(
                f"{side.connection.name}: {total} buffered bytes, but the budgets account for {allowed}"
            )
