"""Measure new MySQL connections through an SSH tunnel: their rate, and the CPU time of the gateway or of `ssh -L`.

Clients of `mariadb-slap` log in, run one query, and disconnect. In each round, the clients connect through a gateway
and through `ssh -L` with AES-GCM, in alternating order. The output contains the medians of the rounds.

Usage: python bench/mysql_connections.py [CLIENTS] [CONNECTIONS] [ROUNDS] [CHECKOUT ...]

CHECKOUT is the path of another checkout of the project with a built native engine, for a comparison of two versions.
"""

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from site_paths import ROOT, MeasuredPath, Start, ssh_forward, starter

from gateway.demo.mariadb import MariaDB
from gateway.demo.server_process import find, free_port
from gateway.demo.sshd import Bastion

_CIPHER = "aes128-gcm@openssh.com"
_TIMEOUT = 300.0


def main(clients: int, connections: int, rounds: int, checkouts: Sequence[Path]) -> None:
    """Measure and print the results."""
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        folder = Path(directory)
        folder.chmod(0o755)  # the server runs as another user
        server = MariaDB(folder / "mariadb").start()
        stack.callback(server.stop)
        bastion = Bastion(folder / "bastion").start()
        stack.callback(bastion.stop)
        start = starter(folder, stack)
        paths = [ssh_forward("ssh -L, AES-GCM", ["-c", _CIPHER], bastion, server.port, {}, 0, start)]
        for at, checkout in enumerate((ROOT, *checkouts)):
            paths.append(_gateway(folder / str(at), checkout, bastion, server, start))
        taken: dict[str, list[tuple[float, float]]] = {each.name: [] for each in paths}
        for number in range(rounds):
            for each in reversed(paths) if number % 2 else paths:
                taken[each.name].append(_measure(each, server, clients, connections))
        print(f"{clients} clients, {connections} connections, {rounds} rounds, {os.cpu_count()} CPUs")
        for name, values in taken.items():
            rate, cpu = (statistics.median(column) for column in zip(*values, strict=True))
            print(f"  {name}: {rate:,.0f} connections/s, {cpu:.0f} us of CPU time per connection")


def _measure(path: MeasuredPath, server: MariaDB, clients: int, connections: int) -> tuple[float, float]:
    """Return the connections per second, and the microseconds of CPU time per connection."""
    before, started = path.cpu(), time.perf_counter()
    subprocess.run(
        [
            find("mariadb-slap") or "mariadb-slap", "--host=127.0.0.1", f"--port={path.port}", "--skip-ssl",
            f"--user={server.user}", f"--create-schema={server.database}", "--no-drop", "--query=SELECT 1",
            f"--concurrency={clients}", f"--number-of-queries={connections}", "--detach=1", "--silent",
        ],
        env=os.environ | {"MYSQL_PWD": server.password},
        stdout=subprocess.DEVNULL,
        check=True,
        timeout=_TIMEOUT,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    return connections / seconds, (path.cpu() - before) / connections * 1e6


def _gateway(folder: Path, checkout: Path, bastion: Bastion, server: MariaDB, start: Start) -> MeasuredPath:
    """Start the gateway of a checkout; return a path for measurements of the MySQL server through this gateway."""
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
    arguments = [sys.executable, "-m", "gateway", "run", "-c", str(config)]
    process = start(arguments, f"gateway{folder.name}", ops, port, root=checkout)
    time.sleep(3)  # wait for the first checks
    return MeasuredPath(f"gateway {checkout}", port, process=process)


if __name__ == "__main__":
    given = [int(each) for each in sys.argv[1:4]]
    clients, connections, rounds = (*given, *(8, 8000, 5)[len(given) :])
    main(clients, connections, rounds, [Path(each).resolve() for each in sys.argv[4:]])
