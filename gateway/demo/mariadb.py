"""Runs a MariaDB server with one database, a user for clients and a user for checks."""

import os
import secrets
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pymysql

from gateway.demo.server_process import ServerProcess, find, free_port, run

_OWNER = "mysql"
_START_TIMEOUT = 20.0


def available() -> bool:
    """Return whether a MariaDB server is installed."""
    return find("mariadbd") is not None and find("mariadb-install-db") is not None


class MariaDB:
    """A MariaDB server on a free port of 127.0.0.1.

    Args:
        folder: The folder for the server's data.
        options: Additional command-line options of mariadbd.
    """

    database = "shop"
    user = "app"
    check_user = "gateway"

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.password = secrets.token_hex(8)
        self.check_password = secrets.token_hex(8)
        self._socket = folder / "mysql.sock"
        folder.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            run(["chown", _OWNER, str(folder)])
        # Each server needs its own temporary directory: when a server starts, it removes all temporary tables in this
        # directory, including the tables of other servers.
        self._tmpdir = f"--tmpdir={folder}"
        self._process = ServerProcess(
            [
                find("mariadbd") or "mariadbd", "--no-defaults", f"--datadir={folder}/data", f"--port={self.port}",
                "--bind-address=127.0.0.1", f"--socket={self._socket}", f"--pid-file={folder}/pid", self._tmpdir,
                "--skip-name-resolve", "--innodb-buffer-pool-size=32M", "--innodb-flush-log-at-trx-commit=2",
                "--skip-log-bin", "--performance-schema=OFF", *options,
            ],
            folder / "log",
            user=_OWNER,
        )  # fmt: skip

    @property
    def pid(self) -> int:
        """The process ID of the server."""
        return self._process.pid

    def start(self) -> "MariaDB":
        """Start the server. On the first start, also create the database and the users."""
        new = not (self.folder / "data").exists()
        if new:
            run([find("mariadb-install-db") or "", "--no-defaults", f"--datadir={self.folder}/data", self._tmpdir,
                 "--skip-test-db", "--auth-root-authentication-method=normal"], user=_OWNER)  # fmt: skip
        self._process.start(self.port)
        if new:
            self.execute(
                f"CREATE DATABASE {self.database}",
                f"CREATE TABLE {self.database}.orders (id INT PRIMARY KEY AUTO_INCREMENT, item VARCHAR(40))",
                "INSERT INTO shop.orders (item) VALUES ('tea'), ('coffee'), ('cocoa')",
                f"CREATE USER {self.user}@'%' IDENTIFIED BY '{self.password}'",
                f"GRANT ALL ON {self.database}.* TO {self.user}@'%'",
                f"CREATE USER {self.check_user}@'%' IDENTIFIED BY '{self.check_password}'",
                f"GRANT USAGE ON *.* TO {self.check_user}@'%'",
                f"GRANT SELECT ON {self.database}.* TO {self.check_user}@'%'",
            )
        return self

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Stop the server with a signal."""
        self._process.stop(number)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the server."""
        self._process.send(number)

    def execute(self, *statements: str) -> None:
        """Run SQL statements as the user root, over the unix socket."""
        with self._as_root() as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def _as_root(self) -> "pymysql.Connection[Any]":
        connection = pymysql.Connection(user="root", ssl_disabled=True, autocommit=True, defer_connect=True)
        # Pass a connected socket, because pymysql leaves its own socket open if it cannot connect to a unix socket.
        connection.connect(self._connect())
        return connection

    def _connect(self) -> socket.socket:
        """Connect to the server's unix socket. Retry, because the server opens its TCP port before this socket."""
        deadline = time.monotonic() + _START_TIMEOUT
        while True:
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.settimeout(10)
                sock.connect(str(self._socket))
            except OSError as error:
                sock.close()
                if not isinstance(error, (FileNotFoundError, ConnectionRefusedError)) or time.monotonic() > deadline:
                    raise
            else:
                return sock
            time.sleep(0.05)
