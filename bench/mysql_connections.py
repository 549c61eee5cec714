"""Measure new MySQL connections through an SSH tunnel: their rate, and the CPU time of the gateway or of `ssh -L`.

Clients of `mariadb-slap` log in, run one query, and disconnect. In each round, the clients connect through a gateway
and through `ssh -L` with AES-GCM, in alternating order. The output contains the medians of the rounds.

Usage: python bench/mysql_connections.py [CLIENTS] [CONNECTIONS] [ROUNDS] [CHECKOUT ...]

CHECKOUT is the path of another checkout of the project with a virtual environment, for a comparison of two versions.
"""

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

from site_paths import ROOT

from gateway.demo.mariadb import MariaDB
from gateway.demo.process import ServerProcess, find, free_port
from gateway.demo.sshd import Bastion

_CIPHER = "aes128-gcm@openssh.com"
_TIMEOUT = 300.0


class Forward(NamedTuple):
    """A port that leads to the server, and the process that forwards its connections."""

    port: int
    process: ServerProcess

    def cpu_seconds(self) -> float:
        """Return the CPU time that the process has used."""
        user, system = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def main(clients: int, connections: int, rounds: int, checkouts: Sequence[Path]) -> None:
    """Measure and print the results."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)  # the server runs as another user
        server = MariaDB(folder / "mariadb").start()
        stack.callback(server.stop)
        bastion = Bastion(folder / "bastion").start()
        stack.callback(bastion.stop)
        forwards = {"ssh -L": stack.enter_context(_ssh(folder, bastion, server))}
        for at, checkout in enumerate((ROOT, *checkouts)):
            forwards[f"gateway {checkout}"] = stack.enter_context(
                _gateway(folder / str(at), checkout, bastion, server)
            )
        taken: dict[str, list[tuple[float, float]]] = {each: [] for each in forwards}
        for number in range(rounds):
            for each in sorted(forwards, reverse=number % 2 == 1):
                taken[each].append(_measure(forwards[each], server, clients, connections))
        print(f"{clients} clients, {connections} connections, {rounds} rounds, {os.cpu_count()} CPUs")
        for each, values in taken.items():
            rate, cpu = (statistics.median(column) for column in zip(*values, strict=True))
            print(f"  {each}: {rate:,.0f} connections/s, {cpu:.0f} us of CPU time per connection")


def _measure(forward: Forward, server: MariaDB, clients: int, connections: int) -> tuple[float, float]:
    """Return the connections per second, and the microseconds of CPU time per connection."""
    before, started = forward.cpu_seconds(), time.perf_counter()
    subprocess.run(
        [
            find("mariadb-slap") or "mariadb-slap", "--host=127.0.0.1", f"--port={forward.port}", "--skip-ssl",
            f"--user={server.user}", f"--create-schema={server.database}", "--no-drop", "--query=SELECT 1",
            f"--concurrency={clients}", f"--number-of-queries={connections}", "--detach=1", "--silent",
        ],
        env=os.environ | {"MYSQL_PWD": server.password},
        stdout=subprocess.DEVNULL,
        check=True,
        timeout=_TIMEOUT,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    return connections / seconds, (forward.cpu_seconds() - before) / connections * 1e6


@contextlib.contextmanager
def _gateway(folder: Path, checkout: Path, bastion: Bastion, server: MariaDB) -> Iterator[Forward]:
    folder.mkdir()
    ops, port = free_port(), free_port()
    password = folder / "password"
    password.touch(0o600)
    password.write_text(server.check_password)
    keys = f"kind: ssh, host: 127.0.0.1, port: {bastion.port}, user: {bastion.user}"
    files = f"identity_files: [{bastion.client_key}], known_hosts: [{bastion.known_hosts}]"
    login = f"user: {server.check_user}, password_file: {password}, tls: {{mode: off}}"
    config = folder / "gateway.yaml"
    config.write_text(
        f"gateway: {{state_dir: {folder}/state}}\n"
        f"ops: {{listen: 127.0.0.1:{ops}, admin_socket: {folder}/admin.sock}}\n"
        f"tunnels: {{edge: {{{keys}, {files}}}}}\n"
        f"backends: {{shop: {{kind: mysql, via: edge, targets: ['127.0.0.1:{server.port}'],"
        f" listen: 127.0.0.1:{port}, check: {{{login}}}}}}}\n"
    )
    python = checkout / ".venv/bin/python" if checkout != ROOT else Path(sys.executable)
    service = ServerProcess(
        [str(python), "-m", "gateway", "run", "-c", str(config)],
        folder / "log",
        environment={"PYTHONPATH": str(checkout)},
    )
    service.start(ops)
    try:
        time.sleep(3)  # until the first checks are done
        yield Forward(port, service)
    finally:
        service.stop()


@contextlib.contextmanager
def _ssh(folder: Path, bastion: Bastion, server: MariaDB) -> Iterator[Forward]:
    port = free_port()
    client = ServerProcess(
        [
            find("ssh") or "ssh", "-N", "-F", "/dev/null", "-c", _CIPHER, "-p", str(bastion.port),
            "-i", str(bastion.client_key), "-o", f"UserKnownHostsFile={bastion.known_hosts}",
            "-o", "IdentitiesOnly=yes", "-L", f"127.0.0.1:{port}:127.0.0.1:{server.port}",
            f"{bastion.user}@127.0.0.1",
        ],
        folder / "ssh.log",
    )  # fmt: skip
    client.start(port)
    try:
        yield Forward(port, client)
    finally:
        client.stop()


if __name__ == "__main__":
    given = [int(each) for each in sys.argv[1:4]]
    clients, connections, rounds = (*given, *(8, 8000, 5)[len(given) :])
    main(clients, connections, rounds, [Path(each).resolve() for each in sys.argv[4:]])
