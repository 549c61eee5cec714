"""Creates a Docker swarm of two engines, each in its own network namespace. A bridge connects the namespaces."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from pyroute2 import netns  # type: ignore[import-untyped]

from tests.support.engines import Engine
from tests.support.netns import inside, run

BRIDGE = "gw-swbr"
"""The name of the bridge that connects the engines. The bridge is in the namespace `SPACES[0]`."""
SPACES = [f"gw-{os.getpid()}-sw{number}" for number in range(3)]
"""The network namespaces of the bridge and of the two engines. Each test process uses different names."""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=10, capture_output=True)


@contextlib.contextmanager
def two_engines(folder: Path) -> Iterator[tuple[Engine, Engine]]:
    """Run two engines, with the addresses 10.77.0.1 and 10.77.0.2, until the `with` block ends."""
    engines: list[Engine] = []
    middle, *nodes = SPACES
    for space in SPACES:
        if space in netns.listnetns():
            ip("netns", "del", space)
        ip("netns", "add", space)
        ip("-n", space, "link", "set", "lo", "up")
    try:
        ip("-n", middle, "link", "add", BRIDGE, "type", "bridge")
        ip("-n", middle, "link", "set", BRIDGE, "up")
        for at, space in enumerate(nodes, 1):
            ends = ("netns", middle, "type", "veth", "peer", "name", "eth0", "netns", space)
            ip("link", "add", f"gw-v{at}", *ends)
            ip("-n", middle, "link", "set", f"gw-v{at}", "master", BRIDGE, "up")
            ip("-n", space, "addr", "add", f"10.77.0.{at}/24", "dev", "eth0")
            ip("-n", space, "link", "set", "eth0", "up")
            ip("-n", space, "route", "add", "default", "via", "10.77.0.254")
            with inside(space):
                # The namespaces have no DNS server. With this rule, DNS queries fail immediately.
                for proto in ("udp", "tcp"):
                    run(f"iptables -A OUTPUT -o eth0 -p {proto} --dport 53 -j REJECT")
        for at, space in enumerate(nodes, 1):
            engine = Engine(folder / f"node{at}", space).start()
            engines.append(engine)
            engine.load_busybox()
            engine.load_host()
        first, second = engines
        yield first, second
    finally:
        for engine in reversed(engines):
            engine.docker("swarm", "leave", "--force", check=False)
            engine.stop()
        for space in SPACES:
            with contextlib.suppress(subprocess.CalledProcessError):
                ip("netns", "del", space)


def join(manager: Engine, worker: Engine) -> None:
    """Create a swarm on the first engine, and add the second engine as a worker."""
    manager.docker("swarm", "init", "--advertise-addr", "10.77.0.1")
    token = manager.docker("swarm", "join-token", "-q", "worker").stdout.strip()
    worker.docker("swarm", "join", "--token", token, "10.77.0.1:2377")


@contextlib.contextmanager
def two_nodes(folder: Path) -> Iterator[tuple[Engine, Engine]]:
    """Run a swarm of two nodes, a manager and a worker, until the `with` block ends."""
    with two_engines(folder) as (manager, worker):
        join(manager, worker)
        yield manager, worker
