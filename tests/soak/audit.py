"""Checks the relays, the channel windows and the memory of the gateway once a second during a soak test."""

import errno
import os
import select
import termios
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from gateway.ssh.pool import SshConnectionPool
from tests.soak import instrumentation
from tests.soak.instrumentation import MIB, QUANTUM, Budgets, Seen
from tests.support.tcp_end import buffered_bytes

_SLACK = 64 * MIB
"""Bytes of resident memory that are allowed in addition to the data that relays buffer.

The buffers of the connections and Python's allocator use this memory.
"""
_ROUNDS = 4
"""The maximum allowed value of `Audit.rounds`."""
_STUCK = 30.0
"""An SSH connection counts as stuck if clients wait to send, but it sends nothing for this number of seconds."""
_UNBALANCED = 3.0
"""The maximum number of seconds for which the budget may not match the open windows."""
_IGNORED = 3.0
"""The maximum number of seconds for which a relay may hold data for a client whose socket is writable."""
_PAGE = os.sysconf("SC_PAGE_SIZE")


def _unread(fd: int) -> int:
    """Return the number of bytes that can be read from a socket; 0 if the native engine has closed the socket."""
    try:
        return buffered_bytes(fd, termios.FIONREAD)
    except OSError as error:
        if error.errno == errno.EBADF:
            return 0
        raise


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def descriptors() -> int:
    """Return the number of open file descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


@dataclass
class Turn:
    """The state of one relay at the last call of `Audit.look`.

    Args:
        seen: The byte counts and the window of the relay.
        waits: Whether the relay waits for its turn to send: the client's socket has unread data, and the SSH server's
            window is open.
        since: The monotonic time since which the relay has waited to send, in seconds.
        passed: Number of bytes that other relays of the SSH connection have sent since the relay began to wait.
        ignored_since: The monotonic time since which the relay has held data for the client although the client's
            socket was writable, in seconds; None if it does not.
    """

    seen: Seen
    waits: bool
    since: float
    passed: int = 0
    ignored_since: float | None = None


@dataclass
class Audit:
    """Checks the relays, windows and memory of this process; records problems and the highest values.

    Args:
        budgets: The limits on the total size of all channel windows.
        base: Resident memory at the start of the checks, in bytes.
        channels: Maximum number of channels at the same time.
        held: Maximum number of bytes that all relays together buffered for clients.
        memory: Maximum increase of the resident memory above `base`, in bytes.
        waited: Longest time that a relay waited to send, in seconds.
        rounds: Maximum number of packets (of `QUANTUM` bytes) that other relays sent while one relay waited to send,
            divided by the number of waiting relays.
        problems: Number of occurrences of each problem.
        examples: Details of the first occurrence of each problem.
        quiet_until: The monotonic time until which the test blocks the network, in seconds.
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
    _balanced_at: float = field(default_factory=time.monotonic)
    """When the budget last matched the open windows. On a busy machine, the thread of the native engine releases the
    windows of a lost connection only after some time."""

    def note(self, what: str, example: str = "") -> None:
        """Record a problem."""
        self.problems[what] += 1
        self.examples.setdefault(what, example)

    def look(self, link: SshConnectionPool) -> None:
        """Run all checks once. This method must be called on the event loop."""
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
            self._look_down(seen, turns, now)
        self._turns = turns
        self.channels = max(self.channels, instrumentation.channels(link))
        self.held = max(self.held, held)
        self.memory = max(self.memory, resident() - self.base)
        bound = self.budgets.bound(self.channels)
        if held > bound:
            self.note("relays hold more bytes than the documented bound", f"{held:,} bytes of {bound:,}")
        if self.memory > bound + _SLACK:
            self.note("resident memory is beyond the documented bound", f"{self.memory:,} bytes of {bound:,}")
        lost = self.budgets.unaccounted(link)
        if not lost:
            self._balanced_at = now
        elif now - self._balanced_at > _UNBALANCED:
            self.note("the budget does not match the open windows", f"by {lost:,} bytes")

    def _look_up(self, seen: list[Seen], turns: dict[int, Turn], now: float) -> None:
        """Check that no relay waits too long to send the data of its client."""
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

    def _look_down(self, seen: list[Seen], turns: dict[int, Turn], now: float) -> None:
        """Check that relays send their buffered data to the clients that read."""
        holding = {each.fd: each for each in seen if each.held}
        poll = select.poll()
        for fd in holding:
            poll.register(fd, select.POLLOUT)
        for fd, event in poll.poll(0):
            if not event & select.POLLOUT:
                continue
            key = id(holding[fd].relay)
            turns[key].ignored_since = now
            last = self._turns.get(key)
            if last is None or last.ignored_since is None or last.seen.down != holding[fd].down:
                continue
            turns[key].ignored_since = last.ignored_since
            if now - last.ignored_since > _IGNORED:
                self.note(
                    "a client that reads gets none of its buffered data",
                    f"{holding[fd].held:,} bytes are held for it",
                )
