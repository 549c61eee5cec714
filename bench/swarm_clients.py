"""Compare two methods to identify clients on other nodes: a gateway on each node, and address reports between agents.

Part one measures which of two gateways Docker's name server returns to a container, before and after the gateway on
the container's node stops. The container is on an overlay network and on a network of the node.

Part two measures how soon an agent admits a container of the other node by the container's labels. The measurement
begins when the container starts, or when either agent restarts. Part two also measures how soon the agent stops
admitting a container after the container is removed.

Usage: python bench/swarm_clients.py [ROUNDS]     (requires root; starts two engines)
"""

import itertools
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.docker_site import SAYING
from tests.support.engines import Engine
from tests.support.swarm_agents import Agent, with_peers
from tests.support.swarms import two_nodes

QUERIES = 20


def main() -> None:
    """Run both parts and print the results."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    with tempfile.TemporaryDirectory(prefix="gateway-swarm-") as folder, two_nodes(Path(folder)) as (manager, worker):
        by_name(manager, worker)
        agents(manager, worker, Path(folder), rounds)


def by_name(manager: Engine, worker: Engine) -> None:
    """Measure which gateway a container reaches by name if each node has a gateway."""
    print("a gateway of the node, by name: how often each address of orders comes first")
    overlays = {"overlay": (), "overlay-internal": ("--internal",)}
    locals_ = {"a-node": (), "z-node": (), "a-node-internal": ("--internal",)}
    for name, options in overlays.items():
        manager.docker("network", "create", "-d", "overlay", "--attachable", *options, name)
    for number, engine in enumerate((manager, worker), 1):
        engine.run(f"gateway-{number}")
        for name, options in locals_.items():
            engine.docker("network", "create", *options, name)
        for name in (*overlays, *locals_):
            engine.docker("network", "connect", "--alias", "orders", name, f"gateway-{number}")
    own = worker.inspect("gateway-2")["NetworkSettings"]["Networks"]
    other = manager.inspect("gateway-1")["NetworkSettings"]["Networks"]
    whose = {other[name]["IPAddress"]: "of the other node, over the overlay" for name in overlays}
    whose |= {own[name]["IPAddress"]: "of its node, over the overlay" for name in overlays}
    whose |= {own[name]["IPAddress"]: "of its node, on the network of the node" for name in locals_}

    def ask(label: str) -> None:
        answers = Counter(whose.get(resolved(worker, "app"), "unknown") for _ in range(QUERIES))
        print(f"  {label}: {', '.join(f'{count} {who}' for who, count in answers.most_common())}")

    for overlay, local, swapped in itertools.product(overlays, locals_, (False, True)):
        first, second = (local, overlay) if swapped else (overlay, local)
        worker.run("app", "--network", first)
        worker.docker("network", "connect", second, "app")
        ask(f"{first} and then {second}")
        worker.docker("rm", "-f", "app")
    worker.run("app", "--network", "overlay")
    worker.docker("stop", "-t", "0", "gateway-2")
    ask("overlay, its node's gateway stopped")
    worker.docker("rm", "-f", "app")
    for number, engine in enumerate((manager, worker), 1):
        engine.docker("rm", "-f", f"gateway-{number}")


def resolved(engine: Engine, container: str) -> str:
    """Return the first address that the container's name server returns for the backend `orders`."""
    told = engine.docker("exec", container, "nslookup", "-type=a", "orders", check=False).stdout
    found = [line.split()[-1] for line in told.partition("Name:")[2].splitlines() if line.startswith("Address")]
    return found[0] if found else ""


def agents(manager: Engine, worker: Engine, folder: Path, rounds: int) -> None:
    """Measure how soon agents admit and remove containers if the agents exchange address reports."""
    manager.docker("network", "create", "--subnet", "10.77.1.0/24", "far")
    manager.run_python("db", SAYING.format(words="orders-here", seconds=0), "--network", "far", "--ip", "10.77.1.10")
    backend = (
        "{orders: {kind: tcp, targets: ['10.77.1.10:3306'], listen: 0.0.0.0:3306, allow: {label: gateway.backends}}}"
    )
    one = with_peers(Agent(manager, folder / "one", "node-1")).begin(backend)
    manager.docker("network", "connect", "far", "gateway")
    idle = '{idle: {kind: tcp, targets: ["127.0.0.1:9"], listen: 0.0.0.0:13306}}'
    with_peers(Agent(worker, folder / "two", "node-2")).begin(idle)
    one.wait(lambda: one.heard() == {"node-2": 1}, timeout=60)  # Node 2 reports one container: its gateway.
    print("agents that report to each other")
    took = []
    for _ in range(rounds):
        worker.run("app", "--network", "mesh", "--label", "gateway.backends=orders")
        took.append(one.wait(lambda: one.says_in(worker, "app") == "orders-here", timeout=30))
        worker.docker("rm", "-f", "app")
    show(f"{rounds} starts: admitted by label", took)
    worker.run("app", "--network", "mesh", "--label", "gateway.backends=orders")
    forgotten = []
    for _ in range(rounds):
        one.wait(lambda: one.heard() == {"node-2": 2}, timeout=30)
        worker.docker("kill", "app")
        forgotten.append(one.wait(lambda: one.heard() == {"node-2": 1}, timeout=30))
        worker.docker("start", "app")
    show(f"{rounds} kills: removed by the other node", forgotten)
    took = []
    for at in range(rounds):
        (manager if at % 2 else worker).docker("restart", "-t", "1", "gateway", timeout=60)
        took.append(one.wait(lambda: one.says_in(worker, "app") == "orders-here", timeout=60))
    show(f"{rounds} restarts of either agent: admitted again", took)
    before = [one.wait(lambda: one.says_in(worker, "app") == "orders-here", timeout=30) for _ in range(rounds)]
    show(f"{rounds} queries of a known container, with docker exec", before)
    worker.docker("kill", "gateway")
    lost = one.wait(lambda: one.heard() == {}, timeout=60)
    show("its agent killed: no longer admitted", [lost])


def show(what: str, took: list[float]) -> None:
    """Print the median and the maximum of the measured times."""
    print(f"  {what} after {statistics.median(took):.2f} s, worst {max(took):.2f} s")


if __name__ == "__main__":
    began = time.monotonic()
    main()
    print(f"in {time.monotonic() - began:.0f} s")
