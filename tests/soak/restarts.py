"""Restarts two gateways alternately, while clients run transactions through HAProxy.

HAProxy forwards the clients to both gateways, and checks `/readyz` of each gateway. Each client keeps one connection,
and opens a new connection if a gateway has closed the old connection. A transaction that has begun must succeed.
"""

import argparse
import contextlib
import random
import signal
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import psycopg

from gateway.demo.postgres import Postgres
from gateway.demo.server_process import ServerProcess, find, free_port
from gateway.demo.sshd import Bastion
from gateway.ops.ops_api_client import OpsApiClient
from tests.support.files import PYTHON_PATH, scratch, write_secret

CLIENTS = 8
_THINK = (0.0, 0.1)


class Pooled(threading.Thread):
    """Runs transactions over a persistent connection. Each transaction pauses once, for up to 10 ms."""

    def __init__(self, server: Postgres, port: int) -> None:
        super().__init__(daemon=True)
        self.done = self.reconnects = 0
        self.failed: list[str] = []
        self.refused: list[str] = []
        self._server, self._port = server, port
        self._stop = threading.Event()
        self._held: psycopg.Connection[Any] | None = None

    def run(self) -> None:
        while not self._stop.is_set():
            connection = self._take()
            if connection is None:
                continue
            try:
                connection.execute("BEGIN")
            except psycopg.OperationalError:  # a gateway that stops is allowed to close idle connections
                self._drop()
                continue
            try:
                connection.execute("INSERT INTO reports (title) VALUES ('restart')")
                time.sleep(random.uniform(0, 0.01))
                connection.execute("SELECT 1")
                connection.execute("COMMIT")
                self.done += 1
            except psycopg.OperationalError as error:
                self.failed.append(str(error).replace("\n", " "))
                self._drop()
            time.sleep(random.uniform(*_THINK))
        self._drop()

    def stop(self) -> None:
        """Stop after the current transaction."""
        self._stop.set()

    def _take(self) -> "psycopg.Connection[Any] | None":
        if self._held is None:
            try:
                self._held = psycopg.connect(
                    host="127.0.0.1", port=self._port, user=self._server.user, password=self._server.password,
                    dbname=self._server.database, connect_timeout=20, autocommit=True,
                )  # fmt: skip
                self.reconnects += 1
            except psycopg.OperationalError as error:
                self.refused.append(str(error).replace("\n", " "))
                time.sleep(0.05)
        return self._held

    def _drop(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            with contextlib.suppress(psycopg.Error):
                held.close()


def restarts(count: int, folder: Path) -> int:
    """Restart the two gateways alternately, `count` times in total; return the exit code."""
    with contextlib.ExitStack() as stack:
        bastion = Bastion(folder / "bastion").start()
        stack.callback(bastion.stop)
        server = Postgres(folder / "postgres").start()
        stack.callback(server.stop)
        gateways = [_gateway(folder / f"gateway-{at}", bastion, server) for at in range(2)]
        for process, ops, _ in gateways:
            process.start(ops)
            stack.callback(process.stop, signal.SIGTERM)
        for _, ops, _ in gateways:
            _wait_ready(ops)
        address = _haproxy(folder, [(ops, port) for _, ops, port in gateways], stack)
        clients = [Pooled(server, address) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        time.sleep(1)
        codes = []
        for at in range(count):
            process, ops, _ = gateways[at % 2]
            codes.append(_terminate(process))
            process.start(ops)
            _wait_ready(ops)
            time.sleep(1.2)  # HAProxy needs this time to detect that the gateway is ready.
        for client in clients:
            client.stop()
        for client in clients:
            client.join(30)
    failed = [error for client in clients for error in client.failed]
    refused = [error for client in clients for error in client.refused]
    print(
        f"{count} restarts: {sum(client.done for client in clients)} transactions, {len(failed)} failed in flight, "
        f"{len(refused)} failed to connect, {sum(client.reconnects for client in clients) - CLIENTS} reconnects, "
        f"exit codes {sorted(set(codes))}"
    )
    for error in (failed + refused)[:10]:
        print("PROBLEM", error)
    return 1 if failed or refused or set(codes) != {0} else 0


def _gateway(folder: Path, bastion: Bastion, server: Postgres) -> tuple[ServerProcess, int, int]:
    folder.mkdir()
    ops, port = free_port(), free_port()
    write_secret(folder / "secret", server.check_password)
    (folder / "gateway.yaml").write_text(
        textwrap.dedent(f"""
        gateway: {{instance: {folder.name}, state_dir: {folder}/state}}
        ops: {{listen: "127.0.0.1:{ops}", admin_socket: {folder}/admin.sock}}
        shutdown: {{delay: 1s, drain: 3s}}
        tunnels:
          bastion: {{kind: ssh, host: 127.0.0.1, port: {bastion.port}, user: {bastion.user},
                     identity_files: [{bastion.client_key}], known_hosts: [{bastion.known_hosts}]}}
        backends:
          reports:
            kind: postgres
            via: bastion
            targets: ["127.0.0.1:{server.port}"]
            listen: 127.0.0.1:{port}
            check: {{user: {server.check_user}, password_file: {folder}/secret, database: {server.database}}}
    """)
    )
    process = ServerProcess(
        [sys.executable, "-m", "gateway", "run", "-c", str(folder / "gateway.yaml")],
        folder / "log",
        environment={"PYTHONPATH": PYTHON_PATH},
    )
    return process, ops, port


def _haproxy(folder: Path, servers: list[tuple[int, int]], stack: contextlib.ExitStack) -> int:
    port = free_port()
    lines = "\n".join(
        f"  server s{at} 127.0.0.1:{backend} check port {ops} inter 200ms fall 1 rise 1"
        for at, (ops, backend) in enumerate(servers)
    )
    (folder / "haproxy.cfg").write_text(
        "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  retries 3\n"
        f"listen reports\n  bind 127.0.0.1:{port}\n  balance roundrobin\n"
        f"  option httpchk\n  http-check send meth GET uri /readyz\n  http-check expect status 200\n{lines}\n"
    )
    process = ServerProcess(
        [find("haproxy") or "haproxy", "-db", "-f", str(folder / "haproxy.cfg")], folder / "haproxy.log"
    )
    process.start(port)
    stack.callback(process.stop)
    return port


def _wait_ready(ops: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(Exception):
            if OpsApiClient(f"http://127.0.0.1:{ops}", "").get("/readyz?require=reports")[0] == 200:
                return
        time.sleep(0.05)
    raise TimeoutError("the gateway was not ready in time")


def _terminate(process: ServerProcess) -> int:
    child = process._child
    assert child is not None
    process.send(signal.SIGTERM)
    code = child.wait(20)
    process.stop()
    return code


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=100)
    options = parser.parse_args()
    if find("haproxy") is None:
        print("this machine lacks haproxy", file=sys.stderr)
        return 2
    with scratch() as folder:
        return restarts(options.count, folder)


if __name__ == "__main__":
    sys.exit(main())
