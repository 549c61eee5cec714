"""Measure how uploads and queries share a slow network, through the gateway and through `ssh -L`.

The variants run one after the other over the same simulated network:
- the gateway with one SSH connection
- `ssh -L` with one connection for all clients
- `ssh -L` with one connection per client

Each program uses its default socket options and ciphers.

Usage: python bench/fair_share.py [--seconds N] [--rate BYTES] [--uploads N] [--queries N]
"""

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from site_paths import ROOT, MeasuredPath

from gateway.demo.server_process import ServerProcess, free_port
from gateway.demo.sshd import Bastion
from tests.support.share import Backend, measure
from tests.support.slow_link import Shape, SlowLink

FAIR, PROMPT = 0.5, 2.0
"""Goals of the gateway. `FAIR` is the minimum rate of the slowest upload, as a fraction of the mean rate of the
uploads. `PROMPT` is the maximum 99th percentile of the query latency, in seconds."""
SETTLE = 2.0
"""Seconds to wait between two variants. During this time, the simulated network delivers the data in its buffers."""
HEAD = ("", "SSH connections", "MB/s", "slowest upload / mean", "answers", "p50 s", "p99 s", "max s", "CPU s")


@contextlib.contextmanager
def gateway(folder: Path, bastion: Bastion, link: SlowLink, backend: int, count: int) -> Iterator[list[MeasuredPath]]:
    """Run the gateway with `count` SSH connections."""
    ops, listen = free_port(), free_port()
    (folder / "gateway.yaml").write_text(f"""
ops: {{listen: "127.0.0.1:{ops}", admin_socket: {folder}/admin.sock}}
shutdown: {{delay: 0s, drain: 1s}}
tunnels:
  slow: {{kind: ssh, host: 127.0.0.1, port: {link.port}, user: {bastion.user}, identity_files: [{bastion.client_key}],
         known_hosts: [{bastion.known_hosts}], host_key_alias: "[127.0.0.1]:{bastion.port}",
         connections: {{min: {count}, max: {count}}}}}
backends:
  all: {{kind: tcp, via: slow, targets: ["127.0.0.1:{backend}"], listen: "127.0.0.1:{listen}",
        check: {{interval: 1h}}}}
""")
    arguments = [sys.executable, "-m", "gateway", "run", "-c", str(folder / "gateway.yaml")]
    process = ServerProcess(arguments, folder / "gateway.log", environment={"PYTHONPATH": str(ROOT)})
    process.start(listen)
    try:
        yield [MeasuredPath("gateway", listen, process=process)]
    finally:
        process.stop()


@contextlib.contextmanager
def ssh(folder: Path, bastion: Bastion, link: SlowLink, backend: int, count: int) -> Iterator[list[MeasuredPath]]:
    """Run `count` processes of `ssh -L`, each with a separate SSH connection."""
    paths = []
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            listen = free_port()
            process = ServerProcess(
                ["ssh", "-F", "none", "-N", "-i", str(bastion.client_key), "-p", str(link.port),
                 "-o", f"UserKnownHostsFile={bastion.known_hosts}", "-o", f"HostKeyAlias=[127.0.0.1]:{bastion.port}",
                 "-L", f"127.0.0.1:{listen}:127.0.0.1:{backend}", f"{bastion.user}@127.0.0.1"],
                folder / "ssh.log",
            )  # fmt: skip
            process.start(listen)
            stack.callback(process.stop)
            paths.append(MeasuredPath("ssh -L", listen, process=process))
        yield paths


VARIANTS = {
    "gateway": (gateway, False),
    "`ssh -L`, one connection": (ssh, False),
    "`ssh -L`, one for each client": (ssh, True),
}
"""For each variant: the function that starts it, and whether the variant uses one connection per client."""


def compare(asked: argparse.Namespace, folder: Path) -> bool:
    """Measure all variants and print the table; return whether the gateway reached its goals."""
    reached = False
    clients = asked.uploads + asked.queries
    print(f"{asked.uploads} uploads and {asked.queries} clients with queries, "
          f"{asked.rate / 1e6:g} MB/s in each direction, "
          f"{asked.seconds:g} s each\n")  # fmt: skip
    print("| " + " | ".join(HEAD) + " |\n| --- |" + " ---: |" * (len(HEAD) - 1), flush=True)
    with contextlib.ExitStack() as stack:
        bastion = Bastion(folder / "bastion").start()
        stack.callback(bastion.stop)
        link = stack.enter_context(SlowLink(bastion.port, Shape(up=asked.rate, down=asked.rate)))
        for name, (start, for_each) in VARIANTS.items():
            with (
                Backend() as backend,
                start(folder, bastion, link, backend.port, clients if for_each else 1) as paths,
            ):
                ports = [paths[at % len(paths)].port for at in range(clients)]
                connections = link.figures().open
                before = sum(path.cpu() for path in paths)
                shares = measure(backend, ports, asked.uploads, asked.seconds)
                cpu = sum(path.cpu() for path in paths) - before
            answers = sum(map(len, shares.waits))
            waits = " | ".join(f"{shares.wait(share):.2f}" for share in (0.5, 0.99, 1.0))
            rate = sum(shares.uploads) / asked.seconds / 1e6
            got = f"{rate:.2f} | {shares.fairness:.2f} | {answers} | {waits}"
            print(f"| {name} | {connections} | {got} | {cpu:.2f} |", flush=True)
            if name == "gateway":
                reached = shares.fairness >= FAIR and shares.wait(0.99) <= PROMPT
            time.sleep(SETTLE)
    return reached


def main() -> int:
    """Compare the variants; return exit code 1 if the gateway missed its goals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=2e6, help="rate of the simulated network in bytes per second")
    parser.add_argument("--uploads", type=int, default=16)
    parser.add_argument("--queries", type=int, default=4)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as name:
        reached = compare(asked, Path(name))
    wanted = f"the slowest upload has {FAIR:g} of the mean or more, and 99 % of the answers come within {PROMPT:g} s"
    print(f"\nFor the gateway, {wanted}: {'reached' if reached else 'NOT reached'}.")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
