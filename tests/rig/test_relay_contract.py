"""Every relay under the same contract, in any order of events: see `relay_contract`.

`CONTRACT_EXAMPLES` is how many connections each kind of relay is tried with.
"""

import asyncio
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import relay_contract as contract
from conftest import need
from far_sides import OpenSsh, Scripted, Socks, Straight, Tls
from hypothesis import given, settings
from plans import Setup, Step, plans

from gateway.demo.process import find
from gateway.relay import linger
from gateway.relay.readiness import RelayLoop

EXAMPLES = int(os.environ.get("CONTRACT_EXAMPLES", "100"))
pytestmark = [pytest.mark.rig, pytest.mark.timeout(600 + EXAMPLES)]

MAKERS: dict[str, Callable[[Path], Straight]] = {
    "straight": lambda _: Straight(),
    "socks5": lambda _: Socks(),
    "tls": Tls,
    "plane": lambda folder: Scripted(folder, "own"),
    "asyncssh": lambda folder: Scripted(folder, "asyncssh's"),
    "plane-sshd": lambda folder: OpenSsh(folder, "own"),
    "asyncssh-sshd": lambda folder: OpenSsh(folder, "asyncssh's"),
}
KINDS: dict[str, type[Straight]] = {
    "straight": Straight, "socks5": Socks, "tls": Tls, "plane": Scripted, "asyncssh": Scripted,
    "plane-sshd": OpenSsh, "asyncssh-sshd": OpenSsh,
}  # fmt: skip


@dataclass
class Bench:
    """One kind of relay, kept open for many connections."""

    adaptor: Straight
    runner: asyncio.Runner
    coverage: contract.Coverage = field(default_factory=contract.Coverage)

    def run(self, setup: Setup, plan: list[Step]) -> None:
        self.runner.run(contract.run(self.adaptor, plan, setup, self.coverage))


@pytest.fixture(scope="module")
def benches(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Callable[[str], Bench]]:
    made: dict[str, Bench] = {}
    capture = request.config.pluginmanager.get_plugin("capturemanager")
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner(loop_factory=RelayLoop) as runner:
        patch.setattr(linger, "_LOOK", 0.01)  # or each connection that lingers would take 0.25 s

        def bench(kind: str) -> Bench:
            need(find("sshd") is not None, "sshd (package openssh-server)")
            if kind not in made:
                made[kind] = Bench(MAKERS[kind](tmp_path_factory.mktemp("contract") / "files"), runner)
                runner.run(made[kind].adaptor.open())
            return made[kind]

        yield bench
        for each in made.values():
            runner.run(each.adaptor.close())
    with capture.global_and_fixture_disabled():
        for kind, each in made.items():
            print(f"\n{kind}: {each.coverage}", end="")


@pytest.mark.parametrize("kind", KINDS)
def test_any_order_of_events(benches: Callable[[str], Bench], kind: str) -> None:
    bench = benches(kind)

    @settings(max_examples=EXAMPLES)
    @given(plans(bench.adaptor))
    def explore(drawn: tuple[Setup, list[Step]]) -> None:
        bench.run(*drawn)

    explore()


CASES: dict[str, tuple[Setup, list[Step]]] = {
    "nothing at all": (Setup(), []),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_one_order_of_events(benches: Callable[[str], Bench], kind: str, case: str) -> None:
    benches(kind).run(*CASES[case])
