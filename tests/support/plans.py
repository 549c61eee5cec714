"""Generates random plans with Hypothesis. A plan is a list of steps of one connection, such as a send or a close."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from hypothesis import strategies as st

from tests.support.tcp_end import TcpEnd


class Step(NamedTuple):
    """One step of a plan: something that one side of the connection, or its environment, does.

    Args:
        who: What performs the step: `client`, `far` (the far side), `link` (the tunnel), or `loop` (the event loop).
        verb: What it does, such as `send` or `close`.
        size: The argument of the step, usually a number of bytes. Many steps ignore this argument.
    """

    who: str
    verb: str
    size: int = 0

    def __repr__(self) -> str:
        return f"Step({self.who!r}, {self.verb!r}{f', {self.size}' if self.size else ''})"


@dataclass(frozen=True)
class Setup:
    """The initial state of a connection.

    Args:
        small: Whether the sockets of both ends have small buffers.
        tap: The number of bytes after which the relay's tap needs no more bytes. 0 means that no tap exists.
        paused: Whether the far side initially does not read.
        early: The first events of the far side, immediately after the connection is established.
        window: If the far side is an SSH channel, its initial window, in bytes.
        packet: If the far side is an SSH channel, its maximum packet size, in bytes.
        late_reply: If the far side is an SSH channel, whether it answers CHANNEL_CLOSE only at the end of the test.
    """

    small: bool = True
    tap: int = 0
    paused: bool = False
    early: tuple[Step, ...] = ()
    window: int = 65536
    packet: int = 32768
    late_reply: bool = False


class Verbs(Protocol):
    """The events that are possible with one kind of relay. The events of clients are possible with all kinds."""

    far_verbs: tuple[str, ...]
    far_last_verbs: tuple[str, ...]
    """The events that close the far side. No events of the far side are possible afterwards."""
    link_verbs: tuple[str, ...]
    kill_verbs: tuple[str, ...]
    """The events that break the link of the connection."""


_SIZES = (1, 1000, 32768, 32769, 100_000, 300_000, 1 << 20)
_SIZED = {
    "send": _SIZES,
    "take": _SIZES,
    "turns": (1, 2, 3, 8),
    "packets_of": (1, 100, 5000, 32768),
    "extra": (0, 1, 2, 3, 4),
}
_WEIGHTS = {"send": 2, "turns": 3, "pause": 10, "resume": 10, "settle": 8, "stall": 8, "unstall": 6}
_OTHERS_WEIGH = 5
"""The weight of events that are neither in `_SIZED` nor in `_WEIGHTS`. A plan contains events with a greater weight
more often."""


def _steps(who: str, *verbs: str) -> list[Step]:
    return [
        Step(who, verb, size)
        for verb in verbs
        for size in _SIZED.get(verb, (0,))
        for _ in range(_WEIGHTS.get(verb, 1 if verb in _SIZED else _OTHERS_WEIGH))
    ]


def plans(verbs: Verbs) -> st.SearchStrategy[tuple[Setup, list[Step]]]:
    """Return a strategy that generates the initial state of a connection and a plan.

    A plan contains at most two different events that close an end or break the link. The code creates a list of all
    possible steps, because Hypothesis selects from a list much faster than it creates steps from parts.

    Args:
        verbs: The events that are possible with the kind of relay.
    """
    ordinary = [
        *_steps("client", *TcpEnd.VERBS),
        *_steps("far", *verbs.far_verbs),
        *_steps("link", *verbs.link_verbs),
        *_steps("loop", "turns", "settle"),
    ]
    last = [
        *(Step("client", verb) for verb in TcpEnd.LAST_VERBS),
        *(Step("far", verb) for verb in verbs.far_last_verbs),
        *(Step("link", verb) for verb in (*verbs.kill_verbs, "abort")),
    ]
    early = st.lists(st.sampled_from(_steps("far", "send", "end", *verbs.far_last_verbs)), min_size=1, max_size=3)
    setups = st.builds(
        Setup,
        small=st.booleans(),
        tap=st.sampled_from([0, 1, 200_000, 1 << 40]),
        paused=st.booleans(),
        early=st.one_of(st.just(()), early.map(tuple)),
        window=st.sampled_from([65536, 4096, 32768, 2 << 20]),
        packet=st.sampled_from([32768, 1000]),
        late_reply=st.booleans(),
    )
    # With the empty list, no event of the plan closes an end or breaks the link.
    chosen = st.one_of(st.just([]), *(st.lists(st.sampled_from(last), min_size=n, max_size=n) for n in (1, 1, 2)))
    steps = chosen.flatmap(
        lambda some: st.lists(st.sampled_from(ordinary + some * _OTHERS_WEIGH), min_size=12, max_size=40)
    )
    return st.tuples(setups, steps)
