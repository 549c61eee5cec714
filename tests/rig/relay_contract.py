"""What every relay must do with one connection, whatever its two ends do and in whatever order.

A plan is a list of steps. A `Trial` executes it on one connection and holds the relay to these rules:

1. What a receiver has is a prefix of what the other end sent.
2. A receiver that sees a clean end has everything; whoever cannot have everything sees a reset.
3. A reset has a cause: something broke, or bytes went to an end that had closed. A client gets the whole of a response
   whose end the relay has, before anything else becomes of it.
4. Whoever reads gets what was sent, and the end, whatever the other direction does.
5. The relay ends when both its ends are done, says how, counts right, and leaves nothing behind.

It knows a relay by `gateway.contracts` only; `far_sides.py` has what makes one.
"""

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from ends import End, Seen, TcpEnd
from hypothesis import strategies as st

from gateway.contracts import Ending, Relay
from gateway.errors import ReachError

PATIENCE = 20.0
"""Seconds without any progress after which something hangs; counted from the last byte or end that arrived."""
_ONCE_FOUND = 3.0
"""The same while Hypothesis makes a plan smaller that has failed."""
_POLL = 0.2


class Step(NamedTuple):
    """One thing that happens.

    Args:
        who: `client`, `far`, `link` (what carries the connection) or `loop` (time passes).
        verb: What it does.
        size: How much, where that means something.
    """

    who: str
    verb: str
    size: int = 0

    def __repr__(self) -> str:
        return f"Step({self.who!r}, {self.verb!r}{f', {self.size}' if self.size else ''})"


@dataclass(frozen=True)
class Setup:
    """How a connection starts.

    Args:
        small: Whether the sockets of both ends have small buffers.
        window: What the far side of a channel is willing to take at once, in bytes.
        closed: Whether that far side takes nothing until it resumes.
        tardy: Whether that far side answers a close only at the very end.
        early: What the far side does in the moment in which it is connected.
    """

    small: bool = True
    window: int = 65536
    closed: bool = False
    tardy: bool = False
    early: tuple[Step, ...] = ()


@dataclass
class Coverage:
    """What a run has seen."""

    examples: int = 0
    steps: int = 0
    seconds: float = 0.0
    states: set[tuple[object, ...]] = field(default_factory=set)
    patience: float = PATIENCE

    def __str__(self) -> str:
        a_second = self.seconds or 1.0
        return (
            f"{self.examples} examples, {self.steps} steps, {len(self.states)} states in {self.seconds:.1f} s "
            f"({self.examples / a_second:.0f} examples/s, {self.steps / a_second:.0f} steps/s)"
        )


class Joined(NamedTuple):
    """A connection that has just been made."""

    client: TcpEnd
    far: End
    relay: Relay


class Adaptor(Protocol):
    """A kind of relay, with what is needed to make one and to look inside it."""

    name: str
    far_verbs: tuple[str, ...]
    far_last_verbs: tuple[str, ...]
    """Those after which the far side does nothing more."""
    link_verbs: tuple[str, ...]
    kill_verbs: tuple[str, ...]
    """Ways to lose what carries the connection."""
    lost: Ending
    """How a relay says that this happened."""
    tells_breaks: bool
    """Whether a reset can be passed on beyond the relay: an SSH server makes an end of it."""
    tells_client_end: bool
    """Whether the far side can learn that a client has sent everything while it goes on sending itself."""
    pace: float
    """Seconds that a moment of the loop lasts, for whoever is a process of its own."""
    stalled: bool
    """Whether nothing can leave for the far side now."""

    async def join(self, setup: Setup, changed: Callable[[], None]) -> Joined: ...

    def order(self, step: Step) -> bool:
        """Let the link do something; False where it cannot."""

    async def restore(self, *, afresh: bool) -> None:
        """Be ready for the next connection; `afresh`: what carried the last one is not to be trusted."""

    def leftovers(self, relay: Relay) -> list[str]:
        """What is still there of a connection that is over."""


class BrokenContractError(AssertionError):
    """A relay broke a rule."""


class Trial:
    """One connection.

    Args:
        adaptor: What makes it.
        setup: How it starts.
        coverage: Where to count.
    """

    def __init__(self, adaptor: Adaptor, setup: Setup, coverage: Coverage) -> None:
        self._adaptor, self._setup, self._coverage = adaptor, setup, coverage
        self._happened = asyncio.Event()
        self._killed = self._aborted = self._moot = False
        self._log: list[Step] = []

    async def run(self, plan: list[Step]) -> None:
        """Execute a plan, then let both ends finish.

        Raises:
            BrokenContractError: With the rule.
        """
        before = _descriptors()
        try:
            async with asyncio.timeout(self._coverage.patience):
                self.client, self.far, self.relay = await self._adaptor.join(self._setup, self._happened.set)
        except ReachError:
            if any(step.verb in self._adaptor.far_last_verbs for step in self._setup.early):
                return  # it was gone before it could be joined
            raise
        self.relay.ended.add_done_callback(lambda _: self._happened.set())
        try:
            for step in plan:
                await self._do(step)
                self._check()
            await self._finish()
            if not self._killed:
                await self._until(lambda: _more(before, _descriptors()))
        finally:
            self.client.dispose()
            self.far.dispose()

    async def _do(self, step: Step) -> None:
        done = True
        match step.who:
            case "client":
                done = getattr(self.client, step.verb)(step.size)
            case "far":
                done = getattr(self.far, step.verb)(step.size)
            case "loop" if step.verb == "settle":
                await self._until(self._missing)
            case "loop":
                for _ in range(step.size):
                    await asyncio.sleep(self._adaptor.pace)
            case "link" if step.verb == "abort":
                done = not self.relay.ended.done()
                self._aborted |= done
                self.relay.abort(Ending.ABORTED)
            case _:
                if step.verb in self._adaptor.kill_verbs:
                    self._moot |= self.relay.ended.done()
                    self._killed = True
                done = self._adaptor.order(step)
        self._coverage.steps += done
        self._coverage.states.add(self._state())

    def _state(self) -> tuple[object, ...]:
        ends = (self.client, self.far)
        return (
            *((end.ended, end.broken, end.gone, end.seen, end.reading, end.queued > 0) for end in ends),
            self.client.received == self.far.sent, self.far.received == self.client.sent,
            self._adaptor.stalled, self._killed, self._aborted, self.relay.ended.done(),
        )  # fmt: skip

    # The rules.

    @property
    def _cut(self) -> bool:
        return self._killed or self._aborted

    @property
    def _disturbed(self) -> bool:
        """Whether anything has happened that may end in a reset."""
        client, far = self.client, self.far
        bounced = self._bounced(client, far) or self._bounced(far, client)
        return self._cut or client.broken or far.broken or bounced

    @staticmethod
    def _bounced(sender: End, receiver: End) -> bool:
        """Whether bytes went, or are about to go, to an end that had closed."""
        return receiver.gone and sender.total > receiver.received

    def _check(self) -> None:
        """What holds at any moment."""
        for receiver, sender in ((self.client, self.far), (self.far, self.client)):
            self._hold(not receiver.complaint, f"1: {receiver.complaint}")
            told = f"{receiver.name} has {receiver.received} of {sender.sent} bytes"
            self._hold(receiver.received <= sender.sent, f"1: {told}")
            broken = sender.broken or (receiver is self.far and self._cut)
            if receiver.seen is Seen.END and not (broken and not self._adaptor.tells_breaks):
                self._hold(sender.ended and receiver.received == sender.sent, f"2: a clean end although {told}")
            caused = self._cut or sender.broken or self._bounced(receiver, sender)
            if receiver.seen is Seen.RESET:
                self._hold(caused, f"3: {told} and a reset without a cause")
                whole = receiver is self.client and sender.delivered and not (self._cut or sender.broken)
                self._hold(not whole or receiver.received == sender.sent, f"3: {told} of a whole response")
            if receiver.refused:
                self._hold(caused or sender.gone, f"3: {receiver.name} cannot send, without a cause")
        to_backend, from_backend = self.relay.to_backend, self.relay.from_backend
        self._hold(self.far.received <= to_backend <= self.client.sent, f"5: to_backend is {to_backend}")
        self._hold(self.client.received <= from_backend <= self.far.sent, f"5: from_backend is {from_backend}")

    def _missing(self) -> str:
        """What has to happen before long."""
        if self._adaptor.stalled:
            return ""
        for receiver, sender in ((self.client, self.far), (self.far, self.client)):
            if not receiver.listens or receiver.seen is not None:
                continue
            told = f"{receiver.name} has {receiver.received} of {sender.total} bytes"
            if self._cut or sender.broken or self._bounced(receiver, sender):
                return f"{told} and must see that the rest does not come"
            if receiver.received < min(sender.total, receiver.willing):
                return f"{told} and is willing to take {receiver.willing}"
            heard = receiver is self.client or self._adaptor.tells_client_end or self.far.ended
            # With its window used up nothing is read that might be an end.
            if sender.ended and heard and sender.total < receiver.willing:
                return f"{told}, which is all, and no end"
        if self.client.broken and not self.far.ended and not self.relay.ended.done():
            return "the client has reset its connection"
        return ""

    async def _finish(self) -> None:
        """Let everybody read, and say all; then nothing may be left."""
        self._adaptor.order(Step("link", "unstall"))
        for end in (self.client, self.far):
            end.resume()
            end.end()
        await self._until(self._missing)
        if not self._disturbed:
            await self._until(lambda: "" if self.relay.ended.done() else "both ends are done")
        self.client.dispose()
        self.far.dispose()
        await self._until(lambda: "" if self.relay.ended.done() else "both ends are gone")
        self._check_ending()
        await self._until(lambda: ", ".join(self._adaptor.leftovers(self.relay)))

    def _check_ending(self) -> None:
        ending, client, far = self.relay.ended.result(), self.client, self.far
        if not self._disturbed:
            counted = (self.relay.to_backend, self.relay.from_backend)
            self._hold(ending is Ending.FINISHED, f"5: ended as {ending}")
            self._hold(counted == (client.sent, far.sent), f"5: counted {counted}, not {(client.sent, far.sent)}")
        only = [self._aborted, self._killed and not self._moot, client.broken, far.broken and self._adaptor.tells_breaks]
        expected = (Ending.ABORTED, self._adaptor.lost, Ending.CLIENT_RESET, Ending.BACKEND_RESET)
        if sum(only) == 1 and not (client.ended or far.ended or far.gone and not far.broken):
            self._hold(ending is expected[only.index(True)], f"5: ended as {ending}")

    def _hold(self, holds: bool, rule: str) -> None:
        if not holds:
            raise BrokenContractError(f"{self._adaptor.name}: rule {rule}")

    async def _until(self, missing: Callable[[], str]) -> None:
        """Wait until nothing is missing; every byte and end that arrives gives it time again."""
        last, progress = time.monotonic(), self._progress()
        while wanted := missing():
            self._check()
            self._happened.clear()
            if time.monotonic() - last > self._coverage.patience:
                raise BrokenContractError(f"{self._adaptor.name}: rule 4: nothing moves: {wanted}")
            try:
                async with asyncio.timeout(_POLL):
                    await self._happened.wait()
            except TimeoutError:
                await asyncio.sleep(0)
            if (now := self._progress()) != progress:
                last, progress = time.monotonic(), now
        self._check()

    def _progress(self) -> tuple[object, ...]:
        return self.client.received, self.far.received, self.client.seen, self.far.seen, self.relay.ended.done()


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _more(before: int, now: int) -> str:
    return f"{now - before} descriptors are left" if now > before else ""


async def run(adaptor: Adaptor, plan: list[Step], setup: Setup | None = None, coverage: Coverage | None = None) -> None:
    """Execute one plan on a new connection.

    Raises:
        BrokenContractError: A rule was broken.
    """
    coverage = coverage or Coverage()
    started = time.monotonic()
    trial = Trial(adaptor, setup or Setup(), coverage)
    afresh = True
    try:
        await trial.run(plan)
        afresh = trial._killed
    except BrokenContractError:
        coverage.patience = _ONCE_FOUND
        raise
    finally:
        await adaptor.restore(afresh=afresh)
        coverage.examples += 1
        coverage.seconds += time.monotonic() - started


# Plans. A step is one choice of a table: Hypothesis draws that ten times as fast as a step of parts.

_SIZES = (1, 4096, 32768, 32769, 100_000, 400_000, 1 << 20)
_SIZED = {"send": _SIZES, "sip": _SIZES, "turns": (1, 2, 3, 8), "chop": (1, 100, 5000, 32768), "noise": (1, 2, 3, 4, 5)}


def _table(who: str, *verbs: str) -> list[Step]:
    return [Step(who, verb, size) for verb in verbs for size in _SIZED.get(verb, (0, 0))]


def plans(adaptor: Adaptor) -> st.SearchStrategy[tuple[Setup, list[Step]]]:
    """A setup, and what happens then: the usual steps, and at most two kinds of those that end something."""
    usual = [
        *_table("client", *TcpEnd.VERBS),
        *_table("far", *adaptor.far_verbs),
        *_table("link", *adaptor.link_verbs),
        *_table("loop", *["turns"] * 2, *["settle"] * 3),
    ]
    last = [
        *_table("client", *TcpEnd.LAST_VERBS),
        *_table("far", *adaptor.far_last_verbs),
        *_table("link", *adaptor.kill_verbs, "abort"),
    ]
    early = _table("far", "send", "end", *adaptor.far_last_verbs)
    setups = st.builds(
        Setup,
        small=st.booleans(),
        window=st.sampled_from([1000, 32768, 65536, 2 << 20]),
        closed=st.booleans(),
        tardy=st.booleans(),
        early=st.one_of(st.just(()), st.lists(st.sampled_from(early), max_size=3).map(tuple)),
    )
    steps = st.lists(st.sampled_from(last), max_size=2).flatmap(
        lambda chosen: st.lists(st.sampled_from(usual + chosen), min_size=10, max_size=40)
    )
    return st.tuples(setups, steps)
