"""Events of a connection: steps, and Hypothesis strategies that generate them."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from hypothesis import strategies as st

from tests.support.tcp_end import TcpEnd


class Step(NamedTuple):
    """One event.

    Args:
        who: `client`, `far` (the backend's side), `link` (what carries the connection) or `loop` (time passes).
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
        tap: After how many bytes a tap has seen enough; 0: there is none.
        paused: Whether the far side takes nothing at first.
        early: What the far side does in the moment in which it is connected.
        window: What a far side that is a channel takes ahead, in bytes.
        packet: What it takes in one packet, in bytes.
        late_reply: Whether it answers a close only at the very end.
    """

    small: bool = True
    tap: int = 0
    paused: bool = False
    early: tuple[Step, ...] = ()
    window: int = 65536
    packet: int = 32768
    late_reply: bool = False


class Verbs(Protocol):
    """Events of one kind of relay, in addition to those of clients."""

    far_verbs: tuple[str, ...]
    far_last_verbs: tuple[str, ...]
    """Events after which the far side does nothing more."""
    link_verbs: tuple[str, ...]
    kill_verbs: tuple[str, ...]
    """Ways to lose the connection's carrier."""


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
"""Number of table entries of a verb for each of its sizes."""


def _steps(who: str, *verbs: str) -> list[Step]:
    return [
        Step(who, verb, size)
        for verb in verbs
        for size in _SIZED.get(verb, (0,))
        for _ in range(_WEIGHTS.get(verb, 1 if verb in _SIZED else _OTHERS_WEIGH))
    ]


def plans(verbs: Verbs) -> st.SearchStrategy[tuple[Setup, list[Step]]]:
    """Generate a setup, and the events after it: ordinary steps, and at most two that end something.

    A step is one choice from a table, which Hypothesis draws much faster than one that is built from parts.

    Args:
        verbs: Of the kind of relay.
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
    # Without the first alternative, few plans would get far before something ends them.
    chosen = st.one_of(st.just([]), *(st.lists(st.sampled_from(last), min_size=n, max_size=n) for n in (1, 1, 2)))
    steps = chosen.flatmap(
        lambda some: st.lists(st.sampled_from(ordinary + some * _OTHERS_WEIGH), min_size=12, max_size=40)
    )
    return st.tuples(setups, steps)
