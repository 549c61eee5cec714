"""Tests whether aborted logins over several paths make a MariaDB server block the gateway's addresses."""

import contextlib
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pymysql
import pytest
from pymysql.constants import CLIENT

from gateway._dataplane import is_built
from gateway.demo import mariadb
from gateway.demo.mariadb import MariaDB
from gateway.demo.server_process import find, free_port
from gateway.demo.sshd import Bastion
from tests.soak.abort_budget import assigned, counting_server
from tests.support.clients import connect, query_mysql
from tests.support.configs import database_check, ssh_tunnel
from tests.support.gateway_process import Gateway
from tests.support.listening_sockets import engine_accepts
from tests.support.mysql_end import MysqlEnd
from tests.support.requirements import need

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

SERVER, ONE, OTHER, CONTROL = (f"192.0.2.{number}" for number in range(81, 85))
"""Addresses for documentation (RFC 5737). Loopback addresses are not suitable, because MySQL does not count aborted
logins from them."""
LIMIT = 20
AUTH_SWITCH, ERROR = 0xFE, 0xFF
"""The first bytes of an AuthSwitchRequest and of an ERR_Packet (MySQL's client/server protocol)."""
ABORTS = 30
"""Number of clients that abort their login over each path. At `LIMIT`, the server blocks the address."""


@pytest.fixture(scope="module")
def started(server_folder: Path) -> Iterator[MariaDB]:
    need(mariadb.available() and os.geteuid() == 0, "root, and mariadbd (package mariadb-server)")
    need(find("socat") is not None, "socat (package socat)")
    with assigned(SERVER, ONE, OTHER, CONTROL):
        server = counting_server(server_folder / "counting", LIMIT).start()
        yield server
        server.stop()


@pytest.fixture
def server(started: MariaDB) -> MariaDB:
    """Reset the MariaDB server's counts of aborted logins, and return the server."""
    started.execute("FLUSH HOSTS")
    return started


def tunnels(a: str, b: str) -> str:
    """Return the configuration of two tunnels. Their connections have the source addresses `a` and `b`."""
    return "\n".join(
        f"          {name}: {{kind: command, mode: stdio,"
        f' command: [socat, -t, 3600, STDIO, "TCP:{{host}}:{{port}},bind={source}"]}}'
        for name, source in (("a", a), ("b", b))
    )


def log_in_from(server: MariaDB, source: str) -> None:
    """Log in to the server from the address `source`, without the gateway."""
    pymysql.connect(
        host=SERVER, port=server.port, user=server.user, password=server.password, bind_address=source,
        connect_timeout=20, ssl_disabled=True,
    ).close()  # fmt: skip


def test_the_server_blocks_an_address_after_too_many_aborted_logins(server: MariaDB) -> None:
    """Check that the server blocks addresses. Otherwise, the other tests could pass despite an error."""
    with pytest.raises(pymysql.err.OperationalError) as raised:
        for _ in range(2 * LIMIT):
            with socket.create_connection((SERVER, server.port), 20, (CONTROL, 0)) as client:
                client.recv(100)
        log_in_from(server, CONTROL)
    assert raised.value.args[0] == pymysql.constants.ER.HOST_IS_BLOCKED


@pytest.mark.parametrize("b", [OTHER, ONE], ids=["two addresses", "one address"])
def test_clients_that_abort_over_two_paths_block_no_address(gateway: Gateway, server: MariaDB, b: str) -> None:
    """The check of the backend `other` logs in through tunnel `b` every 300 ms.

    These logins must not reset the gateway's count of aborted logins for tunnel `a`.
    """
    app, batch = free_port(), free_port()
    target = f'targets: ["{SERVER}:{server.port}"]'
    rare = database_check(server, gateway.folder, "interval: 60s, fast_interval: 300ms")
    frequent = database_check(server, gateway.folder, "interval: 300ms")
    gateway.write(f"""
        tunnels:
{tunnels(ONE, b)}
        backends:
          app: {{kind: mysql, via: a, {target}, listen: 127.0.0.1:{app}, check: {rare}}}
          batch: {{kind: mysql, via: [b, a], {target}, listen: 127.0.0.1:{batch}, check: {rare}}}
          other: {{kind: mysql, via: b, {target}, check: {frequent}}}
    """)
    gateway.start().wait_up("app", "batch", "other")

    def abort(listen: int) -> None:
        for _ in range(ABORTS):
            with connect(listen) as client:
                assert client.recv(100)  # the server's greeting
            time.sleep(0.07)

    with ThreadPoolExecutor(2) as clients:
        list(clients.map(abort, (app, batch)))
    for listen in (app, batch):
        assert query_mysql(server, listen) >= 3
    assert gateway.state("app") == gateway.state("batch") == ("up", None)


@pytest.mark.parametrize("via", ["ssh", "direct"])
def test_clients_that_abort_at_the_same_time_do_not_block_the_gateway(
    gateway: Gateway, bastion: Bastion, server: MariaDB, via: str
) -> None:
    """The native engine accepts some of these clients, and Python code accepts the others.

    Both kinds of clients use the same handshake budget.
    """
    listen = free_port()
    check = database_check(server, gateway.folder, "interval: 60s, fast_interval: 300ms")
    gateway.write(f"""
        tunnels:
          t: {ssh_tunnel(bastion)}
        backends:
          app:
            kind: mysql
            {"via: t" if via == "ssh" else ""}
            targets: ["{SERVER}:{server.port}"]
            listen: 127.0.0.1:{listen}
            hold: 60s
            check: {check}
    """)
    gateway.start().wait_up("app")
    accepted = 0

    def accepts() -> bool:
        nonlocal accepted
        accepted += 1
        assert query_mysql(server, listen) >= 3
        return engine_accepts(gateway.pid, listen)

    if is_built():
        gateway.wait(accepts)
    for _ in range(2 * LIMIT):  # successful logins do not reduce the handshake budget
        assert query_mysql(server, listen) >= 3
    assert not is_built() or engine_accepts(gateway.pid, listen)
    together = threading.Barrier(3 * LIMIT)

    def abort(_: int) -> None:
        together.wait(20)
        with connect(listen) as client:
            client.settimeout(90)
            assert client.recv(100)  # the server's greeting

    with ThreadPoolExecutor(3 * LIMIT) as clients:
        list(clients.map(abort, range(3 * LIMIT)))
    assert query_mysql(server, listen) >= 3
    assert gateway.state("app") == ("up", None)
    gateway.wait(lambda: gateway.backend("app")["connections"]["total"] >= accepted + 5 * LIMIT + 1)


def test_denied_logins_do_not_hide_aborted_ones(gateway: Gateway, server: MariaDB) -> None:
    """A denied login does not reset the server's count of aborted logins, and must not reset the gateway's count.

    In this test, the server responds twice: it requests another authentication plugin, and then denies the login. The
    gateway must not conclude from two responses that the client has logged in.
    """
    listen = free_port()
    check = database_check(server, gateway.folder, "interval: 60s, fast_interval: 300ms")
    gateway.write(f"""
        backends:
          app: {{kind: mysql, targets: ["{SERVER}:{server.port}"], listen: 127.0.0.1:{listen}, check: {check}}}
    """)
    gateway.start().wait_up("app")
    for _ in range(LIMIT // 4):
        for _ in range(5):
            with connect(listen) as client:
                client.settimeout(30)
                assert client.recv(100)
        # Even after a successful login, the gateway continues to count the logins that were aborted in the last 2 s.
        # Wait longer. Otherwise, the test could not detect that a denied login wrongly resets the count.
        time.sleep(2.2)
        with connect(listen) as client:
            client.settimeout(30)
            end = MysqlEnd(client)
            end.receive()
            assert end.ask(_login_with_another_plugin(server.user))[0] == AUTH_SWITCH
            assert end.ask(bytes(20))[0] == ERROR  # these 20 bytes are a wrong password hash
    assert query_mysql(server, listen) >= 3
    assert gateway.state("app") == ("up", None)


def _login_with_another_plugin(user: str) -> bytes:
    """Return a HandshakeResponse41 with an authentication plugin that the server does not have."""
    capabilities = CLIENT.LONG_PASSWORD | CLIENT.PROTOCOL_41 | CLIENT.SECURE_CONNECTION | CLIENT.PLUGIN_AUTH
    fixed = struct.pack("<IIB23x", capabilities, 1 << 24, 45)
    return fixed + user.encode() + b"\0\0" + b"no_such_plugin\0"


def test_the_checks_of_all_backends_together_do_not_block_an_address(gateway: Gateway, server: MariaDB) -> None:
    """The server process is stopped while the checks of five backends try to log in.

    The checks use two tunnels, but all their connections have the same source address.
    """
    target = f'targets: ["{SERVER}:{server.port}"]'
    check = database_check(server, gateway.folder, "interval: 200ms, fast_interval: 200ms, timeout: 3s")
    names = [f"shop-{number}" for number in range(5)]
    backends = "\n".join(
        f"          {name}: {{kind: mysql, via: [a, b], {target}, check: {check}}}" for name in names
    )
    gateway.write(f"""
        tunnels:
{tunnels(ONE, ONE)}
        backends:
{backends}
    """)
    gateway.start().wait_up(*names)
    server.send(signal.SIGSTOP)
    try:
        gateway.wait(lambda: all("max_connect_errors" in (detail(gateway, name) or "") for name in names))
    finally:
        server.send(signal.SIGCONT)
    gateway.stop()
    with contextlib.closing(socket.create_connection((SERVER, server.port), 20, (CONTROL, 0))):
        pass
    log_in_from(server, ONE)


def detail(gateway: Gateway, name: str) -> str | None:
    found: str | None = gateway.backend(name)["targets"][0]["detail"]
    return found
