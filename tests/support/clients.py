"""Provides clients that query databases and read files through the gateway, as applications do."""

import socket
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pymysql

from gateway.demo.mariadb import MariaDB
from gateway.demo.postgres import Postgres

TIMEOUT = 15


def mysql(server: MariaDB, port: int, timeout: float = TIMEOUT) -> "pymysql.connections.Connection[Any]":
    return pymysql.connect(
        host="127.0.0.1",
        port=port,
        user=server.user,
        password=server.password,
        database=server.database,
        connect_timeout=TIMEOUT,
        read_timeout=timeout,
        ssl_disabled=True,
    )


def query_mysql(server: MariaDB, port: int) -> int:
    connection = mysql(server, port)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT COUNT(*) FROM orders")
        row = cursor.fetchone()
    assert row is not None
    return int(row[0])


def postgres(server: Postgres, port: int, host: str = "127.0.0.1") -> "psycopg.Connection[Any]":
    return psycopg.connect(
        host=host,
        port=port,
        user=server.user,
        password=server.password,
        dbname=server.database,
        connect_timeout=TIMEOUT,
    )


def query_postgres(server: Postgres, port: int, host: str = "127.0.0.1") -> int:
    with postgres(server, port, host) as connection:
        row = connection.execute("SELECT COUNT(*) FROM reports").fetchone()
    assert row is not None
    return int(row[0])


def read_nfs(port: int, path: str = "/media/hello.txt") -> str:
    url = f"nfs://127.0.0.1{path}?version=4&nfsport={port}"
    return subprocess.run(["nfs-cat", url], capture_output=True, text=True, timeout=TIMEOUT, check=True).stdout


def touch_nfs(port: int, path: str) -> None:
    """Create an empty file over NFS.

    If a test creates a file directly in the exported directory, the NFS server detects the file only after a minute.
    """
    url = f"nfs://127.0.0.1{path}?version=4&nfsport={port}"
    subprocess.run(["nfs-cp", "/dev/null", url], capture_output=True, timeout=TIMEOUT, check=True)


def read_smb(port: int, folder: Path) -> str:
    """Download `hello.txt` from the Samba server to `folder`; return the content of the file."""
    got = folder / "got.txt"
    done = subprocess.run(
        ["smbclient", "//127.0.0.1/media", "-p", str(port), "-N", "-c", f"get hello.txt {got}"],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert got.exists(), done.stdout + done.stderr
    return got.read_text()


def connect_unix(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))
    return sock


def connect(port: int, source: tuple[str, int] = ("127.0.0.1", 0)) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=15, source_address=source)


def echo(sock: socket.socket, payload: bytes = b"hello") -> bytes:
    sock.sendall(payload)
    got = b""
    while len(got) < len(payload):
        piece = sock.recv(65536)
        if not piece:
            break
        got += piece
    return got


def is_refused(port: int, source: tuple[str, int] = ("127.0.0.1", 0), within: float = 5) -> bool:
    """Connect from the address `source`. Return whether the gateway resets the connection within `within` seconds."""
    try:
        with connect(port, source) as sock:
            sock.settimeout(within)
            return is_reset(sock)
    except TimeoutError:
        return False
    except ConnectionResetError:
        return True


def is_reset(sock: socket.socket) -> bool:
    try:
        sock.recv(1)
    except ConnectionResetError:
        return True
    return False
