"""What a pool of SSH connections needs now: which to use, how many to dial, which to give up. Pure.

A silent connection is suspect first: nobody is sent its way, and a replacement is dialled. When others answer
meanwhile, it alone is broken and is given up soon. When none does, the path itself stalls: then it is kept for
long, since whatever ends the stall brings it back with everything on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.ssh.options import Keepalive

CHANNELS_PER_CONNECTION = 64
"""sshd polls all channels of a connection at every turn, so latency grows with them."""
PROMPT = 1.0
"""Seconds that a replacement takes at most where only the connections are broken; longer, and the path stalled."""
DOUBT = 0.8
"""Seconds that an answer may take before channels are rather opened elsewhere."""


@dataclass
class Standing:
    """What is known of one connection.

    Args:
        silent: Seconds since it was last heard.
        load: Channels that are open or being opened.
        outdated: Its credentials were replaced: it gets no new channels, and closes when the last has ended.
        stalled: It fell silent together with all the others: the path is at fault.
        until: Seconds of silence that it had when another was heard again after that; 0: none was yet.
        unanswered: Seconds for which it owes us an answer.
    """

    silent: float
    load: int
    outdated: bool = False
    stalled: bool = False
    until: float = 0.0
    unanswered: float = 0.0


@dataclass(frozen=True)
class Needs:
    """What to do, by the connections' positions.

    Args:
        usable: Those that may be given new channels.
        suspect: Those that are silent.
        doubtful: Those that nobody should wait for, since others answer.
        give_up: Those to abort: silent for too long.
        done: Those to close: outdated, and empty.
        dial: How many more to open.
        stalled: Those that turned out to be silent together with all others.
    """

    usable: list[int]
    suspect: list[int]
    doubtful: list[int]
    give_up: list[int]
    done: list[int]
    dial: int
    stalled: list[int]


def judge(pool: Sequence[Standing], keepalive: Keepalive, wanted: int) -> Needs:
    """What a pool in this state needs.

    Args:
        pool: Its connections.
        keepalive: When to lose patience.
        wanted: How many connections there should be.
    """
    suspect = [at for at, each in enumerate(pool) if each.silent >= keepalive.suspect]
    heard = [at for at in range(len(pool)) if at not in suspect]
    fresh = [at for at in heard if not pool[at].outdated]
    prompt = [at for at in fresh if pool[at].unanswered < DOUBT]
    patience = keepalive.suspect + keepalive.replace
    give_up: list[int] = []
    stalled: list[int] = []
    for at in suspect:
        each = pool[at]
        if each.silent >= keepalive.lost:
            give_up.append(at)
        elif each.stalled:
            # The others are back: TCP tries again after at most as long as the stall had lasted.
            if each.until and each.silent >= 2 * each.until + keepalive.replace:
                give_up.append(at)
        elif not heard and each.silent >= keepalive.suspect + min(PROMPT, keepalive.replace):
            stalled.append(at)
        elif heard and each.silent >= patience:
            give_up.append(at)
    enough = len(fresh) >= max(1, wanted)
    return Needs(
        usable=prompt or fresh or heard,
        suspect=suspect,
        doubtful=[at for at in fresh if at not in prompt] if prompt else [],
        give_up=give_up,
        done=[at for at in heard if pool[at].outdated and not pool[at].load and enough],
        dial=max(0, wanted - len(fresh)),
        stalled=stalled,
    )


def place(loads: Sequence[int], most: int) -> tuple[int, bool]:
    """Which connection takes the next channel, and whether the pool should grow.

    Args:
        loads: Channels of each usable connection, at least one.
        most: How many connections there may be.
    """
    chosen = min(range(len(loads)), key=loads.__getitem__)
    return chosen, loads[chosen] >= CHANNELS_PER_CONNECTION - 1 and len(loads) < most
