"""Every relay under the same contract: see relay_contract.py."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import relay_contract as contract
from conftest import need
from far_sides import CHACHA, GCM, OpenSsh, Scripted, Socks, Straight, Tls, _Base
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.demo.process import find
from gateway.relay.readiness import RelayLoop

pytestmark = [pytest.mark.rig, pytest.mark.timeout(900)]

EXAMPLES = int(os.environ.get("CONTRACT_EXAMPLES", "60"))
KINDS = ("straight", "socks5", "tls", "plane", "stock", "plane-sshd", "stock-sshd")


class Bench:
    def __init__(self, adaptor, runner):
        self.adaptor, self.runner = adaptor, runner
        self.coverage = contract.Coverage()

    def run(self, plan, setup=None):
        self.runner.run(contract.run(self.adaptor, plan, setup, self.coverage))


@pytest.fixture(scope="module", params=KINDS)
def bench(request, tmp_path_factory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("contract")
    make = {
        "straight": Straight, "socks5": Socks, "tls": lambda: Tls(folder / "ca"),
        "plane": lambda: Scripted(folder / "s", GCM), "stock": lambda: Scripted(folder / "s", CHACHA),
        "plane-sshd": lambda: OpenSsh(folder / "s", GCM), "stock-sshd": lambda: OpenSsh(folder / "s", CHACHA),
    }
    adaptor = make[request.param]()
    with asyncio.Runner(loop_factory=RelayLoop) as runner:
        runner.run(adaptor.open())
        made = Bench(adaptor, runner)
        yield made
        runner.run(adaptor.close())
    with request.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        print(f"\n{adaptor.name}: {made.coverage}", end="")


@settings(max_examples=EXAMPLES)
@given(st.data())
def test_any_order(bench, data) -> None:
    setup, plan = data.draw(contract.plans(bench.adaptor))
    bench.run(plan, setup)


def test_nothing(bench) -> None:
    bench.run([])
