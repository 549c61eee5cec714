"""Tests whether the gateways of two nodes keep their addresses on an overlay network when they are recreated."""

import ipaddress
from pathlib import Path

import pytest

from tests.support.docker_site import address, warnings
from tests.support.engines import Engine
from tests.support.swarm_agents import Agent

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

IDLE = '{orders: {kind: tcp, targets: ["127.0.0.1:9"], listen: 0.0.0.0:3306, hold: 2s}}'
LOWER = ipaddress.ip_network("10.99.0.0/23")


def test_agents_of_two_nodes_keep_their_own_addresses(swarm: tuple[Engine, Engine], tmp_path: Path) -> None:
    manager, worker = swarm
    leader = Agent(manager, tmp_path / "one", "node-1").begin(IDLE)
    other = Agent(worker, tmp_path / "two", "node-2").begin(IDLE)
    # A worker can inspect an overlay network only after it attaches a container. Only then can the worker's agent
    # give the gateway an address in the reserved range.
    other.wait(lambda: ipaddress.ip_address(address(worker, "gateway", "mesh")) in LOWER, timeout=40)
    before = [address(each, "gateway", "mesh") for each in swarm]
    assert ipaddress.ip_address(before[0]) in LOWER
    assert before[0] != before[1]
    for agent, engine, expected in zip((leader, other), swarm, before, strict=True):
        agent.wait(lambda agent=agent: "may change" not in str(warnings(agent)))  # type: ignore[misc]
        engine.docker("rm", "-f", "gateway")
        engine.run("intruder", "--network", "mesh")
        assert ipaddress.ip_address(address(engine, "intruder", "mesh")) not in LOWER
        engine.run_gateway("gateway", agent.folder)
        agent.wait(lambda agent=agent: agent.attachment("gateway") == ("attached", None), timeout=40)  # type: ignore[misc]
        assert address(engine, "gateway", "mesh") == expected
        engine.docker("rm", "-f", "intruder")
    # If an agent requests an address that is in use, the agent gets another address.
    worker.docker("rm", "-f", "gateway")
    (other.folder / "state/docker.json").write_text(f'{{"endpoints": [], "addresses": {{"mesh": ["{before[0]}"]}}}}')
    worker.run_gateway("gateway", other.folder)
    other.wait(lambda: other.attachment("gateway") == ("attached", None), timeout=120)
    assert address(worker, "gateway", "mesh") != before[0]
