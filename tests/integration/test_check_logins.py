"""Tests the logins of checks: the gateway never sends the password to a server that it has not verified."""

import asyncio
import contextlib
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from gateway.backend_support.sql_check_options import SqlCheckOptions
from gateway.backend_support.tls_options import HealthCheckTlsOptions
from gateway.backends import EmptyOptions
from gateway.backends.mysql import KIND, MysqlBackend, MysqlCheckOptions
from gateway.backends.postgres import PostgresBackend
from gateway.contracts.secret import Secret
from gateway.contracts.states import HealthState
from gateway.demo import mariadb, postgres
from gateway.demo.server_process import free_port
from gateway.errors import FailureReason, TargetPathError
from tests.support import certificates, postgres_end
from tests.support.clients import query_mysql
from tests.support.gateway_process import Gateway
from tests.support.mysql_attacks import HOSTILE, by_unrequested_key
from tests.support.mysql_end import PEM, MysqlEnd, fast_proof, random_password, revealed
from tests.support.probes import mysql_backend, postgres_backend, probe
from tests.support.requirements import need
from tests.support.servers import serving

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> certificates.Issued:
    return certificates.issue(tmp_path_factory.mktemp("authority") / "ca")


@pytest.fixture
def password() -> str:
    return random_password()


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    file = tmp_path / "server.pem"
    file.write_bytes(PEM)
    return file


def checking(password: str, tls: HealthCheckTlsOptions | None = None, key: Path | None = None) -> MysqlBackend:
    check = MysqlCheckOptions(
        user="u", password=Secret(password), tls=tls or HealthCheckTlsOptions(), server_public_key_file=key
    )
    return MysqlBackend(EmptyOptions(), check)


@contextlib.contextmanager
def playing(script: Callable[[MysqlEnd], None]) -> Iterator[tuple[int, list[bytes]]]:
    """Run a MySQL server that follows `script`; yield the port of the server, and the packets that it received."""
    heard: list[bytes] = []

    def play(client: socket.socket) -> None:
        end = MysqlEnd(client, heard)
        try:
            script(end)
            while True:
                end.receive()
        finally:
            end.sock.close()

    with serving(play) as port:
        yield port, heard


def over_tls(authority: certificates.Issued, script: Callable[[MysqlEnd], None]) -> Callable[[MysqlEnd], None]:
    """Return a variant of the script that uses TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.certificate, authority.key)

    def play(end: MysqlEnd) -> None:
        greet = end.greet
        end.greet = lambda plugin, _=None: greet(plugin, context)  # type: ignore[method-assign,assignment]
        script(end)

    return play


@pytest.mark.parametrize("attack", HOSTILE)
@pytest.mark.parametrize("mode", ["off", "require"])
async def test_a_server_cannot_take_the_checks_password(
    attack: str, mode: Any, authority: certificates.Issued, password: str
) -> None:
    script = HOSTILE[attack] if mode == "off" else over_tls(authority, HOSTILE[attack])
    with playing(script) as (port, heard):
        result = await probe(checking(password, HealthCheckTlsOptions(mode)), port)
    assert heard
    assert not revealed(heard, password)
    if "second_switch" in attack:  # a correct server sends at most one AuthSwitchRequest
        assert (result.state, result.reason) == (HealthState.DOWN, FailureReason.PROTOCOL), result.detail
        return
    assert (result.state, result.reason) == (HealthState.DEGRADED, FailureReason.AUTH), result.detail
    if attack != "by_sha256_as_default":  # this script does not request the password
        assert "check.tls.mode: verify" in result.detail


async def test_a_server_cannot_replace_the_key_that_is_pinned(tmp_path: Path, password: str) -> None:
    other = tmp_path / "other.pem"
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    other.write_bytes(key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    for script in (*HOSTILE.values(), by_unrequested_key):
        with playing(script) as (port, heard):
            result = await probe(checking(password, key=other), port)
        assert heard
        assert not revealed(heard, password)
        assert result.state is not HealthState.UP


async def test_the_fast_path_of_caching_sha2_needs_neither_tls_nor_a_key(password: str) -> None:
    def fast(end: MysqlEnd) -> None:
        assert fast_proof(password) in end.greet("caching_sha2_password")
        end.send(b"\1\3")
        end.serve()

    def fast_by_switch(end: MysqlEnd) -> None:
        end.greet("mysql_native_password")
        assert end.switch("caching_sha2_password") == fast_proof(password)
        end.send(b"\1\3")
        end.serve()

    for script in (fast, fast_by_switch):
        with playing(script) as (port, heard):
            result = await probe(checking(password), port)
        assert result.state is HealthState.UP, result.detail
        assert not revealed(heard, password)


@pytest.mark.parametrize("plugin", ["caching_sha2_password", "sha256_password"])
async def test_the_servers_key_opens_the_full_path(plugin: str, key_file: Path, password: str) -> None:
    def full(end: MysqlEnd) -> None:
        end.greet("mysql_native_password")
        end.switch(plugin)
        if plugin == "caching_sha2_password":
            end.ask(b"\1\4")
        assert revealed(end.heard[-1:], password)
        end.serve()

    with playing(full) as (port, _):
        result = await probe(checking(password, key=key_file), port)
    assert result.state is HealthState.UP, result.detail


async def test_verified_tls_opens_the_full_path(authority: certificates.Issued, password: str) -> None:
    def full(end: MysqlEnd) -> None:
        end.greet("caching_sha2_password")
        assert end.ask(b"\1\4") == password.encode() + b"\0"
        end.serve()

    with playing(over_tls(authority, full)) as (port, _):
        result = await probe(
            checking(password, HealthCheckTlsOptions("verify", authority.ca, certificates.NAME)), port
        )
    assert result.state is HealthState.UP, result.detail


def test_a_key_file_that_is_wrong_or_unused_is_refused(
    tmp_path: Path, key_file: Path, authority: certificates.Issued
) -> None:
    def refusal(**changes: Any) -> str:
        with pytest.raises(TargetPathError, match="server_public_key_file") as caught:
            KIND.verify(EmptyOptions(), MysqlCheckOptions(**changes))
        return caught.value.detail

    KIND.verify(EmptyOptions(), MysqlCheckOptions(server_public_key_file=key_file))
    assert "not contain a public key in PEM" in refusal(server_public_key_file=authority.ca)
    assert "No such file" in refusal(server_public_key_file=tmp_path / "nothing")
    assert "not used with TLS" in refusal(server_public_key_file=key_file, tls=HealthCheckTlsOptions("require"))
    elliptic = tmp_path / "ec.pem"
    private = serialization.load_pem_private_key(authority.key.read_bytes(), None)
    elliptic.write_bytes(
        private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    assert "is not an RSA key" in refusal(server_public_key_file=elliptic)


async def test_mariadb_logs_in_by_ed25519_and_refuses_an_unsupported_plugin(
    shared_mariadb: mariadb.MariaDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared_mariadb.execute(
        "INSTALL SONAME 'auth_ed25519'",
        "INSTALL SONAME 'auth_parsec'",
        "CREATE USER signing@'%' IDENTIFIED VIA ed25519 USING PASSWORD('secret')",
        "CREATE USER salted@'%' IDENTIFIED VIA parsec USING PASSWORD('secret')",
    )

    async def ask(user: str, password: str) -> tuple[HealthState, FailureReason | None, str]:
        backend = mysql_backend(shared_mariadb, user=user, password=Secret(password), database=None)
        result = await probe(backend, shared_mariadb.port)
        return result.state, result.reason, result.detail

    assert (await ask("signing", "secret"))[0] is HealthState.UP
    assert (await ask("signing", "wrong"))[:2] == (HealthState.DEGRADED, FailureReason.AUTH)
    state, reason, detail = await ask("salted", "secret")
    assert (state, reason, "parsec" in detail) == (HealthState.DEGRADED, FailureReason.AUTH, True)

    def missing(*_: object) -> bytes:
        raise RuntimeError("'pynacl' package is required")

    monkeypatch.setattr("pymysql._auth.ed25519_password", missing)
    state, reason, detail = await ask("signing", "secret")
    assert (state, reason, "gateway[ed25519]" in detail) == (HealthState.DEGRADED, FailureReason.AUTH, True)


async def test_a_password_may_have_any_characters(shared_mariadb: mariadb.MariaDB) -> None:
    shared_mariadb.execute("CREATE USER accented@'%' IDENTIFIED BY 'pä€日'")
    for password, state in (("pä€日", HealthState.UP), ("pä€月", HealthState.DEGRADED)):
        backend = mysql_backend(shared_mariadb, user="accented", password=Secret(password), database=None)
        result = await probe(backend, shared_mariadb.port)
        assert result.state is state, result.detail


async def test_the_files_of_a_mysql_login_are_read_in_a_thread(
    key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers: list[threading.Thread] = []
    read = Path.read_bytes

    def reading(path: Path) -> bytes:
        if path == key_file:
            readers.append(threading.current_thread())
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", reading)
    assert (await probe(checking("x", key=key_file), free_port())).reason is FailureReason.REFUSED
    assert len(readers) == 1
    assert threading.main_thread() not in readers


async def test_a_mysql_that_asks_for_no_password_is_unauthenticated(server_folder: Path) -> None:
    need(mariadb.available(), "mariadbd (package mariadb-server)")
    server = mariadb.MariaDB(server_folder / "no-grants").start()
    server.stop()
    open_to_all = mariadb.MariaDB(server_folder / "no-grants", "--skip-grant-tables")
    open_to_all.start()
    try:
        result = await probe(mysql_backend(open_to_all), open_to_all.port)
        assert (result.state, result.reason) == (HealthState.DEGRADED, FailureReason.UNAUTHENTICATED), result.detail
        assert result.probe_result is not None
        assert result.probe_result.role == "primary"
        assert (await probe(mysql_backend(open_to_all, password=None), open_to_all.port)).state is HealthState.UP
    finally:
        open_to_all.stop()


async def test_clients_are_served_while_the_checks_own_login_fails(
    shared_mariadb: mariadb.MariaDB, gateway: Gateway
) -> None:
    port = free_port()
    secret = gateway.folder / "secret"
    secret.write_text("wrong")
    gateway.write(f"""
        backends:
          orders:
            kind: mysql
            targets: ["127.0.0.1:{shared_mariadb.port}"]
            listen: 127.0.0.1:{port}
            check: {{user: {shared_mariadb.check_user}, password_file: {secret}, interval: 1s}}
    """)
    gateway.start().wait_state("orders", "degraded", "auth")
    assert query_mysql(shared_mariadb, port) == 3
    assert gateway.http.get("/readyz/orders")[0] == 200
    _, metrics = gateway.http.get("/metrics")
    labels = f'{{backend="orders",target="127.0.0.1:{shared_mariadb.port}"}}'
    assert 'gateway_backend_up{backend="orders"} 1.0' in str(metrics)
    assert f"gateway_check_up{labels} 0.0" in str(metrics)
    assert f"gateway_check_last_success_timestamp_seconds{labels}" not in str(metrics)


@pytest.fixture(scope="module")
def login_methods(server_folder: Path) -> Iterator[tuple[postgres.Postgres, certificates.Issued]]:
    """A PostgreSQL server with TLS, and with users of several authentication methods."""
    need(postgres.available(), "postgres (package postgresql)")
    authority = certificates.issue(server_folder / "logins-tls", owner="postgres")
    files = {"ssl": "on", "ssl_cert_file": str(authority.certificate), "ssl_key_file": str(authority.key)}
    server = postgres.Postgres(server_folder / "logins", **files).start()
    server.execute(
        "CREATE ROLE trusted LOGIN PASSWORD 'secret'",
        "CREATE ROLE clear LOGIN PASSWORD 'secret'",
        "SET password_encryption = 'md5'",
        "CREATE ROLE hashed LOGIN PASSWORD 'secret'",
    )
    server.stop()
    rules = server.folder / "data" / "pg_hba.conf"
    methods = {"trusted": "trust", "clear": "password", "hashed": "md5"}
    first = "".join(f"host all {user} 127.0.0.1/32 {method}\n" for user, method in methods.items())
    rules.write_text(first + rules.read_text())
    server.start().execute("SELECT 1")  # `execute` waits until the server accepts logins
    yield server, authority
    server.stop()


def as_user(server: postgres.Postgres, user: str, tls: HealthCheckTlsOptions | None = None) -> Any:
    return postgres_backend(
        server, user=user, password=Secret("secret"), database="shop", tls=tls or HealthCheckTlsOptions()
    )


@pytest.mark.parametrize("user", ["hashed", "clear"])
@pytest.mark.parametrize("mode", ["off", "require", "verify"])
async def test_a_postgres_check_logs_in_by_scram_only(
    login_methods: tuple[postgres.Postgres, certificates.Issued], user: str, mode: Any
) -> None:
    server, authority = login_methods
    tls = (
        HealthCheckTlsOptions(mode, authority.ca, certificates.NAME)
        if mode == "verify"
        else HealthCheckTlsOptions(mode)
    )
    result = await probe(as_user(server, user, tls), server.port)
    assert (result.state, result.reason) == (HealthState.DEGRADED, FailureReason.AUTH), result.detail
    assert "write scram-sha-256 in pg_hba.conf" in result.detail


@pytest.mark.parametrize("mode", ["off", "require", "verify"])
async def test_a_postgres_that_asks_for_no_password_is_unauthenticated(
    login_methods: tuple[postgres.Postgres, certificates.Issued], mode: Any
) -> None:
    server, authority = login_methods
    tls = (
        HealthCheckTlsOptions(mode, authority.ca, certificates.NAME)
        if mode == "verify"
        else HealthCheckTlsOptions(mode)
    )
    result = await probe(as_user(server, "trusted", tls), server.port)
    assert (result.state, result.reason) == (HealthState.DEGRADED, FailureReason.UNAUTHENTICATED), result.detail
    assert "pg_hba.conf" in result.detail
    if mode != "require":
        assert result.probe_result is not None
        assert result.probe_result.role == "primary"
    without = postgres_backend(server, user="trusted", password=None, database="shop", tls=tls)
    assert (await probe(without, server.port)).state is HealthState.UP  # the configuration has no password


@contextlib.contextmanager
def in_between(server: postgres.Postgres, authority: certificates.Issued) -> Iterator[int]:
    """Run a relay that decrypts the TLS traffic of PostgreSQL clients; yield its port.

    Towards the clients, the relay uses the certificate of `authority`. It connects to the server without TLS.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.certificate, authority.key)

    def pass_on(client: socket.socket) -> None:
        client.recv(8)
        client.sendall(b"S")
        with (
            context.wrap_socket(client, server_side=True) as outside,
            socket.create_connection(("127.0.0.1", server.port), timeout=20) as inside,
        ):
            _pass_on(outside, inside)

    with serving(pass_on) as port:
        yield port


def _pass_on(outside: ssl.SSLSocket, inside: socket.socket) -> None:
    """Pass data on in both directions until one side ends. A TLS connection must not be used by two threads."""
    sinks: dict[socket.socket, socket.socket] = {outside: inside, inside: outside}
    with contextlib.suppress(OSError):
        while True:
            ready = [outside] if outside.pending() else select.select(list(sinks), [], [], 20)[0]
            if not ready:
                return
            for source in ready:
                if not (data := source.recv(4096)):
                    return
                sinks[source].sendall(data)


async def test_a_server_in_between_cannot_relay_a_postgres_login(
    shared_postgres: postgres.Postgres, authority: certificates.Issued
) -> None:
    with in_between(shared_postgres, authority) as port:
        result = await probe(postgres_backend(shared_postgres, tls=HealthCheckTlsOptions("require")), port)
        assert (result.state, result.reason) == (HealthState.DEGRADED, FailureReason.AUTH), result.detail
        assert "set check.tls.mode: verify" in result.detail
        # If the relay has a valid certificate, the check logs in, because the relay can be a connection pooler.
        verified = postgres_backend(
            shared_postgres, tls=HealthCheckTlsOptions("verify", authority.ca, certificates.NAME)
        )
        result = await probe(verified, port)
        assert result.state is HealthState.UP, result.detail


async def _until_no_thread(name: str, limit: float) -> None:
    """Wait until no thread whose name begins with `name` runs, at most `limit` seconds."""
    async with asyncio.timeout(limit):
        while any(each.name.startswith(name) for each in threading.enumerate()):
            await asyncio.sleep(0.01)


async def test_no_thread_or_connection_of_a_mysql_check_outlives_its_deadline() -> None:
    gone = threading.Event()

    def never_answer(end: MysqlEnd) -> None:
        try:
            end.greet("mysql_native_password")
            end.receive()
        finally:
            gone.set()

    with playing(never_answer) as (port, _):
        assert (await probe(checking("p"), port, timeout=3)).reason is FailureReason.TIMEOUT
        assert await asyncio.to_thread(gone.wait, 10)
        await _until_no_thread("mysql-check", 4)


async def test_scram_iterations_of_a_server_delay_neither_the_event_loop_nor_the_deadline() -> None:
    asked = threading.Event()

    def play(client: socket.socket) -> None:
        postgres_end.ask_for_iterations(client, 2_000_000)
        asked.set()
        client.recv(1)

    def computing() -> int:
        return sum(each.name == "postgres-check" for each in threading.enumerate())

    longest, last = 0.0, time.monotonic()

    async def beat() -> None:
        nonlocal longest, last
        while True:
            await asyncio.sleep(0.01)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()

    beating = asyncio.create_task(beat())
    with serving(play) as port:
        for limit in (0.4, 0.8, 1.6, 3.2):  # on a busy machine, the deadline can pass before the computation starts
            asked.clear()
            longest = 0.0
            backend = PostgresBackend(EmptyOptions(), SqlCheckOptions(user="u", password=Secret("p")))
            result = await probe(backend, port, timeout=limit)
            still = computing()
            if still and "SCRAM iterations" in result.detail:
                break
            await _until_no_thread("postgres-check", 400)
        assert asked.is_set()
        assert (result.state, result.reason, still) == (HealthState.DOWN, FailureReason.TIMEOUT, 1), result.detail
        assert "SCRAM iterations" in result.detail
        assert longest < result.duration  # the SCRAM computation did not block the event loop
        again = await probe(backend, port, timeout=1)
        assert (again.state, again.reason) == (HealthState.DOWN, FailureReason.PROTOCOL), again.detail
        assert "SCRAM iterations" in again.detail
        assert computing() == 1  # the second probe did not start another SCRAM computation
    beating.cancel()
    for thread in threading.enumerate():
        if thread.name == "postgres-check" and thread.native_id is not None and os.geteuid() == 0:
            with contextlib.suppress(ProcessLookupError):  # the thread can end meanwhile
                os.setpriority(os.PRIO_PROCESS, thread.native_id, 0)  # so that it also ends on a busy machine
    await _until_no_thread("postgres-check", 400)  # libpq cannot interrupt the SCRAM computation
