"""Tests SSH connections with many clients over slow and lossy networks, and checks invariants every second.

`make soak` runs this test. The test consists of rounds, which use AES-GCM with the native engine and ChaCha20 with
asyncssh alternately. Each round has clients of many types, frequent SSH key exchanges, one of several simulated
networks (`tests.soak.plan.PATHS`), and one of three kinds of network faults: no faults, repeated stalls, or resets
of connections.
"""

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from gateway.demo.server_process import find
from gateway.demo.sshd import Bastion
from gateway.relay.event_loop import RelayEventLoop
from tests.soak import instrumentation
from tests.soak.client_types import MIX
from tests.soak.plan import Bench, Outcome, Round, rounds
from tests.soak.round import play
from tests.soak.streams import Pattern
from tests.support.child import Child
from tests.support.files import scratch
from tests.support.slow_link import SlowLink

_LONGEST, _SHORTEST = 30.0, 4.0
"""Maximum and minimum time in seconds during which the clients of one round open new streams."""
_REKEY_OURS, _REKEY_THEIRS = 3 << 20, "4M"
_HEAD = (
    "cipher", "path", "trouble", "streams", "MB", "s", "keys", "conns", "channels", "redialed", "held", "memory",
    "waited", "turns", "query p50", "p99", "max", "check p50", "max",
)  # fmt: skip
"""Columns of the table of results. `held` is the maximum amount of buffered data in MiB. `memory` is the increase of
the resident memory, and the maximum size of all buffers, in MiB. `waited` is the longest time in seconds for which a
client with data to send could not send. `turns` is `Audit.rounds`."""


def soak(seed: int, seconds: float, clients: int, folder: Path) -> int:
    """Run rounds until `seconds` have passed, but at least one round per cipher. Return the number of problems."""
    chance = random.Random(seed)
    began = time.monotonic()
    length = min(_LONGEST, max(_SHORTEST, seconds / 6))
    problems = 0
    with ExitStack() as stack:
        bastion = Bastion(folder / "bastion", extra=f"RekeyLimit {_REKEY_THEIRS}").start()
        stack.callback(bastion.stop)
        backend = stack.enter_context(Child("tests.soak.backend", seed))
        exchanges = stack.enter_context(instrumentation.Exchanges(_REKEY_OURS))
        budgets = stack.enter_context(instrumentation.Budgets())
        bench = Bench(
            bastion, stack.enter_context(SlowLink(bastion.port, seed=seed)), backend, backend.ask("listen")["port"],
            stack.enter_context(Child("tests.soak.clients", seed)),
            {name: max(1, count * clients // 1000) for name, count in MIX.items()}, Pattern(seed), budgets, exchanges,
            chance,
        )  # fmt: skip
        print(f"{sum(bench.mix.values())} clients; rounds of {length:g} s, plus the time to end each\n")
        print("| " + " | ".join(_HEAD) + " |\n|" + " --- |" * 3 + " ---: |" * (len(_HEAD) - 3), flush=True)
        for at, chosen in enumerate(rounds(chance, length)):
            if at >= len(instrumentation.CIPHERS) and time.monotonic() - began > seconds:
                break
            with asyncio.Runner(loop_factory=RelayEventLoop) as runner:
                started = time.monotonic()
                outcome = runner.run(play(bench, chosen))
            print(row(chosen, outcome, time.monotonic() - started), flush=True)
            problems += print_problems(chosen, outcome)
    print(f"\nseed {seed}: {problems} problems in {time.monotonic() - began:.0f} s")
    return problems


def row(chosen: Round, outcome: Outcome, took: float) -> str:
    """Return the table row of a round."""
    audit, waits, checks = outcome.audit, outcome.waits, sorted(outcome.checks)
    mib = instrumentation.MIB
    cells = (
        chosen.cipher.partition("@")[0], chosen.path, f"{chosen.trouble} {outcome.troubles or ''}", outcome.streams,
        f"{outcome.bytes / 1e6:.0f}", f"{took:.0f}", outcome.exchanges, outcome.connections, audit.channels,
        outcome.redialed,
        f"{audit.held / mib:.1f}", f"{audit.memory / mib:.0f} of {audit.budgets.bound(audit.channels) / mib:.0f}",
        f"{audit.waited:.1f}", f"{audit.rounds:.2f}",
        *(f"{quantile(waits, share):.2f}" for share in (0.5, 0.99, 1)),
        *(f"{quantile(checks, share):.2f}" for share in (0.5, 1)),
    )  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return a quantile of sorted values, such as the median for a `share` of 0.5; 0 if there are no values."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def print_problems(chosen: Round, outcome: Outcome) -> int:
    """Print the problems of a round; return the number of problems."""
    for what, count in outcome.audit.problems.most_common():
        print(f"PROBLEM {chosen.cipher}, {chosen.path}, {chosen.trouble}: {what}, {count} times; "
              f"first: {outcome.audit.examples[what]}")  # fmt: skip
    return outcome.audit.problems.total()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--clients", type=int, default=1000)
    asked = parser.parse_args()
    if find("sshd") is None:
        print("sshd is missing: install the package openssh-server", file=sys.stderr)
        return 2
    seed = asked.seed if asked.seed is not None else random.SystemRandom().getrandbits(32)
    print(f"seed {seed}: --seconds {asked.seconds:g} --seed {seed} --clients {asked.clients}")
    with scratch() as folder:
        return 1 if soak(seed, asked.seconds, asked.clients, folder) else 0


if __name__ == "__main__":
    sys.exit(main())
