"""Runs single probes of targets, without the scheduled checks."""

import asyncio
import time
from dataclasses import replace
from typing import Any

from gateway.backend_support.nfs_kernel_mounts import NfsBackendOptions
from gateway.backend_support.sql_check_options import SqlCheckOptions
from gateway.backends import EmptyOptions
from gateway.backends.http import HttpBackend, HttpCheckOptions
from gateway.backends.mysql import MysqlBackend, MysqlCheckOptions
from gateway.backends.nfs import NfsBackend, NfsCheckOptions
from gateway.backends.postgres import PostgresBackend
from gateway.backends.redis import RedisBackend, RedisCheckOptions
from gateway.backends.tcp import TcpBackend, TcpCheckOptions
from gateway.contracts.backend import Backend
from gateway.contracts.config_types import HostPort
from gateway.contracts.secret import Secret
from gateway.demo.mariadb import MariaDB
from gateway.demo.postgres import Postgres
from gateway.health.check_results import CheckResult
from gateway.health.probe import probe_once
from gateway.relay.direct_link import DirectLink
from tests.support.lateness import Lateness

DEADLINE = 3.0


KINDS: dict[str, Backend] = {
    "mysql": MysqlBackend(EmptyOptions(), MysqlCheckOptions(user="u", password=Secret("p"))),
    "postgres": PostgresBackend(EmptyOptions(), SqlCheckOptions(user="u", password=Secret("p"))),
    "nfs": NfsBackend(NfsBackendOptions(export="/x"), NfsCheckOptions()),
    "tcp": TcpBackend(EmptyOptions(), TcpCheckOptions()),
    "redis": RedisBackend(EmptyOptions(), RedisCheckOptions(password=Secret("p"))),
    "http": HttpBackend(EmptyOptions(), HttpCheckOptions()),
}


async def probe(backend: Backend, port: int, host: str = "127.0.0.1", timeout: float = 10.0) -> CheckResult:  # noqa: ASYNC109
    """Probe a target on this host once. Fail if the probe takes too long, or leaves an asyncio task."""
    tasks = len(asyncio.all_tasks())
    started = time.monotonic()
    with Lateness() as machine:
        result = await probe_once(backend, DirectLink(), HostPort(host, port), timeout)
        took = time.monotonic() - started
    # After the deadline, the check of MySQL waits up to a second for its thread.
    assert took < timeout + (1.1 if isinstance(backend, MysqlBackend) else 0.1) + machine.sum
    await asyncio.sleep(0.01)
    assert len(asyncio.all_tasks()) == tasks
    return result


def mysql_backend(server: MariaDB, **changes: Any) -> MysqlBackend:
    check = MysqlCheckOptions(
        user=server.check_user, password=Secret(server.check_password), database=server.database
    )
    return MysqlBackend(EmptyOptions(), replace(check, **changes))


def postgres_backend(server: Postgres, **changes: Any) -> PostgresBackend:
    check = SqlCheckOptions(user=server.check_user, password=Secret(server.check_password), database=server.database)
    return PostgresBackend(EmptyOptions(), replace(check, **changes))
