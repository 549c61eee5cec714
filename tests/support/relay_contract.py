"""Checks that a relay follows five rules for one connection, in any order of events at the client and the far side.

A plan is a list of steps, such as "the client sends 1000 bytes". A `Trial` executes a plan on one connection, whose
ends are the client and the far side. The `Trial` checks these rules:

1. An end receives exactly the bytes that the other end sent, in the same order. Only the last bytes can be missing.
2. An end that sees a clean end of stream has received all data. An end that cannot receive all data sees a reset.
3. An end sees a reset only if the link broke, one of the ends was reset, or an end has closed before it received all
   data. If the backend has sent its whole response, the client receives the whole response before a reset. If data of
   the client was lost, and the relay can detect the loss, the client sees a reset.
4. An end that reads receives all data and the end of stream, even if the other direction is blocked.
5. The relay ends when both ends have finished, and reports the right close reason. The relay counts all bytes, passes
   all data to its tap, and releases all its resources.

This module uses relays only through the interfaces in `gateway.contracts`. The modules `far_sides.py`,
`ssh_far_sides.py` and `stdio_far_side.py` create the relays.
"""

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.contracts.states import CloseReason
from gateway.errors import TargetPathError
from tests.support.ends import BACK, FORTH, End, Seen
from tests.support.plans import Setup, Step
from tests.support.relay_adapter import RelayAdapter

PATIENCE = 20.0
"""The number of seconds without progress after which a trial fails."""
_PATIENCE_AFTERWARDS = 3.0
"""The value that replaces `PATIENCE` after the first failure, so that Hypothesis minimizes the failed plan faster."""
_POLL = 0.01
"""The interval in which a trial polls a condition, in seconds. Not every change of a condition wakes the trial."""


class BrokenContractError(AssertionError):
    """Reports that a relay broke one of the rules of this module."""


@dataclass
class Coverage:
    """Counts the plans and steps that were executed, and the different states that the connections reached."""

    examples: int = 0
    steps: int = 0
    seconds: float = 0.0
    states: set[tuple[object, ...]] = field(default_factory=set)
    patience: float = PATIENCE

    def __str__(self) -> str:
        a_second = self.seconds or 1.0
        return (
            f"{self.examples} examples, {self.steps} steps, {len(self.states)} states, {self.seconds:.1f} s "
            f"({self.examples / a_second:.0f} examples/s, {self.steps / a_second:.0f} steps/s)"
        )


class _Witness:
    """A tap that compares the data that it receives with the expected data. See `gateway.connection_tap.Tap`.

    Args:
        enough: The number of bytes after which the tap needs no more bytes.
    """

    tracker = None

    def __init__(self, enough: int) -> None:
        self.forth_seen = self.back_seen = 0
        self.complaint = ""
        self._enough = enough

    @property
    def finished(self) -> bool:
        return self.forth_seen + self.back_seen >= self._enough

    def on_request(self, data: memoryview, now: float) -> None:
        self._compare(data, FORTH.at(self.forth_seen, len(data)))
        self.forth_seen += len(data)

    def on_response(self, data: memoryview, now: float) -> None:
        self._compare(data, BACK.at(self.back_seen, len(data)))
        self.back_seen += len(data)

    def _compare(self, data: memoryview, expected: memoryview) -> None:
        if data != expected:
            self.complaint = f"the tap saw {len(data)} wrong bytes"


class Trial:
    """Executes a plan on one connection, and checks that the relay follows the rules.

    Args:
        adapter: The adapter that creates the connection.
        setup: The initial state of the connection.
        coverage: The counters that the trial updates.
    """

    def __init__(self, adapter: RelayAdapter, setup: Setup, coverage: Coverage) -> None:
        self._adapter, self._setup, self._coverage = adapter, setup, coverage
        self._happened = asyncio.Event()
        self._tap = _Witness(setup.tap) if setup.tap else None
        self._aborted = self._killed_late = False
        self.killed = False

    async def run(self, plan: list[Step]) -> None:
        """Execute the steps of a plan; then let both ends read all data and close.

        Raises:
            BrokenContractError: The relay broke a rule; the message names the rule.
        """
        before = _descriptors()
        try:
            async with asyncio.timeout(self._coverage.patience):
                joined = await self._adapter.join(self._setup, self._happened.set, self._tap)
        except TargetPathError:
            if any(step.verb in self._adapter.far_last_verbs for step in self._setup.early):
                return  # a step of `self._setup` closed the far side while the relay connected to it
            raise
        self.client, self.far, self.relay = joined
        self.relay.ended.add_done_callback(lambda _: self._happened.set())
        try:
            for step in plan:
                await self._do(step)
                self._check()
            await self._finish()
            if not self.killed:
                await self._until(lambda: _more(before, _descriptors()))
        finally:
            self.client.dispose()
            self.far.dispose()
            self.relay.abort(CloseReason.ABORTED)  # if the test has failed, the relay may still run

    async def _do(self, step: Step) -> None:
        done = True
        match step.who:
            case "client" | "far":
                done = getattr(self.client if step.who == "client" else self.far, step.verb)(step.size)
            case "loop" if step.verb == "settle":
                await self._until(self._missing)
            case "loop":
                for _ in range(step.size):
                    await asyncio.sleep(self._adapter.pace)
            case _ if step.verb == "abort":
                done = not self.relay.ended.done()
                self._aborted |= done
                self.relay.abort(CloseReason.ABORTED)
            case _:
                if step.verb in self._adapter.kill_verbs:
                    # If the relay has already ended, its close reason is not the loss of the link.
                    self._killed_late |= not self.killed and self.relay.ended.done()
                    self.killed = True
                done = self._adapter.order(step)
        self._coverage.steps += done
        self._coverage.states.add(self._state())

    def _state(self) -> tuple[object, ...]:
        ends = (self.client, self.far)
        return (
            *((end.ended, end.broken, end.gone, end.seen, end.reading, end.queued > 0) for end in ends),
            self.client.received == self.far.sent, self.far.received == self.client.sent,
            self._adapter.stalled, self.killed, self._aborted, self.relay.ended.done(),
        )  # fmt: skip

    @property
    def _directions(self) -> tuple[tuple[End, End], tuple[End, End]]:
        """Return the receiver and the sender of each direction."""
        return (self.client, self.far), (self.far, self.client)

    @property
    def _cut(self) -> bool:
        return self.killed or self._aborted

    def _undeliverable(self, sender: End, receiver: End) -> bool:
        """Return whether the receiver closed before it received all data of the sender."""
        return receiver.gone and sender.total > receiver.received

    def _keeps(self, receiver: End, sender: End) -> bool:
        """Return whether the receiver is the client, and must receive all data although the far side has closed."""
        return receiver is self.client and sender.delivered and not (self._cut or sender.broken)

    def _causes(self, receiver: End, sender: End) -> bool:
        """Return whether an earlier event allows the receiver to see a reset."""
        if self._cut or sender.broken or self._undeliverable(receiver, sender):
            return True
        return receiver is self.client and sender.gone and not self._adapter.keeps_response

    def _may_look_clean(self, receiver: End, sender: End) -> bool:
        """Return whether the receiver is allowed to see a clean end of stream although data is missing."""
        if self._adapter.reports_breaks:
            return receiver is self.far and receiver.gone
        undelivered = self._undeliverable(receiver, sender) and not sender.delivered
        return sender.broken or undelivered or (receiver is self.far and self._cut)

    def _check(self) -> None:
        """Check the rules that the relay must follow at any time."""
        self._adapter.refresh()
        for receiver, sender in self._directions:
            self._hold(not receiver.complaint, f"1: {receiver.complaint}")
            count = f"{receiver.name} has {receiver.received} of {sender.sent} bytes"
            whole = receiver.received == sender.sent
            self._hold(receiver.received <= sender.sent, f"1: {count}")
            if receiver.seen is Seen.END and not self._may_look_clean(receiver, sender):
                self._hold(sender.ended and whole, f"2: a clean end although {count}")
            if receiver.seen is Seen.RESET:
                self._hold(self._causes(receiver, sender), f"3: {count} and a reset without a cause")
                owed = self._adapter.keeps_response and self._keeps(receiver, sender)
                self._hold(whole or not owed, f"3: {count} of a whole response, and a reset")
            if receiver.refused:
                caused = self._causes(receiver, sender) or sender.gone
                self._hold(caused, f"3: {receiver.name} cannot send, without a cause")
        self._check_count("counted", (self.relay.to_backend, self.relay.from_backend))
        if self._tap is not None:
            self._hold(not self._tap.complaint, f"5: {self._tap.complaint}")
            if not self._tap.finished:
                self._check_count("the tap saw", (self._tap.forth_seen, self._tap.back_seen))

    def _check_count(self, what: str, counted: tuple[int, int]) -> None:
        received, sent = (self.far.received, self.client.received), (self.client.sent, self.far.sent)
        right = all(low <= number <= high for low, number, high in zip(received, counted, sent, strict=True))
        self._hold(right, f"5: {what} {counted}, while {received} of {sent} were received")

    def _missing(self) -> str:
        """Describe the first expected event that has not happened yet; return an empty text if there is none."""
        if self._adapter.stalled:
            return ""
        for receiver, sender in self._directions:
            if not receiver.listens or receiver.seen is not None:
                continue
            count = f"{receiver.name} has {receiver.received} of {sender.total} bytes"
            if self._cut or (sender.broken and not sender.ended):
                return f"{count} and does not see that the rest is lost"
            lost = sender.broken or self._undeliverable(receiver, sender)
            if not lost and receiver.received < min(sender.total, receiver.willing):
                return f"{count} and takes {receiver.willing}"
            waits = receiver is self.far and not self._adapter.ends_early and sender.received < receiver.total
            # A relay can stop reading from its client if the window of the SSH channel is exhausted. Then, the relay
            # does not see the client's end of stream.
            if sender.ended and sender.total < receiver.willing and not waits:
                return f"{count} and sees no end"
        reset = self.client.broken and not self.client.ended
        if reset and not (self.far.ended or self.relay.ended.done()):
            return "the client's reset goes unnoticed"
        return ""

    async def _finish(self) -> None:
        """Let both ends read all data and close; then check that the relay ends and releases its resources."""
        self._adapter.order(Step("link", "unstall"))
        for end in (self.client, self.far):
            end.resume()
        await self._until(self._unnoticed_loss)
        for end in (self.client, self.far):
            end.end()
        await self._until(self._missing)
        if not self._disturbed:
            await self._until(lambda: "" if self.relay.ended.done() else "the relay does not end")
        self.client.dispose()
        self.far.dispose()
        await self._until(lambda: "" if self.relay.ended.done() else "the relay does not end after its ends")
        self._check_ending()
        await self._until(lambda: ", ".join(self._adapter.leftovers(self.relay)))

    def _unnoticed_loss(self) -> str:
        """Describe a lost link or lost data for which the client saw no reset; otherwise, return an empty text."""
        client, far, ended = self.client, self.far, self.relay.ended
        if client.ended or client.gone or client.dropped:
            return ""
        if self.killed and (client.seen is None or not ended.done()):
            return "the lost link goes unnoticed"
        if client.seen is not Seen.END:
            return ""
        by_link = ended.done() and ended.result() is self._adapter.lost and self.killed
        by_far = self._adapter.shows_loss and far.gone and client.sent > far.received
        if not (by_link or by_far):
            return ""
        return f"the client is not reset, although {far.name} has {far.received} of {client.sent} bytes"

    @property
    def _disturbed(self) -> bool:
        return (
            self.client.broken or self.far.broken or any(self._causes(*direction) for direction in self._directions)
        )

    def _check_ending(self) -> None:
        ending, client, far = self.relay.ended.result(), self.client, self.far
        if not self._disturbed:
            counted = (self.relay.to_backend, self.relay.from_backend)
            self._hold(ending is CloseReason.FINISHED, f"5: ended as {ending}")
            self._hold(counted == (client.sent, far.sent), f"5: counted {counted}, not {(client.sent, far.sent)}")
        causes = [self._aborted, self.killed and not self._killed_late, client.broken, far.broken]
        endings = (CloseReason.ABORTED, self._adapter.lost, CloseReason.CLIENT_RESET, CloseReason.BACKEND_RESET)
        known = self._adapter.reports_breaks or not far.broken
        if known and sum(causes) == 1 and not (client.ended or far.ended):
            self._hold(ending is endings[causes.index(True)], f"5: ended as {ending}")

    def _hold(self, holds: bool, rule: str) -> None:
        if not holds:
            raise BrokenContractError(f"{self._adapter.name}: rule {rule}")

    async def _until(self, missing: Callable[[], str]) -> None:
        """Wait until `missing` returns an empty text; fail after `Coverage.patience` seconds without progress."""
        since, progress = time.monotonic(), self._progress()
        while wanted := missing():
            self._check()
            self._happened.clear()
            late = time.monotonic() - since > self._coverage.patience
            self._hold(not late, f"4: no progress: {wanted}")
            try:
                async with asyncio.timeout(_POLL):
                    await self._happened.wait()
            except TimeoutError:
                pass
            if (now := self._progress()) != progress:
                since, progress = time.monotonic(), now
        self._check()

    def _progress(self) -> tuple[object, ...]:
        return self.client.received, self.far.received, self.client.seen, self.far.seen, self.relay.ended.done()


def _descriptors() -> int:
    return sum(1 for _ in os.scandir("/proc/self/fd"))


def _more(before: int, now: int) -> str:
    return f"{now - before} descriptors are left" if now > before else ""


async def run(adapter: RelayAdapter, plan: list[Step], setup: Setup, coverage: Coverage) -> None:
    """Execute one plan on a new connection.

    Raises:
        BrokenContractError: The relay broke a rule.
        AssertionError: The link was lost, although no step of the plan broke the link.
    """
    started = time.monotonic()
    trial = Trial(adapter, setup, coverage)
    failed = True
    try:
        await trial.run(plan)
        failed = False
    finally:
        try:
            await adapter.restore(reconnect=failed or trial.killed)
        finally:
            if failed:
                coverage.patience = _PATIENCE_AFTERWARDS
            coverage.examples += 1
            coverage.seconds += time.monotonic() - started
