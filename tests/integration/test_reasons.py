"""Tests every failure reason with a real server that causes it; each probe completes before its deadline."""

import asyncio
import contextlib
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pymysql
import pytest

from gateway.backend_support.nfs_kernel_mounts import NfsBackendOptions
from gateway.backend_support.replication_facts import LAG
from gateway.backend_support.sql_check_options import SqlCheckOptions
from gateway.backend_support.tls_options import HealthCheckTlsOptions
from gateway.backends import EmptyOptions
from gateway.backends.mysql import MysqlBackend, MysqlCheckOptions
from gateway.backends.nfs import LEASE, SPACE, NfsBackend, NfsCheckOptions
from gateway.backends.postgres import PostgresBackend
from gateway.contracts.backend import Backend
from gateway.contracts.config_types import Duration, HostPort
from gateway.contracts.secret import Secret
from gateway.contracts.states import HealthState
from gateway.demo import nfs
from gateway.demo.mariadb import MariaDB
from gateway.demo.nfs import NfsServer
from gateway.demo.postgres import Postgres
from gateway.demo.server_process import free_port
from gateway.errors import FailureReason
from gateway.facts import VERSION
from gateway.health.check_results import CheckResult
from gateway.health.probe import probe_once
from gateway.nfs.export_probe import CANARY
from gateway.relay.direct_link import DirectLink
from tests.support.clients import mysql
from tests.support.probes import DEADLINE, KINDS, mysql_backend, postgres_backend, probe
from tests.support.requirements import need
from tests.support.servers import dripping, resetting, serving, silent, talking

pytestmark = pytest.mark.integration

MYSQL_GREETING = b"\x4a\x00\x00\x00\x0a8.0.30\x00"
PROTOCOLS = ["mysql", "postgres", "nfs", "redis"]
FIRST_READS = {
    "mysql": "greeting (completed: dns, tcp)",
    # In the phase `greeting`, libpq only sends the start-up packet. It waits for the response in the phase `auth`.
    "postgres": "auth (completed: dns, tcp, greeting)",
    "nfs": "greeting (completed: dns, tcp)",
    "redis": "greeting (completed: dns, tcp)",
    "http": "query (completed: dns, tcp)",
}
"""For each kind, the phases that a probe reports if the server sends no data before the timeout."""


@pytest.mark.parametrize("kind", KINDS)
async def test_a_refused_connection_has_its_reason(kind: str) -> None:
    assert (await probe(KINDS[kind], free_port())).reason is FailureReason.REFUSED


@pytest.mark.parametrize("kind", KINDS)
async def test_an_unknown_host_name_has_its_reason(kind: str) -> None:
    assert (await probe(KINDS[kind], 1, host="no-such-host.invalid", timeout=12)).reason is FailureReason.DNS


@pytest.mark.parametrize("kind", FIRST_READS)
async def test_a_silent_server_is_a_timeout_within_the_deadline(kind: str) -> None:
    with serving(silent) as port:
        result = await probe(KINDS[kind], port, timeout=DEADLINE)
    assert (result.state, result.reason) == (HealthState.DOWN, FailureReason.TIMEOUT)
    assert result.detail == f"no response within {DEADLINE:g} s in the phase {FIRST_READS[kind]}"


@pytest.mark.parametrize(
    ("kind", "first"), [("mysql", MYSQL_GREETING), ("postgres", b"R\x00\x00\x00\x0c"), ("nfs", b"\x80\x00\x01\x00")]
)
async def test_a_dripping_server_is_a_timeout_within_the_deadline(kind: str, first: bytes) -> None:
    with serving(dripping(first)) as port:
        assert (await probe(KINDS[kind], port, timeout=DEADLINE)).reason is FailureReason.TIMEOUT


@pytest.mark.parametrize("kind", PROTOCOLS)
async def test_a_reset_connection_has_its_reason(kind: str) -> None:
    with serving(resetting) as port:
        assert (await probe(KINDS[kind], port)).reason is FailureReason.RESET


@pytest.mark.parametrize("kind", PROTOCOLS)
async def test_a_server_with_another_protocol_has_its_reason(kind: str) -> None:
    with serving(talking(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n" * 10)) as port:
        result = await probe(KINDS[kind], port)
    assert result.reason in (FailureReason.PROTOCOL, FailureReason.RESET)


async def test_a_frozen_server_is_a_timeout_and_leaves_no_thread(
    shared_mariadb: MariaDB, shared_postgres: Postgres, shared_nfs: NfsServer
) -> None:
    jobs: list[tuple[MariaDB | Postgres | NfsServer, Backend]] = [
        (shared_mariadb, mysql_backend(shared_mariadb)),
        (shared_postgres, postgres_backend(shared_postgres)),
        (shared_nfs, NfsBackend(NfsBackendOptions(export="/media"), NfsCheckOptions())),
    ]
    for server, backend in jobs:
        assert (await probe(backend, server.port)).state is HealthState.UP
        server.send(signal.SIGSTOP)
        try:
            assert (await probe(backend, server.port, timeout=DEADLINE)).reason is FailureReason.TIMEOUT
        finally:
            server.send(signal.SIGCONT)
        assert (await probe(backend, server.port, timeout=5)).state is HealthState.UP


async def test_a_half_open_path_is_a_timeout_within_the_deadline(shared_postgres: Postgres) -> None:
    """A firewall rule drops the packets to the server, so the client gets neither a refusal nor a reset."""
    need(shutil.which("iptables") is not None, "iptables, and root to use it")
    rule = ["INPUT", "-i", "lo", "-p", "tcp", "--dport", str(shared_postgres.port), "-j", "DROP"]
    subprocess.run(["iptables", "-w", "-I", *rule], check=True, timeout=10)  # noqa: ASYNC221
    try:
        result = await probe(postgres_backend(shared_postgres), shared_postgres.port, timeout=DEADLINE)
        assert result.reason is FailureReason.TIMEOUT
    finally:
        subprocess.run(["iptables", "-w", "-D", *rule], check=True, timeout=10)  # noqa: ASYNC221


async def test_a_mysql_check_reports_role_version_and_phases(shared_mariadb: MariaDB) -> None:
    result = await probe_once(
        mysql_backend(shared_mariadb), DirectLink(), HostPort("127.0.0.1", shared_mariadb.port), 10
    )
    ended = time.monotonic()
    assert result.state is HealthState.UP
    assert result.probe_result is not None
    assert (result.probe_result.role, result.probe_result.read_only) == ("primary", False)
    assert "MariaDB" in (str(result.probe_result.facts[VERSION]))
    assert list(result.phases) == ["dns", "tcp", "greeting", "auth", "query"]
    assert result.probe_result.login_started_at is not None
    assert result.probe_result.login_started_at + result.phases["auth"] + result.phases["query"] <= ended


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"password": Secret("wrong")}, FailureReason.AUTH),
        ({"user": "nobody"}, FailureReason.AUTH),
        ({"database": "mysql"}, FailureReason.AUTH),
        ({"password": Secret(path=Path("/nonexistent"))}, FailureReason.AUTH),
    ],
)
async def test_each_refusal_by_mysql_has_its_reason(
    shared_mariadb: MariaDB, changes: dict[str, Any], reason: FailureReason
) -> None:
    assert (await probe(mysql_backend(shared_mariadb, **changes), shared_mariadb.port)).reason is reason


async def test_a_missing_mysql_database_is_reported(shared_mariadb: MariaDB) -> None:
    shared_mariadb.execute(f"GRANT SELECT ON nothing.* TO {shared_mariadb.check_user}@'%'")
    result = await probe(mysql_backend(shared_mariadb, database="nothing"), shared_mariadb.port)
    assert (result.reason, "nothing" in result.detail) == (FailureReason.QUERY, True)


async def test_mysql_without_a_user_is_not_probed(shared_mariadb: MariaDB) -> None:
    with serving(resetting) as port:
        result = await probe(MysqlBackend(EmptyOptions(), MysqlCheckOptions()), port)
    assert (result.state, result.reason) == (HealthState.UNKNOWN, None)
    assert "check.user" in result.detail


async def test_mysql_read_only_is_a_replica(shared_mariadb: MariaDB) -> None:
    shared_mariadb.execute("SET GLOBAL read_only = 1")
    try:
        result = await probe(mysql_backend(shared_mariadb), shared_mariadb.port)
    finally:
        shared_mariadb.execute("SET GLOBAL read_only = 0")
    assert result.probe_result is not None
    assert (result.probe_result.role, result.probe_result.read_only) == ("replica", True)


async def test_mysql_with_too_many_connections(shared_mariadb: MariaDB) -> None:
    shared_mariadb.execute("SET GLOBAL max_connections = 10")
    held: list[Any] = []
    try:
        deadline = time.monotonic() + 10
        # The server can refuse a connection while the session that set `max_connections` is still open.
        while len(held) < 10:
            try:
                held.append(mysql(shared_mariadb, shared_mariadb.port))
            except pymysql.err.OperationalError as error:
                if error.args[0] != 1040 or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.05)
        result = await probe(mysql_backend(shared_mariadb), shared_mariadb.port)
        assert result.reason is FailureReason.TOO_MANY_CONNECTIONS
    finally:
        for connection in held:
            connection.close()
        while True:  # the server can refuse this connection too, until the sessions have ended
            try:
                shared_mariadb.execute("SET GLOBAL max_connections = 151")
                break
            except pymysql.err.OperationalError as error:
                if error.args[0] != 1040 or time.monotonic() > deadline + 10:
                    raise
                await asyncio.sleep(0.05)


async def test_a_mysql_that_has_blocked_this_host_is_reported() -> None:
    """After too many aborted handshakes, MySQL blocks the address of the client, and responds with error 1129."""
    message = b"Host '10.0.0.1' is blocked because of many connection errors"
    packet = b"\xff" + (1129).to_bytes(2, "little") + message
    with serving(talking(len(packet).to_bytes(3, "little") + b"\x00" + packet)) as port:
        assert (await probe(KINDS["mysql"], port)).reason is FailureReason.HOST_BLOCKED


async def test_mysql_probes_do_not_count_as_aborted_connections(shared_mariadb: MariaDB) -> None:
    def aborted() -> int:
        with mysql(shared_mariadb, shared_mariadb.port) as connection, connection.cursor() as cursor:
            cursor.execute("SHOW GLOBAL STATUS LIKE 'Aborted_c%'")
            return sum(int(row[1]) for row in cursor.fetchall())

    before, counted = -1, aborted()
    while before != counted:  # the server can count a connection of an earlier test late
        await asyncio.sleep(1)
        before, counted = counted, aborted()
    for _ in range(50):
        assert (await probe(mysql_backend(shared_mariadb), shared_mariadb.port)).state is HealthState.UP
    assert aborted() == before


async def test_a_postgres_check_reports_role_version_and_phases(shared_postgres: Postgres) -> None:
    result = await probe(postgres_backend(shared_postgres), shared_postgres.port)
    assert result.state is HealthState.UP
    assert result.probe_result is not None
    assert (result.probe_result.role, result.probe_result.read_only, result.probe_result.facts[LAG]) == (
        "primary",
        False,
        None,
    )
    assert set(result.phases) == {"dns", "tcp", "greeting", "auth", "query"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"password": Secret("wrong")}, FailureReason.AUTH),
        ({"user": "nobody"}, FailureReason.AUTH),
        ({"database": "nothing"}, FailureReason.QUERY),
        ({"tls": HealthCheckTlsOptions(mode="require")}, FailureReason.TLS),
    ],
)
async def test_each_refusal_by_postgres_has_its_reason(
    shared_postgres: Postgres, changes: dict[str, Any], reason: FailureReason
) -> None:
    result = await probe(postgres_backend(shared_postgres, **changes), shared_postgres.port)
    assert result.reason is reason
    assert "127.0.0.1" not in result.detail  # the text must not contain the address of the local socket


async def simultaneous_failures(backend: Backend, port: int) -> list[str]:
    """Run three simultaneous probes of a server, and return the details of the failed probes."""
    probes = (probe_once(backend, DirectLink(), HostPort("127.0.0.1", port), 10) for _ in range(3))
    return [result.detail for result in await asyncio.gather(*probes) if result.state is not HealthState.UP]


async def test_probes_over_several_paths_can_run_at_the_same_time(
    shared_postgres: Postgres, shared_mariadb: MariaDB
) -> None:
    for server, backend in (
        (shared_postgres, postgres_backend(shared_postgres)),
        (shared_mariadb, mysql_backend(shared_mariadb)),
    ):
        assert await simultaneous_failures(backend, server.port) == []


async def test_postgres_with_too_many_connections(
    tmp_path_factory: pytest.TempPathFactory, server_folder: Path
) -> None:
    server = Postgres(server_folder / "few", max_connections="5", superuser_reserved_connections="3").start()
    held: list[Any] = []
    try:
        import psycopg  # noqa: PLC0415 - only here

        deadline = time.monotonic() + 5
        while len(held) < 2:
            try:
                held.append(psycopg.connect(
                    host="127.0.0.1", port=server.port, user=server.user, password=server.password,
                    dbname=server.database,
                ))  # fmt: skip
            except psycopg.OperationalError as error:
                # The server can refuse a connection while the session that created the users is still open.
                if "slots" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)  # noqa: ASYNC251 - nothing else runs
        result = await probe(postgres_backend(server), server.port)
        assert result.reason is FailureReason.TOO_MANY_CONNECTIONS
    finally:
        for connection in held:
            connection.close()
        server.stop()


async def test_postgres_that_is_starting_up() -> None:
    message = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0"
    packet = b"E" + (len(message) + 4).to_bytes(4, "big") + message
    with serving(talking(packet)) as port:
        assert (await probe(KINDS["postgres"], port)).reason is FailureReason.STARTING


async def test_postgres_that_hangs_up_after_the_login() -> None:
    """The server closes the connection after the login, like pgbouncer when the database behind it is down."""
    authenticated = b"R" + (8).to_bytes(4, "big") + (0).to_bytes(4, "big")
    ready = b"Z" + (5).to_bytes(4, "big") + b"I"

    def hang_up(client: Any) -> None:
        client.recv(4096)
        client.sendall(authenticated + ready)
        client.recv(4096)

    with serving(hang_up) as port:
        assert (await probe(KINDS["postgres"], port)).reason is FailureReason.RESET


async def test_mysql_with_a_malformed_greeting() -> None:
    packet = b"\x0a8.0\x00\x01"
    with serving(talking(len(packet).to_bytes(3, "little") + b"\x00" + packet)) as port:
        assert (await probe(KINDS["mysql"], port)).reason is FailureReason.PROTOCOL


async def test_an_invalid_host_name_is_a_dns_error() -> None:
    assert (await probe(KINDS["tcp"], 1, host="a..b")).reason is FailureReason.DNS


async def test_the_postgres_check_never_sends_its_password_unencrypted() -> None:
    asks_for_cleartext = b"R" + (8).to_bytes(4, "big") + (3).to_bytes(4, "big")
    heard = bytearray()

    def listen(client: Any) -> None:
        client.sendall(asks_for_cleartext)
        with contextlib.suppress(OSError):
            while data := client.recv(4096):
                heard.extend(data)

    backend = PostgresBackend(EmptyOptions(), SqlCheckOptions(user="u", password=Secret("topsecret")))
    with serving(listen) as port:
        result = await probe(backend, port)
    assert result.reason is FailureReason.AUTH
    assert b"topsecret" not in heard


async def test_postgres_replica_lag(server_folder: Path, shared_postgres: Postgres) -> None:
    """A standby without a connection to its primary is degraded. With more lag than `max_lag`, it is unusable."""
    from gateway.backends.postgres import PostgresBackend as Backend_  # noqa: PLC0415 - the pure part

    backend = Backend_(EmptyOptions(), SqlCheckOptions(user="u", max_lag=Duration(10.0)))
    here, other = HostPort("a", 1), HostPort("b", 1)
    good = backend._evaluate(["t", "on", "17", "1.5", "t"], here, 0)
    assert (good.role, good.read_only, good.facts[LAG], good.degraded) == ("replica", True, 1.5, None)
    lonely = backend._evaluate(["t", "on", "17", "1.5", "f"], here, 0)
    assert lonely.degraded is not None
    assert lonely.degraded[0] is FailureReason.LAG
    for lag in ("11", None):
        late = backend._evaluate(["t", "on", "17", lag, "t"], here, 0)
        assert late.role == "replica"
        assert late.unusable is not None
        assert late.unusable[0] is FailureReason.LAG
    # If a replica was up to date 5 s ago, its lag is 5 s, even if its last transaction is one hour old.
    assert backend._evaluate(["t", "on", "17", "0", "t"], here, 100).facts[LAG] == 0
    assert (backend._evaluate(["t", "on", "17", "3600", "f"], here, 105)).facts[LAG] == 5
    assert (backend._evaluate(["t", "on", "17", "3600", "f"], here, 105)).unusable is None
    assert (backend._evaluate(["t", "on", "17", "3600", "f"], here, 111)).unusable is not None
    assert (backend._evaluate(["t", "on", "17", "3600", "f"], other, 105)).unusable is not None


async def test_a_disconnected_postgres_standby_is_not_reported_as_current(
    server_folder: Path, shared_postgres: Postgres
) -> None:
    standby = shared_postgres.standby(server_folder / "standby")
    try:
        check = SqlCheckOptions(
            user=standby.check_user, password=Secret(standby.check_password), max_lag=Duration(1.0)
        )
        backend = PostgresBackend(EmptyOptions(), replace(check, database="postgres"))

        async def until(condition: Callable[[CheckResult], bool]) -> CheckResult:
            async with asyncio.timeout(20):
                while not condition(result := await probe(backend, standby.port)):
                    await asyncio.sleep(0.1)
            return result

        up = await until(lambda result: result.state is HealthState.UP)
        assert up.probe_result is not None
        assert (up.probe_result.role, up.probe_result.facts[LAG]) == ("replica", 0)
        await asyncio.sleep(1.5)  # while the primary has no writes, there is no lag
        # While the standby replays a record of the primary, its lag is not known.
        await until(lambda result: result.state is HealthState.UP)
        standby.execute("ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")
        down = await until(lambda result: result.state is HealthState.DOWN)
        assert (down.reason, "behind its primary" in down.detail) == (FailureReason.LAG, True)
    finally:
        standby.stop()


def nfs_backend(export: str = "/media", *, write: bool = False) -> NfsBackend:
    return NfsBackend(NfsBackendOptions(export=export), NfsCheckOptions(write=write))


async def test_an_nfs_check_reports_space_and_phases(shared_nfs: NfsServer) -> None:
    result = await probe(nfs_backend(write=True), shared_nfs.port)
    assert result.state is HealthState.UP
    assert result.probe_result is not None
    real = shutil.disk_usage(shared_nfs.export)
    space = result.probe_result.facts[SPACE]
    assert isinstance(space, dict)
    assert space["total"] == real.total
    assert abs(space["available"] - real.free) < 1 << 30
    assert list(result.phases) == ["dns", "tcp", "greeting", "rpc", "query"]
    assert not list(shared_nfs.export.glob(".gateway*"))


@pytest.mark.parametrize("export", ["/nothing", "/media/nothing", "/media/hello.txt"])
async def test_an_unusable_nfs_export_has_its_reason(shared_nfs: NfsServer, export: str) -> None:
    result = await probe(nfs_backend(export), shared_nfs.port)
    assert result.reason is FailureReason.EXPORT
    assert export in result.detail


async def test_an_nfs_canary_left_by_a_crash_is_removed(shared_nfs: NfsServer) -> None:
    (shared_nfs.export / CANARY).mkdir()
    assert (await probe(nfs_backend(write=True), shared_nfs.port)).state is HealthState.UP
    assert not (shared_nfs.export / CANARY).exists()


async def test_nfs_many_gateways_may_check_one_export(shared_nfs: NfsServer) -> None:
    target = HostPort("127.0.0.1", shared_nfs.port)
    checks = [probe_once(nfs_backend(write=True), DirectLink(), target, 10) for _ in range(30)]
    failed = [result.detail for result in await asyncio.gather(*checks) if result.state is not HealthState.UP]
    # NFS-Ganesha seldom responds NFS4ERR_SERVERFAULT (10006) to one of many concurrent requests.
    assert all("nfsstat4 10006" in detail for detail in failed), failed
    assert len(failed) <= 1


async def test_the_nfs_canary_removes_no_file(shared_nfs: NfsServer) -> None:
    file = shared_nfs.export / CANARY
    file.write_text("foreign")
    try:
        assert (await probe(nfs_backend(write=True), shared_nfs.port)).state is HealthState.DOWN
        assert file.read_text() == "foreign"
    finally:
        file.unlink()


async def test_a_full_nfs_export_has_its_reason(tmp_path: Path, small_export: Path) -> None:
    server = NfsServer(tmp_path / "server", export=small_export).start()
    try:
        assert (await probe(nfs_backend(write=True), server.port)).state is HealthState.UP
        with contextlib.suppress(OSError), (small_export / "filler").open("wb") as file:
            while True:
                file.write(bytes(4096))
                file.flush()
        result = await probe(nfs_backend(), server.port)
        assert result.reason is FailureReason.NO_SPACE
    finally:
        server.stop()


async def test_nfs_without_version_4_0_is_checked_in_one_long_session(tmp_path: Path) -> None:
    need(nfs.available(), "root, and ganesha.nfsd (packages nfs-ganesha nfs-ganesha-vfs)")
    server = NfsServer(tmp_path / "server", minor_versions="1,2").start()
    try:
        backend = nfs_backend(write=True)
        sessions: set[bytes] = set()
        for _ in range(4):
            result = await probe(backend, server.port)
            assert (result.state, result.reason) == (HealthState.UP, None), result.detail
            sessions.update(session.session_id for session in backend._export_probe._sessions.values())
        assert len(sessions) == 1
        assert await simultaneous_failures(backend, server.port) == []
        assert (await probe(nfs_backend("/nowhere"), server.port)).reason is FailureReason.EXPORT
        server.stop()
        server.start()  # the new process does not know the earlier NFS session
        assert (await probe(backend, server.port)).state is HealthState.UP
    finally:
        server.stop()


async def test_a_changed_nfs_file_system_is_reported(tmp_path: Path, small_export: Path) -> None:
    first = NfsServer(tmp_path / "first").start()
    backend = nfs_backend()
    try:
        assert (await probe(backend, first.port)).state is HealthState.UP
        first.stop()
        second = NfsServer(tmp_path / "second", export=small_export)
        backend._first_seen[HostPort("127.0.0.1", second.port)] = backend._first_seen[
            HostPort("127.0.0.1", first.port)
        ]
        second.start()
        first = second
        result = await probe(backend, second.port)
        assert (result.state, result.reason) == (HealthState.DEGRADED, FailureReason.EXPORT), result.detail
        assert "a different file system than before" in result.detail
    finally:
        first.stop()


async def test_a_recreated_nfs_directory_is_reported(tmp_path: Path) -> None:
    server = NfsServer(tmp_path / "server").start()
    backend = nfs_backend("/media/shared")
    shared = server.export / "shared"
    shared.mkdir()
    try:
        for _ in range(2):
            result = await probe(backend, server.port)
            assert result.state is HealthState.UP, result.detail
            assert result.probe_result is not None
            assert result.probe_result.facts[LEASE] == 60
        server.stop()  # a running server would use its cache of the old directory
        shared.rename(server.export / "kept")
        shared.mkdir()
        server.start()
        result = await probe(backend, server.port)
        assert (result.state, result.reason) == (HealthState.DEGRADED, FailureReason.EXPORT)
        assert "a different directory than before" in result.detail
    finally:
        server.stop()


async def test_a_read_only_nfs_export_has_its_reason(tmp_path: Path, shared_nfs: NfsServer) -> None:
    server = NfsServer(tmp_path / "server", access="RO").start()
    try:
        assert (await probe(nfs_backend(), server.port)).state is HealthState.UP
        assert (await probe(nfs_backend(write=True), server.port)).reason is FailureReason.READ_ONLY
    finally:
        server.stop()
