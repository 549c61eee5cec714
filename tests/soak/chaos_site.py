"""Runs the site for chaos tests: a bastion, two databases, an NFS server, and a gateway."""

import contextlib
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gateway.demo import mariadb, nfs, postgres
from gateway.demo.process import Process, find, free_port
from gateway.demo.sshd import Bastion
from gateway.ops.service_client import ServiceClient
from tests.support.files import REPOSITORY, write_secret

PSQL_PASSFILE_MODE = 0o600


@dataclass
class Site:
    """The running servers and processes of the site.

    Args:
        folder: Directory for the files of all parts.
        bastion: The SSH server in front of the backends.
        spare: Another SSH server. The backend `ledger` uses it, and `bastion` while the server does not work.
        mariadb: Database behind the bastion.
        postgres: Database behind the bastion.
        nfs: NFS server behind the bastion; None if this machine cannot run it.
        ports: Ports of the gateway's listeners.
        gateway: The gateway's process.
        admin: The gateway's admin socket.
    """

    folder: Path
    bastion: Bastion
    spare: Bastion
    mariadb: mariadb.MariaDB
    postgres: postgres.Postgres
    nfs: nfs.NfsServer | None
    ports: dict[str, int]
    gateway: Process
    admin: ServiceClient
    ops_port: int = 0
    digest: str = ""
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def status(self) -> dict[str, object]:
        """Return the gateway's status."""
        return dict(self.admin.get("/api/v1/status")[1])

    def up(self) -> bool:
        """Return whether every backend is up through every way."""
        backends = self.admin.get("/api/v1/status")[1]["backends"].values()
        return all(each["state"] == "up" and all(way["up"] for way in each["ways"]) for each in backends)


def missing() -> str | None:
    """Return what this machine lacks to run the site."""
    if find("sshd") is None:
        return "sshd (package openssh-server)"
    if not mariadb.available():
        return "mariadbd (package mariadb-server)"
    if not postgres.available():
        return "postgres (package postgresql)"
    return None


@contextlib.contextmanager
def running(folder: Path, hold: int) -> Iterator[Site]:
    """Start the site, with backends that hold clients for `hold` seconds; stop the site after the block."""
    with contextlib.ExitStack() as stack:
        bastion = Bastion(folder / "bastion").start()
        stack.callback(bastion.stop)
        spare = Bastion(folder / "spare", address="127.0.0.2").start()
        stack.callback(spare.stop)
        maria = mariadb.MariaDB(folder / "mariadb").start()
        stack.callback(maria.stop)
        pg = postgres.Postgres(folder / "postgres").start()
        stack.callback(pg.stop)
        files = _nfs(folder, stack)
        ops, ports = free_port(), {name: free_port() for name in ("orders", "ledger", "reports", "media")}
        config = folder / "gateway.yaml"
        config.write_text(
            _config(folder, ops, bastion, spare, maria, pg, files, ports).replace("hold: 20s", f"hold: {hold}s")
        )
        gateway = Process(
            [sys.executable, "-m", "gateway", "run", "-c", str(config)],
            folder / "gateway.log",
            environment={"PYTHONPATH": str(REPOSITORY)},
        )
        gateway.start(ops)
        stack.callback(gateway.stop, signal.SIGTERM)
        yield Site(
            folder,
            bastion,
            spare,
            maria,
            pg,
            files,
            ports,
            gateway,
            ServiceClient(None, str(folder / "admin.sock")),
            ops,
            stack=stack,
        )


def _nfs(folder: Path, stack: contextlib.ExitStack) -> nfs.NfsServer | None:
    if not nfs.available() or shutil.which("nfs-cat") is None:
        return None
    export = folder / "export"
    export.mkdir()
    # A fault fills the export, so the export has a separate file system. tmpfs has no file handles for NFS-Ganesha.
    image = folder / "export.img"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True, timeout=20)
    subprocess.run(["mount", "-o", "loop", str(image), str(export)], check=True, timeout=20)
    stack.callback(subprocess.run, ["umount", "-l", str(export)], check=False, timeout=10)
    server = nfs.NfsServer(folder / "nfs", export).start()
    stack.callback(server.stop)
    return server


def _config(
    folder: Path,
    ops: int,
    bastion: Bastion,
    spare: Bastion,
    maria: mariadb.MariaDB,
    pg: postgres.Postgres,
    files: nfs.NfsServer | None,
    ports: dict[str, int],
) -> str:
    for name, secret in (("maria", maria.check_password), ("pg", pg.check_password)):
        write_secret(folder / f"{name}.secret", secret)
    media = f"""
          media:
            kind: nfs
            via: bastion
            targets: ["127.0.0.1:{files.port if files else 0}"]
            listen: 127.0.0.1:{ports["media"]}
            export: /media
            hold: 20s
            allow_unprivileged_ports: true
            check: {{interval: 2s}}
    """
    text = f"""
        gateway: {{instance: chaos, state_dir: {folder}/state}}
        ops: {{listen: "127.0.0.1:{ops}", admin_socket: {folder}/admin.sock}}
        shutdown: {{delay: 0s, drain: 3s}}
        tunnels:
          bastion:
            kind: ssh
            host: 127.0.0.1
            port: {bastion.port}
            user: {bastion.user}
            identity_files: [{bastion.client_key}]
            known_hosts: [{bastion.known_hosts}]
          spare:
            kind: ssh
            host: {spare.address}
            port: {spare.port}
            user: {spare.user}
            identity_files: [{spare.client_key}]
            known_hosts: [{spare.known_hosts}]
        backends:
          orders:
            kind: mysql
            via: bastion
            targets: ["127.0.0.1:{maria.port}"]
            listen: 127.0.0.1:{ports["orders"]}
            hold: 20s
            check: {{user: {maria.check_user}, password_file: {folder}/maria.secret, interval: 2s}}
          ledger:
            kind: mysql
            via: [spare, bastion]
            targets: ["127.0.0.1:{maria.port}"]
            listen: 127.0.0.1:{ports["ledger"]}
            hold: 20s
            check: {{user: {maria.check_user}, password_file: {folder}/maria.secret, interval: 2s}}
          reports:
            kind: postgres
            via: bastion
            targets: ["127.0.0.1:{pg.port}"]
            listen: 127.0.0.1:{ports["reports"]}
            hold: 20s
            check: {{user: {pg.check_user}, password_file: {folder}/pg.secret, database: {pg.database}, interval: 2s}}
    """
    return textwrap.dedent(text) + (textwrap.indent(textwrap.dedent(media), "  ") if files else "")
