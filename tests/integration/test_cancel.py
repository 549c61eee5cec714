"""Tests PostgreSQL cancel requests through the gateway: at a connection limit, and after a change of target."""

import asyncio
import contextlib
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from gateway.backend_support.postgres_cancel_protocol import PostgresCancelKeyTap
from gateway.contracts.config_types import HostPort
from gateway.contracts.link import Link
from gateway.demo.postgres import Postgres, available
from gateway.demo.server_process import find, free_port
from gateway.demo.sshd import Bastion
from gateway.metric_types import Histogram
from gateway.query_cancel_parser import CancelRequest
from gateway.relay.direct_link import DirectLink
from gateway.relay.sockets import tune
from tests.support import certificates
from tests.support.clients import postgres as connect
from tests.support.configs import database_check, ssh_tunnel
from tests.support.gateway_process import Gateway
from tests.support.requirements import need
from tests.support.servers import Behavior, serving
from tests.support.ssh_sessions import opened, options

pytestmark = pytest.mark.integration

PATHS = ["direct", "plane", "asyncssh"]
SLEEP = "SELECT pg_sleep(50)"
CANCEL = (80877102).to_bytes(4, "big")


def plain(session: "psycopg.Connection[Any]") -> None:
    """Send a cancel request with PQcancel, which never uses TLS."""
    session.cancel()


def negotiated(session: "psycopg.Connection[Any]") -> None:
    """Send a cancel request with PQcancelStart of libpq 17, which uses TLS if the session uses TLS."""
    session.cancel_safe(timeout=20)


CANCELS = [plain, negotiated]


def pair(folder: Path, first: dict[str, str], second: dict[str, str]) -> Iterator[tuple[Postgres, Postgres]]:
    need(available(), "postgres (package postgresql)")
    one, other = Postgres(folder / "one", **first), Postgres(folder / "other", **second)
    other.password, other.check_password = one.password, one.check_password
    try:
        yield one.start(), other.start()
    finally:
        one.stop()
        other.stop()


@pytest.fixture(scope="module")
def servers(server_folder: Path) -> Iterator[tuple[Postgres, Postgres]]:
    """Run two PostgreSQL servers with the same user."""
    yield from pair(server_folder / "cancel", {"ssl": "off"}, {"ssl": "off"})


@pytest.fixture(scope="module")
def tls_servers(server_folder: Path) -> Iterator[tuple[Postgres, Postgres]]:
    need(available(), "postgres (package postgresql)")
    authority = certificates.issue(server_folder / "cancel-authority", owner="postgres")
    files = {"ssl": "on", "ssl_cert_file": str(authority.certificate), "ssl_key_file": str(authority.key)}
    yield from pair(server_folder / "cancel-tls", files, files)


class Running:
    """A database session that runs a query in a separate thread."""

    def __init__(self, server: Postgres, session: "psycopg.Connection[Any]") -> None:
        self.session = session
        session.autocommit = True
        self._server = server
        self._outcome: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.session.execute(SLEEP)
        except psycopg.Error as error:
            self._outcome = error

    @property
    def pid(self) -> int:
        return self.session.info.backend_pid

    def start(self) -> None:
        self._thread.start()
        with connect(self._server, self._server.port) as direct:
            deadline = time.monotonic() + 20
            asked = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND state = 'active' AND wait_event = 'PgSleep'"
            while not direct.execute(asked, (self.pid,)).fetchone():
                direct.rollback()
                assert time.monotonic() < deadline
                time.sleep(0.01)

    def stop(self) -> None:
        if self._thread.is_alive():
            with connect(self._server, self._server.port) as direct:
                direct.execute("SELECT pg_terminate_backend(%s)", (self.pid,))
        self._thread.join(30)

    def wait_cancelled(self, again: "Callable[[psycopg.Connection[Any]], object] | None" = None) -> None:
        """Wait until the query is cancelled.

        Args:
            again: Called with the session every five seconds, to repeat a cancel request that the gateway could not
                send within its time limit.
        """
        self._thread.join(5)
        for _ in range(3):
            if again is not None and self._thread.is_alive():
                again(self.session)
            self._thread.join(5)
        assert not self._thread.is_alive(), "the query still runs"
        assert isinstance(self._outcome, psycopg.errors.QueryCanceled), self._outcome


@contextlib.contextmanager
def running(server: Postgres, session: "psycopg.Connection[Any]") -> Iterator[Running]:
    query = Running(server, session)
    try:
        query.start()
        yield query
    finally:
        query.stop()


def write(
    gateway: Gateway,
    bastion: Bastion,
    path: str,
    targets: list[Postgres],
    port: int,
    more: str = "",
    check: str | None = None,
) -> None:
    data_plane = ", data_plane: asyncssh" if path == "asyncssh" else ""
    endpoints = ", ".join(f'"127.0.0.1:{each.port}"' for each in targets)
    gateway.write(f"""
        log: {{level: debug}}
        tunnels:
          bastion: {ssh_tunnel(bastion, more=data_plane)}
        backends:
          reports:
            kind: postgres
            {"via: bastion" if path != "direct" else ""}
            targets: [{endpoints}]
            listen: 127.0.0.1:{port}
            check: {check or database_check(targets[0], gateway.folder, "interval: 500ms")}
            {more}
    """)


def served_by(server: Postgres, port: int) -> int:
    with connect(server, port) as session:
        row = session.execute("SHOW port").fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("path", PATHS)
def test_a_query_is_cancelled_at_the_limit_and_after_new_clients_have_moved(
    gateway: Gateway, shared_bastion: Bastion, servers: tuple[Postgres, Postgres], path: str
) -> None:
    one, other = servers
    port = free_port()
    write(gateway, shared_bastion, path, [other], port, "max_connections: 1")
    gateway.start("--reload-on-change", "false").wait_up("reports")
    if path != "direct":
        assert gateway.tunnel("bastion")["data_plane"] == ("asyncssh" if path == "asyncssh" else "native")
    session = connect(other, port)
    with pytest.raises(psycopg.OperationalError):
        connect(other, port)
    refused = gateway.backend("reports")["connections"]["rejected"]
    assert set(refused) == {"max_connections"}
    with session:
        for cancel in CANCELS:
            with running(other, session) as query:
                cancel(session)
                query.wait_cancelled()
            gateway.wait(lambda: gateway.backend("reports")["connections"]["active"] == 1)
        assert gateway.backend("reports")["connections"]["rejected"] == refused
        assert gateway.backend("reports")["connections"]["total"] == 3
        # `session` stays connected to `other`. After the first reload, new clients use `one`. The second reload also
        # removes the target `other`.
        for targets in ([one, other], [one]):
            write(gateway, shared_bastion, path, targets, port)
            assert gateway.command("reload").returncode == 0
            gateway.wait(lambda: served_by(one, port) == one.port)
            for cancel in CANCELS:
                with running(other, session) as query:
                    cancel(session)
                    query.wait_cancelled()
                assert served_by(one, port) == one.port


def test_a_consumer_at_its_quota_can_cancel(
    gateway: Gateway, shared_bastion: Bastion, servers: tuple[Postgres, Postgres]
) -> None:
    server, port = servers[0], free_port()
    write(gateway, shared_bastion, "plane", [server], port, "max_connections_per_consumer: 1")
    gateway.start("--reload-on-change", "false").wait_up("reports")
    with connect(server, port) as session, running(server, session) as query:
        with pytest.raises(psycopg.OperationalError):
            connect(server, port)
        refused = gateway.backend("reports")["connections"]["rejected"]
        assert set(refused) == {"consumer_quota"}
        plain(query.session)
        query.wait_cancelled()
        assert gateway.backend("reports")["connections"]["rejected"] == refused


def test_ctrl_c_in_psql_cancels_at_the_limit(
    gateway: Gateway, shared_bastion: Bastion, servers: tuple[Postgres, Postgres]
) -> None:
    need(find("psql") is not None, "psql (package postgresql-client)")
    server, port = servers[0], free_port()
    write(gateway, shared_bastion, "plane", [server], port, "max_connections: 1")
    gateway.start("--reload-on-change", "false").wait_up("reports")
    login = gateway.folder / "login"
    login.touch(0o600)
    login.write_text(f"127.0.0.1:{port}:*:{server.user}:{server.password}\n")
    where = f"host=127.0.0.1 port={port} user={server.user} dbname={server.database} passfile={login}"
    with subprocess.Popen(["psql", "-X", where, "-c", SLEEP], stderr=subprocess.PIPE, text=True) as psql:
        try:
            with connect(server, server.port) as direct:
                asked = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'psql' AND wait_event = 'PgSleep'"
                deadline = time.monotonic() + 20
                while not direct.execute(asked).fetchone():
                    direct.rollback()
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
            psql.send_signal(signal.SIGINT)
            _, said = psql.communicate(timeout=20)
        finally:
            psql.kill()
    assert "canceling statement due to user request" in said


def test_a_query_is_cancelled_while_there_is_no_target_for_new_clients(
    gateway: Gateway, shared_bastion: Bastion, servers: tuple[Postgres, Postgres]
) -> None:
    _, server = servers
    port = free_port()
    write(gateway, shared_bastion, "plane", [server], port, "prefer: primary")
    gateway.start("--reload-on-change", "false").wait_up("reports")
    with connect(server, port) as session, running(server, session) as query:
        server.execute("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
        try:
            gateway.wait_state("reports", "down", "role")
            plain(query.session)
            query.wait_cancelled()
        finally:
            server.execute("ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()")


def tls_session(server: Postgres, port: int) -> "psycopg.Connection[Any]":
    return psycopg.connect(
        host="127.0.0.1", port=port, user=server.user, password=server.password, dbname=server.database,
        sslmode="require", connect_timeout=15,
    )  # fmt: skip


def test_an_unencrypted_cancel_request_goes_to_every_server_with_encrypted_sessions(
    gateway: Gateway, shared_bastion: Bastion, tls_servers: tuple[Postgres, Postgres]
) -> None:
    one, other = tls_servers
    port = free_port()
    write(gateway, shared_bastion, "plane", [other], port)
    gateway.start("--reload-on-change", "false").wait_up("reports")
    with tls_session(other, port) as session, running(other, session) as query:
        write(gateway, shared_bastion, "plane", [one, other], port)
        assert gateway.command("reload").returncode == 0
        gateway.wait(lambda: served_by(one, port) == one.port)

        def plain_if_not_copied(session: "psycopg.Connection[Any]") -> None:
            if "cannot send a copy of the cancel request" in gateway.log:
                plain(session)

        with tls_session(one, port) as fresh, running(one, fresh) as second:
            for each in (query, second):
                plain(each.session)
                each.wait_cancelled(again=plain_if_not_copied)
        unknown = 7_654_321
        # The gateway waits only two seconds for the first bytes of a client: connect the stranger last.
        with tls_session(one, port), socket.create_connection(("127.0.0.1", port), timeout=20) as stranger:
            stranger.sendall(b"\0\0\0\x10" + CANCEL + unknown.to_bytes(4, "big") + b"none")
            assert stranger.recv(1) == b""
        refusal = f"PID {unknown} in cancel request did not match"
        gateway.wait(lambda: all(refusal in (server.folder / "log").read_text() for server in (one, other)))


def test_an_unencrypted_request_cancels_an_encrypted_session_at_the_limit(
    gateway: Gateway, shared_bastion: Bastion, tls_servers: tuple[Postgres, Postgres]
) -> None:
    server, port = tls_servers[0], free_port()
    log = server.folder / "log"
    before = len(log.read_text())
    write(gateway, shared_bastion, "plane", [server], port, "max_connections: 1")
    gateway.start("--reload-on-change", "false").wait_up("reports")
    with tls_session(server, port) as session, running(server, session) as query:
        with pytest.raises(psycopg.OperationalError):
            tls_session(server, port)
        assert set(gateway.backend("reports")["connections"]["rejected"]) == {"max_connections"}
        plain(query.session)
        query.wait_cancelled()
    # The gateway must not request TLS for this cancel request. Otherwise, the server logs this error.
    assert "could not accept SSL connection" not in log.read_text()[before:]


def recording(port: int, keys: list[bytes]) -> Behavior:
    """Return a server that forwards each connection to `port`, and appends the session's cancel key to `keys`."""

    def carry(client: socket.socket) -> None:
        login = PostgresCancelKeyTap()
        with socket.create_connection(("127.0.0.1", port), timeout=30) as server:

            def back() -> None:
                with contextlib.suppress(OSError):
                    while data := server.recv(65536):
                        if not login.finished:
                            login.on_response(memoryview(data), 0.0)
                        if login._key is not None:
                            keys.append(login._key)
                        client.sendall(data)
                    client.shutdown(socket.SHUT_WR)

            thread = threading.Thread(target=back)
            thread.start()
            while data := client.recv(65536):
                if not login.finished:
                    login.on_request(memoryview(data), 0.0)
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)
            thread.join()

    return carry


def test_the_cancel_key_appears_in_no_output(
    gateway: Gateway, shared_bastion: Bastion, servers: tuple[Postgres, Postgres]
) -> None:
    one, other = servers
    port = free_port()
    keys: list[bytes] = []
    write(gateway, shared_bastion, "plane", [other], port)
    gateway.start("--reload-on-change", "false").wait_up("reports")
    with (
        serving(recording(port, keys)) as recorded,
        connect(other, recorded) as session,
        running(other, session) as query,
    ):
        write(gateway, shared_bastion, "plane", [one], port, "max_connections: 1")
        assert gateway.command("reload").returncode == 0
        backend = query.pid
        negotiated(session)
        query.wait_cancelled()
        with socket.create_connection(("127.0.0.1", port), timeout=20) as asking:
            asking.sendall(b"\0\0\0\x10" + CANCEL + keys[0])
            assert asking.recv(1) == b""
        with socket.create_connection(("127.0.0.1", port), timeout=20) as asking:
            # The gateway refuses this request, because its length is wrong.
            asking.sendall(b"\0\0\0\x09" + CANCEL + keys[0])
            with pytest.raises(ConnectionResetError):
                asking.recv(1)
        texts = [gateway.log, str(gateway.status()), str(gateway.http.get("/metrics")), str(gateway.http.get("/"))]
        texts += [gateway.command("explain", "reports").stdout, str(gateway.backend("reports"))]
    assert len(set(keys)) == 1
    pid, key = keys[0][:4], keys[0][4:]
    assert int.from_bytes(pid, "big") == backend
    assert "client refused" in texts[0]  # the gateway logs refusals at level debug
    forms = [
        key.hex(), repr(key)[2:-1], str(int.from_bytes(key, "big")), str(int.from_bytes(key, "big", signed=True)),
        str(list(key)), key.decode("latin-1"),
    ]  # fmt: skip
    for text in texts:
        assert not [form for form in forms if form in text]


@contextlib.asynccontextmanager
async def reached(path: str, bastion: Bastion) -> Any:
    if path == "direct":
        yield DirectLink()
        return
    data_plane: dict[str, Any] = {"data_plane": "asyncssh"} if path == "asyncssh" else {}
    async with opened(options(bastion, **data_plane)) as link:
        assert link.status().data_plane == ("asyncssh" if path == "asyncssh" else "native")
        yield link


class Endless(PostgresCancelKeyTap):
    """A tap whose attribute `finished` is always false, so the relay never removes the tap."""

    finished = property(lambda _: False, lambda *_: None)


@contextlib.asynccontextmanager
async def joined(link: Link, server: Postgres, latency: Histogram, tap: PostgresCancelKeyTap) -> Any:
    """Open a session, and wait for its login; yield the session and its relay."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        opening = asyncio.ensure_future(asyncio.to_thread(connect, server, listener.getsockname()[1]))
        client, _ = await asyncio.get_running_loop().sock_accept(listener)
        tune(client)
        relay: Any = await link.join(client, HostPort("127.0.0.1", server.port), latency, tap=tap)
        session = await opening
    try:
        yield session, relay
    finally:
        await asyncio.to_thread(session.close)
        await relay.ended


@pytest.mark.parametrize("path", PATHS)
async def test_the_tap_is_dropped_after_the_login(
    shared_bastion: Bastion, servers: tuple[Postgres, Postgres], path: str
) -> None:
    server, latency, login = servers[0], Histogram(), PostgresCancelKeyTap()
    link: Link
    async with reached(path, shared_bastion) as link, asyncio.timeout(40):
        async with joined(link, server, latency, login) as (session, relay):
            assert login.finished
            assert not login.key_hidden
            assert relay._tap is None
            asked = b"\0\0\0\x10" + CANCEL + session.info.backend_pid.to_bytes(4, "big")
            assert login._key is not None
            assert login.matches(CancelRequest(asked + login._key[4:]))
            before = latency.count
            for _ in range(4):
                await asyncio.to_thread(session.execute, "SELECT 1")
            while latency.count <= before:  # the data plane reports latencies with a short delay
                await asyncio.sleep(0.02)
        watched = Histogram()
        async with joined(link, server, watched, Endless()) as (session, relay):
            assert relay._tap is not None
            while watched.count == 0:  # the relay measures response times even while it has a tap
                await asyncio.sleep(0.02)
