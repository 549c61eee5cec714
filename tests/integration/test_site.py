"""Tests a gateway with servers behind zero, one and two tunnels, and what happens if a server or a tunnel fails."""

import contextlib
import json
import re
import signal
import socket
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pymysql
import pytest

from gateway.demo.mariadb import MariaDB
from gateway.demo.nfs import NfsServer
from gateway.demo.postgres import Postgres
from gateway.demo.server_process import free_port
from gateway.demo.sshd import Bastion
from tests.support.clients import connect_unix, mysql, query_mysql, query_postgres, read_nfs
from tests.support.configs import database_check, ssh_tunnel
from tests.support.gateway_process import Gateway
from tests.support.lateness import Lateness

pytestmark = pytest.mark.integration

INTERVAL, FAST, DEADLINE = 1.0, 0.3, 1.0
TIMES = f"interval: {INTERVAL}s, fast_interval: 300ms, down_interval: 500ms, timeout: {DEADLINE}s"


@dataclass
class Site:
    gateway: Gateway
    bastion: Bastion
    mariadb: MariaDB
    postgres: Postgres
    nfs: NfsServer
    ports: dict[str, int]
    socket: Path


@pytest.fixture
def site(
    gateway: Gateway,
    tmp_path: Path,
    shared_bastion: Bastion,
    shared_mariadb: MariaDB,
    shared_postgres: Postgres,
    shared_nfs: NfsServer,
) -> Site:
    ports = {name: free_port() for name in ("orders", "reports", "media", "direct", "jumped")}
    path = tmp_path / "reports.sock"
    mysql_check = database_check(shared_mariadb, tmp_path, TIMES)
    postgres_check = database_check(shared_postgres, tmp_path, TIMES)
    gateway.write(f"""
        tunnels:
          bastion: {ssh_tunnel(shared_bastion)}
          inner: {ssh_tunnel(shared_bastion, via="bastion")}
        backends:
          orders:
            kind: mysql
            via: bastion
            targets: ["127.0.0.1:{shared_mariadb.port}"]
            listen: 127.0.0.1:{ports["orders"]}
            hold: 20s  # an attempt may be 10 s away
            check: {mysql_check}
          jumped:
            kind: mysql
            via: inner
            targets: ["localhost:{shared_mariadb.port}"]
            listen: 127.0.0.1:{ports["jumped"]}
            check: {mysql_check}
          reports:
            kind: postgres
            via: inner
            targets: ["127.0.0.1:{shared_postgres.port}"]
            listen: ["127.0.0.1:{ports["reports"]}", "[::1]:{ports["reports"]}", {path}]
            check: {postgres_check}
          direct:
            kind: postgres
            targets: ["127.0.0.1:{shared_postgres.port}"]
            listen: 127.0.0.1:{ports["direct"]}
            check: {postgres_check}
          media:
            kind: nfs
            via: bastion
            targets: ["127.0.0.1:{shared_nfs.port}"]
            export: /media
            listen: 127.0.0.1:{ports["media"]}
            check: {{write: true, {TIMES}}}
    """)
    gateway.start()
    return Site(gateway, shared_bastion, shared_mariadb, shared_postgres, shared_nfs, ports, path)


def test_everything_is_up_soon_and_answers(site: Site) -> None:
    site.gateway.wait_up("orders", "jumped", "reports", "direct", "media", timeout=20)
    assert query_mysql(site.mariadb, site.ports["orders"]) == 3
    assert query_mysql(site.mariadb, site.ports["jumped"]) == 3
    assert query_postgres(site.postgres, site.ports["reports"]) == 2
    assert query_postgres(site.postgres, site.ports["reports"], host="::1") == 2
    assert query_postgres(site.postgres, site.ports["direct"]) == 2
    assert read_nfs(site.ports["media"]) == "hello over NFS\n"
    with connect_unix(site.socket) as sock:
        # PostgreSQL answers this packet, an SSLRequest, with one byte.
        sock.sendall(b"\x00\x00\x00\x08\x04\xd2\x16\x2f")
        assert sock.recv(1) in (b"S", b"N")
    assert site.socket.stat().st_mode & 0o777 == 0o660

    def phases() -> set[str]:
        return set(site.gateway.backend("reports")["targets"][0]["last_phases_seconds"])

    site.gateway.wait(lambda: phases() >= {"channel", "greeting", "auth", "query"})  # a check that fails has fewer
    status = site.gateway.status()
    target = status["backends"]["reports"]["targets"][0]
    assert target["role"] == "primary"
    assert target["version"]
    assert (
        "tcp" in status["backends"]["media"]["targets"][0]["last_phases_seconds"]
        or "channel" in (status["backends"]["media"]["targets"][0]["last_phases_seconds"])
    )
    assert status["backends"]["media"]["targets"][0]["space_bytes"]["total"] > 0
    assert status["backends"]["orders"]["connections"]["bytes_from_backend"] > 0
    assert status["tunnels"]["bastion"]["cipher"] == "aes128-gcm@openssh.com"


@pytest.mark.parametrize(
    ("victim", "backend", "others"),
    [
        ("mariadb", "orders", ["reports", "media"]),
        ("postgres", "reports", ["orders", "media"]),
        ("nfs", "media", ["orders", "reports"]),
    ],
)
def test_a_killed_server_is_down_with_its_reason_and_up_after_its_return(
    site: Site, victim: str, backend: str, others: list[str]
) -> None:
    site.gateway.wait_up("orders", "reports", "media")
    servers: dict[str, MariaDB | Postgres | NfsServer] = {
        "mariadb": site.mariadb,
        "postgres": site.postgres,
        "nfs": site.nfs,
    }
    server = servers[victim]
    server.stop(signal.SIGKILL)
    try:
        with Lateness() as machine:
            took = site.gateway.wait(lambda: site.gateway.state(backend)[0] == "down")
        assert took <= (INTERVAL + 2 * FAST) * 1.05 + DEADLINE + 0.2 + machine.sum
        assert site.gateway.state(backend)[1] == "refused"
        assert [site.gateway.state(name)[0] for name in others] == ["up", "up"]
    finally:
        server.start()
    site.gateway.wait_up(backend, timeout=10)


def test_a_killed_session_is_replaced_within_seconds(site: Site) -> None:
    site.gateway.wait_up("orders")
    held = mysql(site.mariadb, site.ports["orders"])
    before = site.gateway.tunnel("bastion")["connects"]
    assert site.bastion.kill_sessions() > 0
    with pytest.raises(pymysql.err.OperationalError), held.cursor() as cursor:
        cursor.execute("SELECT 1")
    started = time.monotonic()
    with Lateness() as machine:
        assert query_mysql(site.mariadb, site.ports["orders"]) == 3
    assert time.monotonic() - started < 3 + machine.sum
    site.gateway.wait_up("orders", "jumped", "reports", "media")
    assert site.gateway.tunnel("bastion")["connects"] > before


def test_a_stopped_bastion_blocks_what_is_behind_it_and_nothing_else(site: Site) -> None:
    site.gateway.wait_up("orders", "jumped", "reports", "direct", "media")
    site.bastion.crash()
    try:
        for name in ("orders", "jumped", "reports", "media"):
            site.gateway.wait_state(name, "blocked", "tunnel")
        assert site.gateway.state("direct") == ("up", None)
        site.gateway.wait(lambda: site.gateway.tunnel("bastion")["reason"] == "refused")
        explained = site.gateway.command("explain", "reports")
        assert explained.returncode == 0
        assert re.search("^root cause: bastion down since .*: connection refused; ", explained.stdout, re.MULTILINE)
        assert query_postgres(site.postgres, site.ports["direct"]) == 2
        # A new client waits. The gateway serves this client when the bastion is up again.
        answers: list[int] = []
        waiting = threading.Thread(target=lambda: answers.append(query_mysql(site.mariadb, site.ports["orders"])))
        waiting.start()
        time.sleep(1)
        assert not answers
    finally:
        site.bastion.start()
    waiting.join(20)
    assert answers == [3]
    site.gateway.wait_up("orders", "jumped", "reports", "media")
    reported = [json.loads(line) for line in site.gateway.log.splitlines()]
    refused = [line for line in reported if line.get("tunnel") == "bastion" and line.get("reason") == "refused"]
    # The log contains one line for each traffic class, however many attempts were refused.
    assert sorted(line.get("traffic", "") for line in refused) == ["", "bulk"]


def test_a_hundred_clients_at_once(site: Site) -> None:
    site.gateway.wait_up("orders", "reports")
    failures: list[BaseException] = []

    def work(at: int) -> None:
        try:
            for _ in range(5):
                if at % 2:
                    assert query_mysql(site.mariadb, site.ports["orders"]) == 3
                else:
                    assert query_postgres(site.postgres, site.ports["direct"]) == 2
        except BaseException as error:  # noqa: BLE001 - the main thread checks `failures`
            failures.append(error)

    threads = [threading.Thread(target=work, args=(at,)) for at in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert not failures
    site.gateway.wait(lambda: site.gateway.backend("orders")["connections"]["active"] == 0)
    site.gateway.wait(lambda: site.gateway.backend("orders")["connections"]["total"] == 250)


def wait_sleeping(site: Site, count: int) -> None:
    """Wait until the database runs `count` queries that call SLEEP."""
    query = "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP%'"
    with mysql(site.mariadb, site.mariadb.port) as connection, connection.cursor() as cursor:

        def running() -> int:
            cursor.execute(query)
            row = cursor.fetchone()
            assert isinstance(row, tuple)
            return int(row[0])

        site.gateway.wait(lambda: running() == count)


def test_after_term_queries_in_flight_finish(site: Site) -> None:
    site.gateway.wait_up("orders")
    answered: list[int] = []
    failed: list[BaseException] = []
    begun = threading.Barrier(11)

    def slow_query() -> None:
        connection = mysql(site.mariadb, site.ports["orders"])
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            begun.wait(10)
            try:
                cursor.execute("SELECT SLEEP(2)")
                answered.append(1)
            except pymysql.err.MySQLError as error:
                failed.append(error)
        with contextlib.suppress(pymysql.err.MySQLError):
            connection.close()

    threads = [threading.Thread(target=slow_query) for _ in range(10)]
    for thread in threads:
        thread.start()
    begun.wait(10)
    wait_sleeping(site, 10)
    pid = site.gateway.pid
    started = time.monotonic()
    with Lateness() as machine:
        site.gateway.process.send(signal.SIGTERM)  # type: ignore[union-attr]
        for thread in threads:
            thread.join(10)
        assert (len(answered), failed) == (10, [])
        child = site.gateway.process._child  # type: ignore[union-attr]
        assert child is not None
        assert child.wait(10) == 0
    assert time.monotonic() - started < 4 + machine.sum
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", site.ports["orders"]))


def test_the_drain_resets_idle_clients_before_those_that_wait_for_a_response(site: Site) -> None:
    site.gateway.wait_up("orders")
    idle, busy = mysql(site.mariadb, site.ports["orders"]), mysql(site.mariadb, site.ports["orders"])
    with busy.cursor() as cursor:
        done: list[object] = []

        def ask() -> None:
            cursor.execute("SELECT SLEEP(2)")
            done.append(cursor.fetchone())

        asking = threading.Thread(target=ask)
        asking.start()
        wait_sleeping(site, 1)
        site.gateway.process.send(signal.SIGTERM)  # type: ignore[union-attr]
        asking.join(10)
    assert done == [(0,)]
    with pytest.raises(pymysql.err.OperationalError):
        idle.ping(reconnect=False)
    child = site.gateway.process._child  # type: ignore[union-attr]
    assert child is not None
    assert child.wait(10) == 0


def test_the_metrics_are_clean_and_complete(site: Site) -> None:
    site.gateway.wait_up("orders", "reports", "media")
    query_mysql(site.mariadb, site.ports["orders"])
    code, text = site.gateway.http.get("/metrics")
    assert code == 200
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=20, check=False
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    for line in (
        'gateway_backend_up{backend="orders"} 1.0',
        'gateway_tunnel_up{tunnel="inner"} 1.0',
        'gateway_tunnel_state{state="up",tunnel="bastion"} 1.0',
        'gateway_connections_total{backend="orders"} 1.0',
        "gateway_config_last_reload_successful 1.0",
        f'gateway_database_read_only{{backend="orders",target="127.0.0.1:{site.mariadb.port}"}} 0.0',
    ):
        assert line in text, line
    for name in (
        "gateway_build_info", "gateway_check_duration_seconds_bucket", "gateway_check_phase_duration_seconds_sum",
        "gateway_check_last_success_timestamp_seconds", "gateway_nfs_space_bytes", "gateway_tunnel_rtt_seconds",
        "gateway_channel_open_duration_seconds_bucket", "gateway_connection_bytes_total",
        "gateway_response_latency_seconds_count", "gateway_event_loop_lag_seconds_bucket",
        "gateway_config_last_reload_success_timestamp_seconds", "gateway_check_attempts_total",
    ):  # fmt: skip
        assert f"\n{name}" in text, name
    for password in (site.mariadb.check_password, site.postgres.check_password):
        assert password not in text + site.gateway.log + str(site.gateway.status())
