"""Tests every kind of relay against the contract in `tests.support.relay_contract`, with random orders of events.

The number of connections for each kind of relay is the environment variable `CONTRACT_EXAMPLES` times `Kind.share`.
"""

import asyncio
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
from hypothesis import Phase, given, settings

from gateway.relay import lingering_close, stream_bridge
from gateway.relay.event_loop import RelayEventLoop
from tests.support import relay_contract as contract
from tests.support.far_sides import InEngine, Socks, Straight, Tls, Tls12
from tests.support.plans import Setup, Step, plans
from tests.support.requirements import need_sshd
from tests.support.ssh_far_sides import OpenSsh, Scripted
from tests.support.stdio_far_side import Stdio

EXAMPLES = int(os.environ.get("CONTRACT_EXAMPLES", "100"))
PHASES = (Phase.reuse, Phase.generate, Phase.shrink)
pytestmark = [pytest.mark.integration, pytest.mark.timeout(600 + EXAMPLES)]


class Kind(NamedTuple):
    """A kind of relay under test.

    Args:
        adapter: The class that creates relays of this kind, see `relay_adapter.RelayAdapter`.
        arguments: The arguments of the class, without the directory.
        share: The number of connections, as a multiple of `EXAMPLES`. Slow kinds have a smaller multiple.
    """

    adapter: type[Straight]
    arguments: tuple[str, ...] = ()
    share: float = 1


KINDS = {
    "straight": Kind(Straight, share=3),
    "straight, in the engine": Kind(InEngine, share=3),
    "socks5": Kind(Socks, share=3),
    "tls": Kind(Tls, share=3),
    "tls 1.2": Kind(Tls12),
    "stdio": Kind(Stdio, share=0.2),
    "asyncssh": Kind(Scripted, ("asyncssh",), share=3),
    "engine": Kind(Scripted, ("engine",), share=3),
    "engine with ChaCha20": Kind(Scripted, ("engine with ChaCha20",)),
    "asyncssh, sshd": Kind(OpenSsh, ("asyncssh",)),
    "engine, sshd": Kind(OpenSsh, ("engine",)),
}
"""The kinds of relays by name; the name of an SSH kind starts with the name of the data plane."""


@dataclass
class Bench:
    """Runs test cases for one kind of relay. All cases use the same adapter, so they share its link."""

    adapter: Straight
    runner: asyncio.Runner
    coverage: contract.Coverage = field(default_factory=contract.Coverage)

    def run(self, setup: Setup, plan: list[Step]) -> None:
        self.runner.run(contract.run(self.adapter, plan, setup, self.coverage))


@pytest.fixture(scope="module")
def benches(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Callable[[str], Bench]]:
    made: dict[str, Bench] = {}
    terminal: Any = request.config.pluginmanager.get_plugin("terminalreporter")
    capture: Any = request.config.pluginmanager.get_plugin("capturemanager")
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner(loop_factory=RelayEventLoop) as runner:
        # With the default values, the gateway would close connections later, and the tests would be slow.
        patch.setattr(lingering_close, "_SCAN_INTERVAL", 0.01)
        patch.setattr(stream_bridge, "_POLL_INTERVAL", 0.01)
        patch.setattr(stream_bridge, "_SILENCE_TIMEOUT", 0.1)

        def bench(kind: str) -> Bench:
            need_sshd()
            if kind not in made:
                adapter, arguments, _ = KINDS[kind]
                made[kind] = Bench(adapter(tmp_path_factory.mktemp("contract") / "files", *arguments), runner)
                runner.run(made[kind].adapter.open())
            return made[kind]

        yield bench
        for each in made.values():
            runner.run(each.adapter.close())
    with capture.global_and_fixture_disabled():
        for kind, each in made.items():
            terminal.write(f"\n{kind}: {each.coverage}")


@pytest.mark.parametrize("kind", KINDS)
def test_any_order_of_events_keeps_the_rules(benches: Callable[[str], Bench], kind: str) -> None:
    bench = benches(kind)

    @settings(max_examples=round(EXAMPLES * KINDS[kind].share), phases=PHASES, report_multiple_bugs=False)
    @given(plans(bench.adapter))
    def explore(drawn: tuple[Setup, list[Step]]) -> None:
        bench.run(*drawn)

    explore()


TURNS = [Step("loop", "turns", 8)] * 4
SETTLE = Step("loop", "settle")
CASES: dict[str, tuple[Setup, list[Step]]] = {
    "nothing happens": (Setup(), []),
    "a backend ends while an upload waits for it": (
        Setup(paused=True, window=4096),
        [Step("client", "send", 300_000), *TURNS, Step("far", "end"), *TURNS, Step("client", "end"), *TURNS],
    ),
    "a backend ends while keys are exchanged": (
        Setup(),
        [Step("client", "send", 32768), Step("link", "rekey"), Step("far", "end"), Step("client", "end")],
    ),
    "a backend ends while nothing can leave": (
        Setup(),
        [Step("link", "stall"), Step("client", "send", 1 << 20), *TURNS, Step("far", "end"), *TURNS],
    ),
    "a channel is closed without an EOF": (
        Setup(),
        [Step("client", "pause"), Step("far", "send", 300_000), *TURNS, Step("far", "close_only"), *TURNS],
    ),
    "a backend answers early, and closes": (
        Setup(),
        [Step("client", "pause"), Step("client", "send", 1 << 20), Step("far", "send", 32768), Step("far", "close")],
    ),
    "a backend has closed before the client is joined": (
        Setup(early=(Step("far", "send", 1 << 20), Step("far", "close")), small=False),
        [Step("client", "send", 300_000), Step("client", "pause"), Step("client", "end"), *TURNS],
    ),
    "a client that its backend has left resets its connection": (
        Setup(early=(Step("far", "send", 1 << 20), Step("far", "close")), small=False),
        [
            Step("client", "send", 300_000), Step("client", "pause"), Step("client", "end"), *TURNS,
            Step("client", "close"),
        ],
    ),
    "a client resets its connection during a response": (
        Setup(),
        [Step("far", "send", 32768), Step("client", "reset"), SETTLE],
    ),
    "a client resets its connection during a request and a response": (
        Setup(),
        [Step("client", "send", 100_000), *TURNS, Step("far", "send", 1 << 20), Step("client", "reset")],
    ),
    "a client closes, and what it sent is lost to an answer": (
        Setup(),
        [Step("client", "send", 100_000), Step("client", "close"), Step("far", "send", 1 << 20)],
    ),
    "a client resets its connection while its backend takes nothing": (
        Setup(paused=True, window=4096),
        [Step("client", "send", 100_000), *TURNS, Step("client", "reset"), SETTLE],
    ),
    "a client resets its connection after its upload has filled a window": (
        Setup(window=65536, small=False),
        [
            Step("client", "send", 100_000), Step("loop", "turns", 2), Step("client", "reset"), Step("far", "pause"),
            SETTLE,
        ],
    ),
    "a backend resets its connection during a request": (
        Setup(paused=True),
        [Step("client", "send", 300_000), Step("far", "reset"), SETTLE],
    ),
    "a backend closes after its end, and has not taken everything": (
        Setup(paused=True),
        [
            Step("far", "send", 1000), Step("far", "end"), SETTLE, Step("client", "send", 1000), *TURNS,
            Step("far", "close"),
        ],
    ),
    "the link is lost after a response": (
        Setup(),
        [Step("far", "send", 1000), Step("far", "end"), SETTLE, Step("client", "send", 1000), SETTLE,
            Step("link", "kill")],
    ),
    "a client ends before its backend": (Setup(), [Step("client", "send", 1000), Step("client", "end"), SETTLE]),
    "a backend ends before its client": (Setup(), [Step("far", "end"), SETTLE, Step("client", "send", 100_000)]),
    "a backend closes at once": (
        Setup(early=(Step("far", "send", 300_000), Step("far", "close")), small=False),
        [Step("client", "pause"), *TURNS],
    ),
    "a large upload precedes both ends": (Setup(), [Step("client", "send", 1 << 20)]),
    "a request of the channel is under way while it is closed": (
        Setup(),
        [Step("far", "extra", 1), Step("link", "abort")],
    ),
    "a backend answers and closes while a large upload is on its way": (
        Setup(small=False),
        [
            Step("client", "pause"), *([Step("client", "send", 1)] * 5), Step("client", "send", 300_000),
            Step("loop", "turns", 8), Step("loop", "turns", 3), Step("client", "send", 1),
            Step("client", "send", 300_000), Step("far", "send", 300_000), Step("far", "close"),
        ],
    ),
    "both sides begin to exchange keys": (
        Setup(),
        [
            Step("client", "send", 300_000), Step("far", "send", 300_000), Step("link", "rekey"),
            Step("link", "rekey_by_peer"), SETTLE,
        ],
    ),
    "the link is lost during a request and a response": (
        Setup(),
        [Step("client", "send", 300_000), Step("far", "send", 1 << 20), *TURNS, Step("link", "kill")],
    ),
}  # fmt: skip


def possible(kind: str, case: str) -> bool:
    """Return whether this kind of relay supports all actions of a case in `CASES`."""
    setup, plan = CASES[case]
    adapter = KINDS[kind].adapter
    verbs = {
        "far": {*adapter.far_verbs, *adapter.far_last_verbs},
        "link": {*adapter.link_verbs, *adapter.kill_verbs, "abort"},
    }
    return all(step.verb in verbs.get(step.who, {step.verb}) for step in (*setup.early, *plan))


@pytest.mark.parametrize(("kind", "case"), [(kind, case) for kind in KINDS for case in CASES if possible(kind, case)])
def test_a_known_order_of_events_keeps_the_rules(benches: Callable[[str], Bench], kind: str, case: str) -> None:
    benches(kind).run(*CASES[case])
