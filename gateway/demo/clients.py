"""Defines the demo's clients, which send queries to the backends through the gateway, as an application does."""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass

import psycopg
import pymysql

from gateway.demo.mariadb import MariaDB
from gateway.demo.postgres import Postgres
from gateway.demo.server_process import DemoError, find
from gateway.demo.servers import GREETING, DemoServers

_TIMEOUT = 15


@dataclass(frozen=True)
class DemoClient:
    """A client that sends queries to one backend of the demo.

    Args:
        backend: The name of the backend.
        query: A function that sends a query, and returns the result as one line of text.
        command: A command line that sends the same query.
    """

    backend: str
    query: Callable[[], str]
    command: str


def clients(servers: DemoServers) -> list[DemoClient]:
    """Return a client for each backend whose server runs, except NFS if the program `nfs-cat` is not installed."""
    found = []
    if servers.mariadb:
        found.append(_mysql(servers.mariadb, servers.ports["orders"]))
    if servers.postgres:
        found.append(_postgres(servers.postgres, servers.ports["reports"]))
    if servers.nfs and find("nfs-cat"):
        found.append(_nfs(f"nfs://127.0.0.1/media/hello.txt?version=4&nfsport={servers.ports['media']}"))
    return found


def _mysql(server: MariaDB, port: int) -> DemoClient:
    def query() -> str:
        connection = pymysql.connect(
            host="127.0.0.1",
            port=port,
            user=server.user,
            password=server.password,
            database=server.database,
            connect_timeout=_TIMEOUT,
            read_timeout=_TIMEOUT,
            ssl_disabled=True,
        )
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT GROUP_CONCAT(item ORDER BY id SEPARATOR ', ') FROM orders")
            row = cursor.fetchone()
        return f"table orders in MariaDB: {row[0] if row else None}"

    command = f"mariadb -h 127.0.0.1 -P {port} -u {server.user} -p{server.password} {server.database}"
    return DemoClient("orders", query, command)


def _postgres(server: Postgres, port: int) -> DemoClient:
    url = f"postgresql://{server.user}:{server.password}@127.0.0.1:{port}/{server.database}"

    def query() -> str:
        with psycopg.connect(url, connect_timeout=_TIMEOUT) as connection:
            row = connection.execute("SELECT string_agg(title, ', ' ORDER BY id) FROM reports").fetchone()
        return f"table reports in PostgreSQL: {row[0] if row else None}"

    return DemoClient("reports", query, f"psql {url}")


def _nfs(url: str) -> DemoClient:
    def query() -> str:
        done = subprocess.run(  # noqa: S603 - a fixed command line
            [find("nfs-cat") or "nfs-cat", url], capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
        if done.returncode != 0 or done.stdout != GREETING:
            raise DemoError(f"nfs-cat: {done.stderr.strip() or done.stdout.strip()}")
        return f"hello.txt on NFS: {done.stdout.strip()}"

    return DemoClient("media", query, f"nfs-cat '{url}'")
