"""Tests checks with `password_command` on real servers."""

import os
import signal
import stat
from functools import partial
from pathlib import Path

import pytest

from gateway.demo.mariadb import MariaDB
from gateway.demo.postgres import Postgres
from tests.support.gateway_process import Gateway

pytestmark = pytest.mark.integration


def test_a_changed_password_is_requested_again(
    gateway: Gateway, shared_mariadb: MariaDB, shared_postgres: Postgres
) -> None:
    token, program = gateway.folder / "token", gateway.folder / "print-token"
    program.write_text(f'#!/bin/sh\necho "for $1" >&2\ncat {token}\n')
    program.chmod(stat.S_IRWXU)
    shared_mariadb.execute("CREATE USER IF NOT EXISTS changing@'%' IDENTIFIED BY 'first-token'")
    shared_postgres.execute("DROP ROLE IF EXISTS changing; CREATE ROLE changing LOGIN PASSWORD 'first-token'")
    token.write_text("first-token\n")
    check = f"user: changing, password_command: [{program}, '{{host}}'], interval: 1s, down_interval: 300ms"
    gateway.write(f"""
        backends:
          orders:
            kind: mysql
            targets: ["127.0.0.1:{shared_mariadb.port}"]
            check: {{{check}}}
          reports:
            kind: postgres
            targets: ["127.0.0.1:{shared_postgres.port}"]
            check: {{{check}, database: {shared_postgres.database}}}
    """)
    gateway.start()
    gateway.wait_up("orders", "reports")
    shared_mariadb.execute("ALTER USER changing@'%' IDENTIFIED BY 'second-token'")
    shared_postgres.execute("ALTER ROLE changing PASSWORD 'second-token'")
    token.write_text("second-token\n")
    for name in ("orders", "reports"):
        gateway.wait(partial(recovered, gateway, name))
    _, status = gateway.client.get("/api/v1/status")
    for word in ("first-token", "second-token"):
        assert word not in str(status)
        assert word not in gateway.log


def recovered(gateway: Gateway, name: str) -> bool:
    """Return whether the server refused a login, and accepted a later login."""
    target = gateway.backend(name)["targets"][0]
    return bool(target["failures"].get("auth")) and target["last_success"] == target["last_check"]


def test_a_program_ends_with_a_gateway_that_is_killed(gateway: Gateway, shared_mariadb: MariaDB) -> None:
    mark = gateway.folder / "pid"
    gateway.write(f"""
        backends:
          orders:
            kind: mysql
            targets: ["127.0.0.1:{shared_mariadb.port}"]
            check:
              user: u
              password_command: [sh, -c, 'echo $$ > {mark}; exec sleep 1000']
              password_timeout: 100s
    """)
    gateway.start()
    gateway.wait(lambda: mark.exists() and mark.read_text().endswith("\n"))
    os.kill(gateway.pid, signal.SIGKILL)
    process = Path(f"/proc/{mark.read_text().strip()}/stat")

    def has_exited() -> bool:
        try:
            return process.read_text().rpartition(")")[2].split()[0] == "Z"
        except (FileNotFoundError, ProcessLookupError):
            return True

    gateway.wait(has_exited)
