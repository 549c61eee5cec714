"""Invariants that must hold at every moment of a soak, checked once a second."""

import errno
import fcntl
import os
import select
import struct
import termios
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from gateway.ssh.pool import SshConnectionPool
from tests.soak import instrumentation
from tests.soak.instrumentation import MIB, QUANTUM, Budgets, Seen

_SLACK = 64 * MIB
"""Resident memory in bytes allowed beyond the windows, for buffers of the connections and Python's allocator."""
_ROUNDS = 4
"""Maximum average number of turns per waiting client while one of the waiting clients sends nothing."""
_STUCK = 30.0
"""A connection is considered stuck if it sends nothing for this number of seconds while clients wait to send."""
_PAGE = os.sysconf("SC_PAGE_SIZE")


def _unread(fd: int) -> int:
    """Return the number of unread bytes of a socket; 0 if the native engine has closed the socket meanwhile."""
    try:
        answer = fcntl.ioctl(fd, termios.FIONREAD, bytes(4))
    except OSError as error:
        if error.errno == errno.EBADF:
            return 0
        raise
    return int(struct.unpack("i", answer)[0])


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def descriptors() -> int:
    """Return the number of open descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


@dataclass
class Turn:
    """The state of one relay at the last call of `Audit.look`.

    Args:
        seen: The snapshot of the relay.
        waits: Whether the client's socket has unread data, although the peer's window is open.
        since: When the client began to wait, in monotonic seconds.
        passed: Bytes that other clients have sent since the client began to wait.
        ignored: Whether the client's socket was writable while the relay held data for the client.
    """

    seen: Seen
    waits: bool
    since: float
    passed: int = 0
    ignored: bool = False


@dataclass
class Audit:
    """Checks the invariants of the SSH data path, and records problems and maxima.

    Args:
        budgets: Window budgets of this process.
        base: Resident memory at the start of the round, in bytes.
        channels: Maximum number of simultaneous channels.
        held: Maximum of the bytes that all relays together hold for clients.
        memory: Maximum resident memory beyond `base`, in bytes.
        waited: Longest time that a client waited to send, in seconds.
        rounds: Maximum average number of turns per waiting client while one of the waiting clients sent nothing.
        problems: Number of occurrences of each problem.
        examples: Details of the first occurrence of each problem.
        quiet_until: When the injected stall of the path ends, in monotonic seconds.
    """

    budgets: Budgets
    base: int = field(default_factory=resident)
    channels: int = 0
    held: int = 0
    memory: int = 0
    waited: float = 0.0
    rounds: float = 0.0
    problems: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    quiet_until: float = 0.0
    _turns: dict[int, Turn] = field(default_factory=dict)

    def note(self, what: str, example: str = "") -> None:
        """Record a problem."""
        self.problems[what] += 1
        self.examples.setdefault(what, example)

    def look(self, link: SshConnectionPool) -> None:
        """Check all invariants once. The caller runs on the event loop, so relays do not change during the checks."""
        now = time.monotonic()
        turns: dict[int, Turn] = {}
        held = 0
        for session in instrumentation.sessions(link):
            seen = instrumentation.look(session)
            held += sum(each.held for each in seen)
            for each in seen:
                if (wrong := each.unbalanced()) is not None:
                    self.note(f"a relay {wrong.partition(':')[0]}", wrong)
            self._look_up(seen, turns, now)
            self._look_down(seen, turns)
        self._turns = turns
        self.channels = max(self.channels, instrumentation.channels(link))
        self.held = max(self.held, held)
        self.memory = max(self.memory, resident() - self.base)
        bound = self.budgets.bound(self.channels)
        if held > bound:
            self.note("relays hold more bytes than the documented bound", f"{held:,} bytes of {bound:,}")
        if self.memory > bound + _SLACK:
            self.note("resident memory is beyond the documented bound", f"{self.memory:,} bytes of {bound:,}")
        if (lost := self.budgets.unaccounted(link)) != 0:
            self.note("the budget does not match the open windows", f"by {lost:,} bytes")

    def _look_up(self, seen: list[Seen], turns: dict[int, Turn], now: float) -> None:
        """Check that every client with data to send gets turns to send."""
        before = self._turns
        moved = sum(each.up - before[key].seen.up for each in seen if (key := id(each.relay)) in before)
        now_turns = [Turn(each, each.may_send and _unread(each.fd) > 0, now) for each in seen]
        turns |= {id(turn.seen.relay): turn for turn in now_turns}
        waiting = sum(turn.waits for turn in now_turns)
        all_turns = waiting * QUANTUM
        for turn in now_turns:
            last = before.get(id(turn.seen.relay))
            if last is None or not (turn.waits and last.waits) or turn.seen.up != last.seen.up:
                continue
            turn.since, turn.passed = last.since, last.passed + moved
            self.waited = max(self.waited, now - turn.since)
            self.rounds = max(self.rounds, turn.passed / all_turns)
            if turn.passed > _ROUNDS * all_turns:
                self.note("a client that could send was passed over",
                          f"for {now - turn.since:.1f} s and {turn.passed:,} bytes of others")  # fmt: skip
            if moved == 0 and now - max(turn.since, self.quiet_until) > _STUCK:
                self.note("a connection sends nothing", f"for {now - turn.since:.1f} s, and {waiting} clients wait")

    def _look_down(self, seen: list[Seen], turns: dict[int, Turn]) -> None:
        """Check that a client that reads gets the data that the relay buffers for the client."""
        holding = {each.fd: each for each in seen if each.held}
        poll = select.poll()
        for fd in holding:
            poll.register(fd, select.POLLOUT)
        for fd, event in poll.poll(0):
            if not event & select.POLLOUT:
                continue
            key = id(holding[fd].relay)
            turns[key].ignored = True
            last = self._turns.get(key)
            if last is not None and last.ignored and last.seen.down == holding[fd].down:
                self.note(
                    "a client that reads gets none of its buffered data",
                    f"{holding[fd].held:,} bytes are held for it",
                )
