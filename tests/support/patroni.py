"""Runs Patroni clusters. A cluster consists of an etcd server and two PostgreSQL servers."""

import contextlib
import json
import os
import secrets
import signal
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psycopg
import yaml

from gateway.demo.server_process import ServerProcess, find, free_port, run

_OWNER = "postgres"


def programs() -> list[Path]:
    """Return the program directory of each PostgreSQL version that a Debian package has installed, sorted by path."""
    return sorted(each.parent for each in Path("/usr/lib/postgresql").glob("*/bin/pg_isready"))


class Etcd:
    """An etcd server.

    Args:
        folder: The folder for the server's data.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.port, peer = free_port(), free_port()
        client_url, peer_url = f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{peer}"
        self._process = ServerProcess(
            [find("etcd") or "etcd", "--data-dir", f"{folder}/data", "--listen-client-urls", client_url,
             "--advertise-client-urls", client_url, "--listen-peer-urls", peer_url,
             "--initial-advertise-peer-urls", peer_url, "--initial-cluster", f"default={peer_url}",
             "--unsafe-no-fsync"],
            folder / "log",
        )  # fmt: skip

    def start(self) -> "Etcd":
        self._process.start(self.port)
        return self

    def stop(self) -> None:
        self._process.stop(signal.SIGKILL)


class PatroniCluster:
    """A Patroni cluster of two nodes. The nodes have the addresses 127.0.0.1 and 127.0.0.2, and use the same ports.

    Args:
        folder: The directory for the files of the cluster. The user `postgres` must have access to this directory.
    """

    user = "app"
    check_user = "gateway"
    hosts = ("127.0.0.1", "127.0.0.2")

    def __init__(self, folder: Path) -> None:
        self.port, self.rest_port = free_port(), free_port()
        self.password, self.check_password, self._superuser = (secrets.token_hex(8) for _ in range(3))
        self._etcd = Etcd(folder / "etcd")
        self._nodes = {host: self._node(folder / f"node{number}", host) for number, host in enumerate(self.hosts)}

    def _node(self, folder: Path, host: str) -> ServerProcess:
        folder.mkdir(parents=True)
        config = {
            "scope": "shop",
            "name": folder.name,
            "restapi": {"listen": f"{host}:{self.rest_port}", "connect_address": f"{host}:{self.rest_port}"},
            "etcd3": {"host": f"127.0.0.1:{self._etcd.port}"},
            "bootstrap": {
                "dcs": {
                    "ttl": 20, "loop_wait": 1, "retry_timeout": 3, "primary_start_timeout": 0,
                    "postgresql": {"use_pg_rewind": True, "use_slots": False},
                },
                "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, "no-sync", "data-checksums"],
            },
            "postgresql": {
                "listen": f"{host}:{self.port}",
                "connect_address": f"{host}:{self.port}",
                "bin_dir": str(programs()[-1]),
                "data_dir": f"{folder}/data",
                "pgpass": f"{folder}/pgpass",
                "authentication": {
                    "superuser": {"username": "postgres", "password": self._superuser},
                    "replication": {"username": "replicator", "password": self._superuser},
                },
                "pg_hba": [
                    "host replication replicator 127.0.0.0/8 scram-sha-256",
                    "host all all 127.0.0.0/8 scram-sha-256",
                ],
                "parameters": {"unix_socket_directories": str(folder), "fsync": "off", "shared_buffers": "16MB"},
            },
        }  # fmt: skip
        file = folder / "patroni.yaml"
        file.write_text(yaml.safe_dump(config))
        run(["chown", "-R", _OWNER, str(folder)])
        return ServerProcess([find("patroni") or "patroni", str(file)], folder / "log", user=_OWNER)

    def start(self) -> "PatroniCluster":
        """Start the cluster with the primary on 127.0.0.1, and wait until the replication to the other node works."""
        self._etcd.start()
        first, second = self.hosts
        self._nodes[first].spawn()
        self.wait(lambda: self.role(first) == "primary")
        with self.connect(first) as connection:
            connection.execute(f"CREATE ROLE {self.user} LOGIN PASSWORD '{self.password}'".encode())
            connection.execute(f"CREATE ROLE {self.check_user} LOGIN PASSWORD '{self.check_password}'".encode())
            connection.execute("CREATE TABLE writes (id bigserial PRIMARY KEY)")
            connection.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {self.user}".encode())
            connection.execute(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {self.user}".encode())
        self._nodes[second].spawn()
        self.wait(lambda: self.streams(second))
        return self

    def stop(self) -> None:
        """Stop all processes.

        The PostgreSQL servers continue to run when Patroni is killed, so this method stops them separately.
        """
        for node in self._nodes.values():
            node.stop(signal.SIGKILL)
        for host in self.hosts:
            if (pid := self._server_pid(host)) is not None:
                os.kill(pid, signal.SIGQUIT)  # an immediate shutdown
        self._etcd.stop()
        self.wait(lambda: all(self._server_pid(host) is None for host in self.hosts))

    def connect(self, host: str) -> "psycopg.Connection[Any]":
        """Connect directly to a node as the superuser."""
        return psycopg.connect(
            host=host, port=self.port, user="postgres", password=self._superuser, dbname="postgres", autocommit=True,
            connect_timeout=5,
        )  # fmt: skip

    def status(self, host: str) -> dict[str, Any]:
        """Return the status from the REST API of a node, or an empty dict if the API does not respond."""
        try:
            with urllib.request.urlopen(f"http://{host}:{self.rest_port}/patroni", timeout=5) as response:
                return dict(json.load(response))
        except urllib.error.HTTPError as error:
            return dict(json.load(error))
        except (OSError, ValueError):
            return {}

    def role(self, host: str) -> str:
        """Return the role of a node according to Patroni, or an empty string if the node does not run."""
        status = self.status(host)
        return str(status.get("role")) if status.get("state") == "running" else ""

    def streams(self, host: str) -> bool:
        """Return whether a node is a replica that receives changes from the primary."""
        status = self.status(host)
        return status.get("role") == "replica" and status.get("replication_state") == "streaming"

    def is_writable(self, host: str) -> bool:
        """Return whether the PostgreSQL server of a node responds, and reports that it is a primary."""
        try:
            with self.connect(host) as connection:
                row = connection.execute("SELECT pg_is_in_recovery()").fetchone()
        except psycopg.OperationalError:
            return False
        return row is not None and not row[0]

    def switch_over(self, leader: str, candidate: str) -> None:
        """Request a switchover from `leader` to `candidate`, and wait for Patroni's response."""
        names = {host: f"node{number}" for number, host in enumerate(self.hosts)}
        body = json.dumps({"leader": names[leader], "candidate": names[candidate]}).encode()
        request = urllib.request.Request(
            f"http://{leader}:{self.rest_port}/switchover", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310 - a fixed scheme
            response.read()

    def kill_postgres(self, host: str) -> None:
        """Kill the PostgreSQL server of a node with SIGKILL. Patroni later restarts the server as a replica."""
        pid = self._server_pid(host)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    def _server_pid(self, host: str) -> int | None:
        """Return the process ID of the PostgreSQL server of a node, or None if the server does not run."""
        data = self._folder(host) / "data"
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, IndexError):
            pid = int((data / "postmaster.pid").read_text().split()[0])
            if str(data) in Path(f"/proc/{pid}/cmdline").read_text():
                return pid
        return None

    def _folder(self, host: str) -> Path:
        return Path(self._nodes[host]._arguments[1]).parent

    @staticmethod
    def wait(condition: Any, timeout: float = 60.0) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.1)
