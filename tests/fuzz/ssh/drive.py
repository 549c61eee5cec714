"""Executes a script on both SSH connections.

This module implements the steps of the clients, and the steps in which the gateway opens or closes channels and SSH
connections.
"""

import asyncio
from dataclasses import replace

from gateway.contracts.states import CloseReason
from tests.fuzz.ssh.ends import End
from tests.fuzz.ssh.peer_steps import PeerSteps
from tests.fuzz.ssh.script import Op, Step
from tests.fuzz.ssh.turns import Slot

_METHODS = {op: op.name.lower() for op in Op} | {Op.OPEN: "open_", Op.GLOBAL: "global_", Op.TURN: "more_turns"}


class Drive(PeerSteps):
    """Executes a script on both SSH connections. The docstring of `Turns` describes the arguments."""

    async def run(self) -> None:
        """Execute every step.

        Raises:
            OracleError: An invariant is violated.
        """
        for written in self.script.steps:
            step = written
            if self.current and step.op is not Op.OPEN and step.slot not in self.current:
                step = replace(step, slot=list(self.current)[step.slot % len(self.current)])
            waits = getattr(self, _METHODS[step.op])(step)
            if waits is not None:
                await waits
            if not step.hold:
                await self.turn()

    def _ends(self, step: Step) -> list[End]:
        return [end for side in self.sides if (end := self.end_of(side, step)) is not None]

    # Steps of clients.

    def read(self, step: Step) -> None:
        for end in self._ends(step):
            end.read(step.size or 1)

    def send(self, step: Step) -> None:
        for end in self._ends(step):
            end.send(min(step.size, 1 << 17))

    def half_close(self, step: Step) -> None:
        for end in self._ends(step):
            end.half_close()

    def reset(self, step: Step) -> None:
        for end in self._ends(step):
            end.leave(hard=True)

    def leave(self, step: Step) -> None:
        for end in self._ends(step):
            end.leave(hard=False)

    # Steps in which the gateway opens or closes channels and SSH connections.

    async def open_(self, step: Step) -> None:
        old = self.current.get(step.slot)
        if old is not None and not self._over(old):
            return
        slot = Slot(len(self.slots))
        for side in self.sides:
            side.ends.append(End(2 * slot.index, side.connection.pooled, unix=self.script.unix))
        self.current[step.slot] = slot
        self.slots.append(slot)
        await asyncio.sleep(0)  # Let the gateway request this channel before it requests other channels.

    def _over(self, slot: Slot) -> bool:
        """Return whether the SSH server refused the channel, or both ends closed it on each open connection.

        Return False if no connection is open.
        """
        lines = [side.ends[slot.index].line for side in self.sides if side.alive]
        closed = slot.close and all(line is not None and line.close for line in lines)
        return bool(lines) and (slot.refused or closed)

    def our_rekey(self, step: Step) -> None:
        del step
        for side in self.sides:
            if side.alive:
                side.connection.rekey()

    def give_up(self, step: Step) -> None:
        del step
        for side in self.sides:
            for slot, end in zip(self.slots, side.ends, strict=True):
                slot.given_up |= not end.joining.done()
            side.connection.pooled.fail_over_opens()

    def cancel(self, step: Step) -> None:
        for end in self._ends(step):
            self.current[step.slot].given_up |= not end.joining.done()
            end.joining.cancel()

    def abort(self, step: Step) -> None:
        for end in self._ends(step):
            if end.relay is not None:
                self.current[step.slot].aborted = True
                end.relay.abort(CloseReason.ABORTED)

    async def more_turns(self, step: Step) -> None:
        for _ in range(step.a % 4):
            await self.turn()

    def shut_down(self, step: Step) -> None:
        del step
        for side in self.sides:
            side.connection.pooled.start_closing()
