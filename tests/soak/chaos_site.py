"""Runs the test site for the chaos tests: a gateway, two bastions, databases, and an NFS server."""

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gateway.demo import mariadb, nfs, postgres
from gateway.demo.server_process import ServerProcess, find, free_port
from gateway.demo.sshd import Bastion
from gateway.ops.ops_api_client import OpsApiClient
from tests.soak.chaos_config import chaos_config
from tests.support.files import PYTHON_PATH
from tests.support.redis import Redis

PSQL_PASSFILE_MODE = 0o600
_RETURN_TIMEOUT = 60.0
_PROGRAM = """\
#!/bin/sh
cd {folder}
if [ -e noisy ]; then yes 'the cloud is not reachable' | head -c 100000000 >&2 & fi
exec socat "TCP-LISTEN:$1,bind=127.0.0.1,fork" "TCP:$2:$3"
"""
"""The program of the tunnel `cloud`. Its arguments are its local port, the target's host, and the target's port.

While the file `noisy` exists, each new process of the program prints 100 MB to its standard error.
"""


@dataclass
class Site:
    """The gateway, and the servers that it connects to.

    Args:
        folder: Directory for the files of the gateway and all servers.
        bastion: The SSH server of the tunnel `bastion`.
        spare: The SSH server of the tunnel `spare`. The backend `ledger` prefers this tunnel to `bastion`.
        mariadb: The database of the backends `orders`, `ledger` and `archive`.
        postgres: The database of the backend `reports`.
        redis: The Redis server of the backend `sessions`.
        nfs: The NFS server of the backend `media`; None if this machine cannot run an NFS server.
        ports: The port of each backend's listener.
        gateway: The gateway's process.
        admin: A client of the gateway's admin socket.
    """

    folder: Path
    bastion: Bastion
    spare: Bastion
    mariadb: mariadb.MariaDB
    postgres: postgres.Postgres
    redis: Redis
    nfs: nfs.NfsServer | None
    ports: dict[str, int]
    gateway: ServerProcess
    admin: OpsApiClient
    ops_port: int = 0
    digest: str = ""
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def status(self) -> dict[str, object]:
        """Return the gateway's status."""
        return dict(self.admin.get("/api/v1/status")[1])

    def up(self) -> bool:
        """Return whether every backend is up over every path."""
        backends = self.admin.get("/api/v1/status")[1]["backends"].values()
        return all(each["state"] == "up" and all(path["up"] for path in each["paths"]) for each in backends)

    def wait_in_use(self, backend: str, tunnel: str) -> None:
        """Wait until new clients of `backend` use the path through `tunnel`.

        After a failure of a path, the gateway uses the path again only after a delay.

        Raises:
            TimeoutError: New clients do not use the path within `_RETURN_TIMEOUT` seconds.
        """
        deadline = time.monotonic() + _RETURN_TIMEOUT
        while time.monotonic() < deadline:
            paths = self.admin.get("/api/v1/status")[1]["backends"][backend]["paths"]
            if any(path["tunnel"] == tunnel and path["up"] and path["in_use"] for path in paths):
                return
            time.sleep(0.05)
        raise TimeoutError(f"{backend} does not use {tunnel}")

    def signal_programs(self, number: signal.Signals) -> None:
        """Send a signal to each process of the tunnel `cloud`."""
        for thread in Path(f"/proc/{self.gateway.pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError):  # a thread can exit during the loop
                for child in (thread / "children").read_text().split():
                    _signal_program(int(child), number)


def _signal_program(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        if Path(f"/proc/{pid}/comm").read_text() == "socat\n":
            os.killpg(pid, number)


def missing() -> str | None:
    """Return a program that the site needs, but this machine lacks; None if no program is missing."""
    if find("sshd") is None:
        return "sshd (package openssh-server)"
    if not mariadb.available():
        return "mariadbd (package mariadb-server)"
    if not postgres.available():
        return "postgres (package postgresql)"
    for program in ("socat", "redis-server"):
        if find(program) is None:
            return f"{program} (package {program})"
    return None


@contextlib.contextmanager
def running(folder: Path, hold: int) -> Iterator[Site]:
    """Run the site until the block ends. If no target can be reached, new clients wait for at most `hold` seconds."""
    with contextlib.ExitStack() as stack:
        bastion = Bastion(folder / "bastion").start()
        stack.callback(bastion.stop)
        spare = Bastion(folder / "spare", address="127.0.0.2").start()
        stack.callback(spare.stop)
        maria = mariadb.MariaDB(folder / "mariadb").start()
        stack.callback(maria.stop)
        pg = postgres.Postgres(folder / "postgres").start()
        stack.callback(pg.stop)
        redis = Redis(folder / "redis").start()
        stack.callback(redis.stop)
        files = _nfs(folder, stack)
        names = ("orders", "ledger", "archive", "reports", "sessions", "media")
        ops, ports = free_port(), {name: free_port() for name in names}
        program = folder / "program"
        program.write_text(_PROGRAM.format(folder=folder))
        program.chmod(stat.S_IRWXU)
        config = folder / "gateway.yaml"
        config.write_text(
            chaos_config(folder, ops, bastion, spare, maria, pg, redis, files, ports).replace(
                "hold: 20s", f"hold: {hold}s"
            )
        )
        gateway = ServerProcess(
            [sys.executable, "-m", "gateway", "run", "-c", str(config)],
            folder / "gateway.log",
            environment={"PYTHONPATH": PYTHON_PATH},
        )
        gateway.start(ops)
        stack.callback(gateway.stop, signal.SIGTERM)
        yield Site(
            folder,
            bastion,
            spare,
            maria,
            pg,
            redis,
            files,
            ports,
            gateway,
            OpsApiClient(None, str(folder / "admin.sock")),
            ops,
            stack=stack,
        )


def _nfs(folder: Path, stack: contextlib.ExitStack) -> nfs.NfsServer | None:
    if not nfs.available() or shutil.which("nfs-cat") is None:
        return None
    export = folder / "export"
    export.mkdir()
    # One of the faults fills the export, so the export has its own file system. NFS-Ganesha cannot export tmpfs.
    image = folder / "export.img"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True, timeout=20)
    subprocess.run(["mount", "-o", "loop", str(image), str(export)], check=True, timeout=20)
    stack.callback(subprocess.run, ["umount", "-l", str(export)], check=False, timeout=10)
    server = nfs.NfsServer(folder / "nfs", export).start()
    stack.callback(server.stop)
    return server
