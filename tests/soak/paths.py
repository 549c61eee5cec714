"""Disables one of two bastions repeatedly, and measures how soon clients succeed through the other bastion."""

import argparse
import itertools
import os
import shutil
import signal
import statistics
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.demo.mariadb import MariaDB
from gateway.demo.server_process import ServerProcess, free_port
from gateway.demo.sshd import Bastion
from gateway.ops.ops_api_client import OpsApiClient as Ops
from tests.soak.chaos_site import missing
from tests.soak.load import Client, MySqlStep
from tests.support.files import PYTHON_PATH, scratch, write_secret

ADDRESSES = {"a": "127.0.0.1", "b": "127.0.0.2"}
PATIENCE = 5
"""Maximum number of seconds that a client waits for a response. If a bastion is suspended, its connections stay open,
so its clients wait for the full time."""
RECOVERY = 30.0


@dataclass(frozen=True)
class PathFault:
    """A fault of one bastion.

    Args:
        injected: The context manager that injects the fault, and reverts the fault after the block.
        lasts: The duration of the fault in seconds.
        limit: The limit in seconds for the 99th percentile of the recovery times of clients. A recovery time is the
            time from the start of the fault to the end of the client's next successful attempt.
    """

    injected: Callable[[Bastion], Any]
    lasts: float
    limit: float


@contextmanager
def killed(bastion: Bastion) -> Iterator[None]:
    """Kill the processes of a bastion (SIGKILL). Start the bastion again after the block."""
    bastion.crash()
    try:
        yield
    finally:
        bastion.start()


@contextmanager
def stopped(bastion: Bastion) -> Iterator[None]:
    """Suspend the processes of a bastion (SIGSTOP). Resume the processes after the block."""
    bastion.freeze()
    try:
        yield
    finally:
        bastion.thaw()


@contextmanager
def cut_off(bastion: Bastion) -> Iterator[None]:
    """Drop the packets to and from a bastion. Stop dropping packets after the block."""
    rules = [
        ["INPUT", "-i", "lo", "-p", "tcp", flag, str(bastion.port), "-j", "DROP"] for flag in ("--dport", "--sport")
    ]
    for rule in rules:
        subprocess.run(["iptables", "-w", "-I", *rule], check=True, timeout=10)
    try:
        yield
    finally:
        for rule in rules:
            subprocess.run(["iptables", "-w", "-D", *rule], check=False, timeout=10)


FAULTS = {
    "kill": PathFault(killed, 2.0, 1.5),
    "stop": PathFault(stopped, 9.0, 8.0),
    "drop": PathFault(cut_off, 9.0, 8.0),
}


def possible() -> list[str]:
    """Return the faults that this machine supports."""
    return [name for name in FAULTS if name != "drop" or (os.geteuid() == 0 and shutil.which("iptables"))]


@dataclass
class TwoPaths:
    """A gateway with two bastions in front of one database.

    The gateway reaches the backend `orders` through both bastions, the backend `only-a` only through bastion `a`, and
    the backend `only-b` only through bastion `b`.
    """

    bastions: dict[str, Bastion]
    server: MariaDB
    ports: dict[str, int]
    admin: Ops

    def backend(self, name: str) -> dict[str, Any]:
        """Return the status of a backend."""
        return dict(self.admin.get("/api/v1/status")[1]["backends"][name])

    def path_in_use(self) -> str:
        """Return the name of the bastion that new clients of `orders` use."""
        return next(str(each["tunnel"]) for each in self.backend("orders")["paths"] if each["in_use"])

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until the condition is true.

        Raises:
            TimeoutError: The condition does not become true within `RECOVERY` seconds.
        """
        deadline = time.monotonic() + RECOVERY
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: {self.admin.get('/api/v1/status')[1]}")
            time.sleep(0.05)

    def wait_ready(self) -> None:
        """Wait until both paths work."""
        names = ("orders", "only-a", "only-b")
        self.wait(
            lambda: all(
                each["state"] == "up" and all(path["up"] for path in each["paths"])
                for each in map(self.backend, names)
            ),
            "the site did not come up",
        )

    def clients(self, backend: str, count: int) -> list[Client]:
        """Create clients of a backend. Every second client opens a new connection for each query."""
        keeps = itertools.islice(itertools.cycle((True, False)), count)
        return [
            Client(backend, MySqlStep(self.server, self.ports[backend], keep, patience=PATIENCE)) for keep in keeps
        ]


@contextmanager
def running(folder: Path, options: str = "") -> Iterator[TwoPaths]:
    """Start the servers and the gateway; stop them after the block.

    Args:
        folder: The directory for the files of the servers and the gateway.
        options: Additional configuration keys of the backend `orders`.
    """
    with ExitStack() as stack:
        bastions = {name: Bastion(folder / name, address=address) for name, address in ADDRESSES.items()}
        for bastion in bastions.values():
            bastion.start()
            stack.callback(bastion.stop)
        server = MariaDB(folder / "mariadb").start()
        stack.callback(server.stop)
        ports = {name: free_port() for name in ("orders", "only-a", "only-b", "ops")}
        write_secret(folder / "secret", server.check_password)
        check = f"{{user: {server.check_user}, password_file: {folder}/secret, interval: 2s}}"
        config = folder / "gateway.yaml"
        backend = f'kind: mysql, targets: ["127.0.0.1:{server.port}"], check: {check}, hold: 20s'
        config.write_text(
            textwrap.dedent(f"""
            gateway: {{state_dir: {folder}/state}}
            ops: {{listen: "127.0.0.1:{ports["ops"]}", admin_socket: {folder}/admin.sock}}
            shutdown: {{delay: 0s, drain: 1s}}
            tunnels: {{a: {_tunnel(bastions["a"])}, b: {_tunnel(bastions["b"])}}}
            backends:
              orders: {{{backend}, via: [a, b], listen: "127.0.0.1:{ports["orders"]}"{options}}}
              only-a: {{{backend}, via: a, listen: "127.0.0.1:{ports["only-a"]}"}}
              only-b: {{{backend}, via: b, listen: "127.0.0.1:{ports["only-b"]}"}}
        """)
        )
        gateway = ServerProcess(
            [sys.executable, "-m", "gateway", "run", "-c", str(config)],
            folder / "gateway.log",
            environment={"PYTHONPATH": PYTHON_PATH},
        )
        gateway.start(ports["ops"])
        stack.callback(gateway.stop, signal.SIGTERM)
        site = TwoPaths(bastions, server, ports, Ops(None, str(folder / "admin.sock")))
        site.wait_ready()
        yield site


def _tunnel(bastion: Bastion) -> str:
    return (
        f"{{kind: ssh, host: {bastion.address}, port: {bastion.port}, user: {bastion.user}, "
        f"identity_files: [{bastion.client_key}], known_hosts: [{bastion.known_hosts}]}}"
    )


def strike(site: TwoPaths, fault: PathFault, load: list[Client], others: dict[str, list[Client]]) -> list[float]:
    """Inject a fault into the bastion that the clients of `orders` use.

    Args:
        site: The gateway and the servers.
        fault: The fault.
        load: The clients of `orders`.
        others: For each bastion, the clients that can use only this bastion.

    Returns:
        For each client of `orders`, the seconds from the start of the fault to the client's next success.

    Raises:
        AssertionError: A client that can use only the other bastion failed, or none of these clients made an attempt.
    """
    path = site.path_in_use()
    other = next(name for name in site.bastions if name != path)
    began = time.monotonic()
    with fault.injected(site.bastions[path]):
        time.sleep(fault.lasts)
        over = [client.next_success(began, RECOVERY) - began for client in load]
        ended = time.monotonic()
    bystanders = [each for client in others[other] for each in client.attempts if began <= each.ended <= ended]
    assert bystanders, "the clients of the other path made no attempt"
    assert [each for each in bystanders if each.outcome != "ok"] == []
    site.wait_ready()
    time.sleep(1)
    return over


def kill_both(site: TwoPaths, load: list[Client]) -> float:
    """Kill both bastions, and restart them after 3 s.

    Returns:
        The seconds from the restart until every client has succeeded.
    """
    with killed(site.bastions["a"]), killed(site.bastions["b"]):
        time.sleep(3)
    back = time.monotonic()
    over = max(client.next_success(back, RECOVERY) - back for client in load)
    site.wait_ready()
    return over


def run(count: int, kinds: list[str], folder: Path, slack: int = 0, clients: int = 8) -> int:
    """Inject faults into the bastion that the clients of `orders` use, and then kill both bastions.

    Args:
        count: The number of faults.
        kinds: The names of the faults, which the test injects in this order, repeatedly.
        folder: The directory for the files of the servers and the gateway.
        slack: The test multiplies each time limit by 1 + `slack`, because a busy machine needs more time.
        clients: The number of clients of the backend `orders`.

    Returns:
        The exit code.
    """
    problems: list[str] = []
    with running(folder) as site:
        load = site.clients("orders", clients)
        others = {name: site.clients(f"only-{name}", 2) for name in site.bastions}
        everyone = [*load, *others["a"], *others["b"]]
        for client in everyone:
            client.start()
        time.sleep(1)
        over: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _, kind in zip(range(count), itertools.cycle(kinds), strict=False):
            over[kind] += strike(site, FAULTS[kind], load, others)
        held = kill_both(site, load)
        for client in everyone:
            client.stop()
        for client in everyone:
            client.join(30)
        rejected = {name: site.backend(name)["connections"]["rejected"] for name in ("orders", "only-a", "only-b")}
        switches = sum(path["switches"] for path in site.backend("orders")["paths"])
    for kind, seconds in over.items():
        if seconds:
            p99 = statistics.quantiles(seconds, n=100, method="inclusive")[-1]
            print(
                f"{kind}: next success p50 {statistics.median(seconds):.2f} s, p99 {p99:.2f} s, "
                f"worst {max(seconds):.2f} s (limit of p99: {FAULTS[kind].limit:g} s)"
            )
            if p99 > FAULTS[kind].limit * (1 + slack):
                problems.append(f"{kind}: p99 is {p99:.2f} s")
    outcomes = [each.outcome for client in everyone for each in client.attempts]
    counts = {name: outcomes.count(name) for name in ("ok", "failed", "refused", "wrong", "late")}
    print(f"{count} faults, then both bastions killed: served {held:.2f} s after their return; {switches} switches")
    print(", ".join(f"{number} {name}" for name, number in counts.items()))
    problems += [f"{counts[name]} {name}" for name in ("refused", "wrong") if counts[name]]
    problems += [f"{name}: the gateway rejected {each}" for name, each in rejected.items() if each]
    if switches < count:
        problems.append(f"only {switches} switches")
    for problem in problems:
        print("PROBLEM", problem)
    return 1 if problems else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--clients", type=int, default=8, help="at most 60: MariaDB accepts 151 connections")
    parser.add_argument("--only", choices=FAULTS, help="inject only this fault")
    options = parser.parse_args()
    lacking = missing()
    if lacking is not None:
        print(f"this machine lacks {lacking}", file=sys.stderr)
        return 2
    with scratch() as folder:
        return run(options.count, [options.only] if options.only else possible(), folder, clients=options.clients)


if __name__ == "__main__":
    sys.exit(main())
