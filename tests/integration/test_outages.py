"""Tests whether outages, failovers and reloads delay only the affected clients, and only for seconds."""

import contextlib
import itertools
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pymysql
import pytest

from gateway.demo import mariadb
from gateway.demo.mariadb import MariaDB
from gateway.demo.server_process import free_port
from gateway.demo.sshd import Bastion, make_key
from tests.soak import abort_budget, chaos, chaos_site
from tests.support.clients import connect, echo, is_refused, is_reset, mysql, query_mysql
from tests.support.configs import CHECK, database_check, ssh_tunnel
from tests.support.files import scratch
from tests.support.gateway_process import Gateway
from tests.support.lateness import Lateness
from tests.support.requirements import need
from tests.support.servers import dripping, echoing, resetting, serving, silent, talking

pytestmark = pytest.mark.integration

QUICK = "interval: 1s, fast_interval: 200ms, down_interval: 300ms, timeout: 1s"


@pytest.fixture(scope="module")
def pair(server_folder: Path) -> Iterator[tuple[MariaDB, MariaDB]]:
    """Two databases with the same users. Each test calls `promote` to make one database read-only."""
    need(mariadb.available(), "mariadbd (package mariadb-server)")
    one = MariaDB(server_folder / "one").start()
    two = MariaDB(server_folder / "two")
    two.password, two.check_password = one.password, one.check_password
    two.start()
    yield one, two
    one.stop()
    two.stop()


def promote(primary: MariaDB, other: MariaDB) -> None:
    other.execute("SET GLOBAL read_only = 1")
    primary.execute("SET GLOBAL read_only = 0")


def two_targets(gateway: Gateway, pair: tuple[MariaDB, MariaDB], prefer: str, check: str = QUICK) -> int:
    one, two = pair
    listen = free_port()
    gateway.write(f"""
        backends:
          orders:
            kind: mysql
            targets: ["127.0.0.1:{one.port}", "127.0.0.1:{two.port}"]
            prefer: {prefer}
            listen: 127.0.0.1:{listen}
            check: {database_check(one, gateway.folder, check)}
    """)
    return listen


def server_port(connection: "pymysql.connections.Connection[Any]") -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT @@port")
        row = cursor.fetchone()
    assert isinstance(row, tuple)
    return int(row[0])


def test_a_frozen_connection_delays_its_clients_for_seconds(gateway: Gateway, bastion: Bastion) -> None:
    with serving(echoing) as port:
        listen = free_port()
        gateway.write(f"""
            tunnels:
              bastion: {ssh_tunnel(bastion)}
            backends:
              a: {{kind: tcp, via: bastion, targets: ["127.0.0.1:{port}"], listen: 127.0.0.1:{listen}, {CHECK}}}
        """)
        gateway.start().wait_up("a")
        with connect(listen) as held:
            assert echo(held) == b"hello"
            bastion.kill_sessions(signal.SIGSTOP)
            try:
                started = time.monotonic()
                with connect(listen) as fresh:
                    assert echo(fresh) == b"hello"
                assert time.monotonic() - started < 15
                held.settimeout(40)
                assert is_reset(held)
                # A new SSH connection responds, so the gateway does not wait for `keepalive.lost` (60 s).
                assert time.monotonic() - started < 40
            finally:
                bastion.kill_sessions(signal.SIGCONT)
        gateway.wait_up("a")
        assert gateway.tunnel("bastion")["connects"] == 1  # the tunnel did not reconnect


def test_a_silent_tunnel_is_suspect_and_its_backends_are_blocked_until_it_replies(
    gateway: Gateway, bastion: Bastion
) -> None:
    with serving(echoing) as port:
        listen = free_port()
        keepalive = ", keepalive: {interval: 200ms, suspect: 1s, replace: 1500ms}"
        gateway.write(f"""
            tunnels:
              bastion: {ssh_tunnel(bastion, more=keepalive)}
            backends:
              a: {{kind: tcp, via: bastion, targets: ["127.0.0.1:{port}"], listen: 127.0.0.1:{listen}, {CHECK}}}
        """)
        gateway.start().wait_up("a")
        with connect(listen) as held:
            assert echo(held) == b"hello"
            bastion.freeze()
            try:
                gateway.wait_state("a", "blocked", "tunnel", timeout=10)
                assert gateway.tunnel("bastion")["state"] == "suspect"
                assert 'gateway_tunnel_up{tunnel="bastion"} 0.0' in gateway.http.get("/metrics")[1]
                explained = gateway.command("explain", "a").stdout
                assert re.search(
                    "^root cause: bastion suspect since .*: no response in time", explained, re.MULTILINE
                )
                time.sleep(3)
            finally:
                bastion.thaw()
            gateway.wait_up("a", timeout=10)
            assert echo(held) == b"hello"  # the client is still connected
        assert gateway.tunnel("bastion")["connects"] == 1


def test_a_silent_connection_does_not_send_clients_to_the_wrong_target(gateway: Gateway, bastion: Bastion) -> None:
    with serving(talking(b"one")) as one, serving(talking(b"two")) as two:
        listen = free_port()
        gateway.write(f"""
            tunnels:
              bastion: {ssh_tunnel(bastion)}
            backends:
              a:
                kind: tcp
                via: bastion
                targets: ["127.0.0.1:{one}", "127.0.0.1:{two}"]
                prefer: order
                listen: 127.0.0.1:{listen}
                check: {{interval: 60s, timeout: 10s}}
        """)
        gateway.start().wait_up("a")

        def replies() -> set[bytes]:
            """Return what clients receive while one of two connections is frozen."""
            gateway.wait(lambda: gateway.tunnel("bastion")["connections"] == 2)
            frozen = bastion.sessions()[0]
            bastion.kill_session(frozen, signal.SIGSTOP)
            try:
                return {_first_data(listen) for _ in range(12)}
            finally:
                bastion.kill_session(frozen, signal.SIGCONT)

        # On a busy machine, a client of one round can need more than the two seconds after which the gateway tries
        # the next target.
        assert any(replies() == {b"one"} for _ in range(3))


def _first_data(listen: int) -> bytes:
    with connect(listen) as client:
        client.settimeout(12)
        return client.recv(10)


def test_a_reconnect_command_does_not_disable_the_backoff(gateway: Gateway, bastion: Bastion) -> None:
    gateway.write(f"""
        tunnels:
          bastion: {ssh_tunnel(bastion)}
        backends:
          a: {{kind: tcp, via: bastion, targets: ["127.0.0.1:1"], {CHECK}}}
    """)
    gateway.start().wait(lambda: gateway.tunnel("bastion")["state"] == "up")
    bastion.crash()
    gateway.wait(lambda: gateway.tunnel("bastion")["state"] == "backoff")
    assert gateway.client.post("/-/tunnels/bastion/reconnect")[0] == 200
    before = gateway.tunnel("bastion")["failures"].get("refused", 0)
    time.sleep(2)
    assert gateway.tunnel("bastion")["failures"]["refused"] - before < 10
    bastion.start()


def test_a_killed_gateway_resets_its_clients(gateway: Gateway) -> None:
    """When the gateway is killed, the kernel closes its sockets; the clients must see a reset."""
    with serving(echoing) as port:
        listen = free_port()
        gateway.write(f"""
            backends:
              a: {{kind: tcp, targets: ["127.0.0.1:{port}"], listen: 127.0.0.1:{listen}, {CHECK}}}
        """)
        gateway.start().wait_up("a")
        with connect(listen) as client:
            assert echo(client) == b"hello"
            os.kill(gateway.pid, signal.SIGKILL)
            with pytest.raises(ConnectionResetError):
                client.recv(1)


def test_clients_follow_the_primary_role_and_leave_the_old_one_gradually(
    gateway: Gateway, pair: tuple[MariaDB, MariaDB]
) -> None:
    one, two = pair
    promote(one, two)
    listen = two_targets(gateway, pair, "primary", QUICK.replace("timeout: 1s", "timeout: 5s"))
    gateway.start().wait_up("orders")
    held = [mysql(one, listen) for _ in range(20)]
    assert {server_port(connection) for connection in held} == {one.port}
    promote(two, one)
    started = time.monotonic()
    with contextlib.suppress(pymysql.err.OperationalError):
        mysql(one, listen).close()

    def moved() -> bool:
        with contextlib.suppress(pymysql.err.OperationalError), mysql(one, listen) as fresh:
            return server_port(fresh) == two.port
        return False

    gateway.wait(moved, timeout=30)
    gone: list[float] = []
    while len(gone) < len(held) and time.monotonic() - started < 60:
        resets = gateway.backend("orders")["connections"]["reset"].get("moved", 0)
        gone += [time.monotonic() - started] * (resets - len(gone))
        time.sleep(0.05)
    assert len(gone) == 20
    assert gone[-1] > 8
    assert gone[-1] - gone[len(gone) // 2] > 3  # the gateway closes two clients per second
    for connection in held:
        with pytest.raises(pymysql.err.OperationalError):
            server_port(connection)
    # A new client reaches the database that accepts writes.
    with mysql(one, listen) as fresh, fresh.cursor() as cursor:
        cursor.execute("INSERT INTO orders (item) VALUES ('moved')")


def test_clients_are_not_sent_to_a_read_only_server_without_a_primary(
    gateway: Gateway, pair: tuple[MariaDB, MariaDB]
) -> None:
    one, two = pair
    promote(one, two)
    listen = two_targets(gateway, pair, "primary")
    gateway.start().wait_up("orders")
    one.execute("SET GLOBAL read_only = 1")
    gateway.wait_state("orders", "down", "role")
    started = gateway.backend("orders")["connections"]["total"]
    with pytest.raises(pymysql.err.OperationalError), mysql(one, listen):
        pass
    connections = gateway.backend("orders")["connections"]
    assert connections["total"] == started + 1
    assert connections["rejected"] == {"role": 1}
    one.execute("SET GLOBAL read_only = 0")
    gateway.wait_up("orders")
    assert query_mysql(one, listen) >= 3


def test_ordered_targets_fail_over_immediately_and_fail_back_without_resets(
    gateway: Gateway, pair: tuple[MariaDB, MariaDB]
) -> None:
    one, two = pair
    promote(one, two)
    two.execute("SET GLOBAL read_only = 0")
    listen = two_targets(gateway, pair, "order")
    gateway.start().wait(lambda: all(each["state"] == "up" for each in gateway.backend("orders")["targets"]))
    assert server_port(mysql(one, listen)) == one.port
    one.stop(signal.SIGKILL)
    started = time.monotonic()
    try:
        on_two = mysql(one, listen)
        assert server_port(on_two) == two.port
        assert time.monotonic() - started < 15
    finally:
        one.start()
    gateway.wait(lambda: gateway.backend("orders")["targets"][0]["state"] == "up")
    assert server_port(mysql(one, listen)) == one.port
    assert server_port(on_two) == two.port
    # A frozen database accepts connections but sends nothing; new clients wait only briefly for this database.
    one.send(signal.SIGSTOP)
    try:
        gateway.wait(lambda: gateway.backend("orders")["targets"][0]["state"] == "down", timeout=8)
        assert server_port(mysql(one, listen)) == two.port
    finally:
        one.send(signal.SIGCONT)


def test_a_target_that_drops_packets_delays_a_client_by_two_seconds(gateway: Gateway) -> None:
    with serving(echoing) as port, socket.socket() as full:
        # The accept queue is full, so the kernel ignores further connection attempts.
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for each in fillers:
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        listen = free_port()
        gateway.write(f"""
            backends:
              a:
                kind: tcp
                targets: ["127.0.0.1:{full.getsockname()[1]}", "127.0.0.1:{port}"]
                listen: 127.0.0.1:{listen}
                check: {{interval: 60s, timeout: 20s}}
        """)
        gateway.start()
        started = time.monotonic()
        with Lateness() as machine, connect(listen) as client:
            assert echo(client) == b"hello"
        assert time.monotonic() - started < 4 + 2 * machine.sum
        for each in fillers:
            each.close()


def test_ten_failed_targets_of_a_hundred_delay_no_client(gateway: Gateway, bastion: Bastion) -> None:
    with contextlib.ExitStack() as stack:
        good = stack.enter_context(serving(echoing))
        rude = [
            stack.enter_context(serving(behavior))
            for behavior in (
                silent,
                resetting,
                dripping(b"x"),
                talking(b"\0" * 100),
                talking(b"HTTP/1.0 400\r\n\r\n"),
            )
        ]
        kinds = itertools.cycle(["mysql", "postgres", "nfs"])
        secret = gateway.folder / "secret"
        secret.write_text("x")
        check = {
            "mysql": f"check: {{user: u, password_file: {secret}, interval: 1s, timeout: 1s}}",
            "postgres": f"check: {{user: u, password_file: {secret}, interval: 1s, timeout: 1s}}",
            "nfs": "export: /x, check: {interval: 1s, timeout: 1s}",
        }
        dead_tunnel = ssh_tunnel(bastion).replace(f"port: {bastion.port}", f"port: {rude[0]}")
        backends = [f'bad-dns: {{kind: tcp, targets: ["nowhere.invalid:1"], {CHECK}}}']
        backends += [f'bad-refused: {{kind: tcp, via: bastion, targets: ["127.0.0.1:{free_port()}"], {CHECK}}}']
        backends += [f'bad-tunnel: {{kind: tcp, via: dead, targets: ["127.0.0.1:{good}"], {CHECK}}}']
        backends += [f'bad-gone: {{kind: tcp, via: gone, targets: ["127.0.0.1:{good}"], {CHECK}}}']
        for port, kind in zip([*rude, rude[0]], kinds, strict=False):
            backends.append(f'bad-{len(backends)}: {{kind: {kind}, targets: ["127.0.0.1:{port}"], {check[kind]}}}')
        bad = len(backends)
        assert bad == 10
        listens = [free_port() for _ in range(90)]
        for at, listen in enumerate(listens):
            via = "via: bastion, " if at % 2 else ""
            backends.append(
                f'good-{at}: {{kind: tcp, {via}targets: ["127.0.0.1:{good}"], listen: 127.0.0.1:{listen}, {CHECK}}}'
            )
        gateway.write(
            "tunnels:\n"
            f"  bastion: {ssh_tunnel(bastion)}\n"
            f"  dead: {dead_tunnel}\n"
            f"  gone: {dead_tunnel.replace(str(rude[0]), str(free_port()))}\n"
            "backends:\n" + "".join(f"  {backend}\n" for backend in backends)
        )
        names = [f"good-{at}" for at in range(90)]

        def all_good() -> bool:
            seen = gateway.status()["backends"]
            return all(seen[name]["state"] == "up" for name in names)

        gateway.start()
        with Lateness() as machine:
            came = gateway.wait(all_good)
        assert came < 9 + machine.sum
        took = []
        for listen in listens:
            started = time.monotonic()
            with connect(listen) as client:
                assert echo(client) == b"hello"
            took.append(time.monotonic() - started)
        took.sort()
        assert took[-4] < 0.5, took  # failed targets must not delay clients of other targets
        assert took[-1] < 3, took
        time.sleep(2)
        seen = gateway.status()["backends"]
        assert all(seen[name]["state"] == "up" for name in names)
        assert not any(each["state"] == "up" for name, each in seen.items() if name.startswith("bad"))


def test_slow_readers_use_no_more_memory_than_calculated(gateway: Gateway, bastion: Bastion) -> None:
    """The gateway buffers up to 2 MiB for each slow reader, plus socket buffers; see gateway/ssh/flow_control.py."""

    def flood(client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client.sendall(bytes(1 << 20))

    readers = 40
    with serving(flood) as port:
        listen = free_port()
        gateway.write(f"""
            tunnels:
              bastion: {ssh_tunnel(bastion)}
            backends:
              a: {{kind: tcp, via: bastion, targets: ["127.0.0.1:{port}"], listen: 127.0.0.1:{listen}, {CHECK}}}
        """)
        gateway.start().wait_up("a")
        before = resident(gateway.pid)
        clients = [connect(listen) for _ in range(readers)]
        time.sleep(4)
        grown = resident(gateway.pid) - before
        # The heap can be fragmented: on a busy machine, it has used up to half as much memory again as the buffers.
        assert grown < readers * (3 << 20) + (40 << 20)
        for client in clients:
            client.close()


def resident(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def test_aborted_clients_are_counted_and_a_login_resets_the_count(gateway: Gateway, shared_mariadb: MariaDB) -> None:
    listen, other = free_port(), free_port()
    target = f'targets: ["127.0.0.1:{shared_mariadb.port}"]'
    gateway.write(f"""
        backends:
          checked: {{kind: mysql, {target}, listen: 127.0.0.1:{listen},
                     check: {database_check(shared_mariadb, gateway.folder, "interval: 60s, fast_interval: 60s")}}}
    """)
    gateway.start().wait_up("checked")

    def break_off(port: int, times: int) -> None:
        for _ in range(times):
            with connect(port) as client:
                assert client.recv(100)  # the server's greeting

    def broken(name: str) -> int:
        return int(gateway.backend(name)["targets"][0]["broken_handshakes"])

    break_off(listen, 20)
    gateway.wait(lambda: broken("checked") == 20)
    break_off(listen, 40)
    gateway.wait(lambda: broken("checked") < 20)  # when half of the handshake budget is used, a check logs in early
    assert query_mysql(shared_mariadb, listen) >= 3

    # A client that sends an invalid response does not log in, so the server's count of aborted handshakes remains.
    for _ in range(30):
        with connect(listen) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            client.recv(1000)
    gateway.wait(lambda: broken("checked") >= 30)

    # If checks do not log in, and the handshake budget is almost used up, the gateway admits at most one client per
    # 10 s.
    gateway.stop()
    gateway.write(f"backends:\n  bare: {{kind: mysql, {target}, listen: 127.0.0.1:{other}, hold: 200ms}}\n")
    gateway.start()
    break_off(other, 90)
    gateway.wait(lambda: broken("bare") == 90)
    time.sleep(1.1)  # a login does not reset the count of handshakes that were aborted in the last second
    assert query_mysql(shared_mariadb, other) >= 3  # the login of a client also resets the server's count
    gateway.wait(lambda: broken("bare") == 0)
    break_off(other, 90)
    gateway.wait(lambda: broken("bare") == 90)
    with pytest.raises(pymysql.err.OperationalError):
        query_mysql(shared_mariadb, other)
    assert gateway.backend("bare")["connections"]["rejected"] == {"host_blocked": 1}


def test_dials_that_a_frozen_connection_completes_later_are_counted(
    gateway: Gateway, shared_mariadb: MariaDB, bastion: Bastion
) -> None:
    """A frozen SSH connection completes its dials later, and MySQL counts these dials as aborted handshakes.

    Meanwhile, the gateway has connected the clients through another SSH connection.
    """
    listen = free_port()
    check = database_check(shared_mariadb, gateway.folder, "interval: 600s, fast_interval: 600s, timeout: 3s")
    gateway.write(f"""
        tunnels:
          bastion: {ssh_tunnel(bastion, more=", keepalive: {suspect: 40s}")}
        backends:
          orders: {{kind: mysql, via: bastion, targets: ["127.0.0.1:{shared_mariadb.port}"],
                    listen: 127.0.0.1:{listen}, check: {check}}}
    """)
    gateway.start().wait_up("orders")
    gateway.wait(lambda: gateway.tunnel("bastion")["connections"] == 2)
    before = aborted(shared_mariadb)
    frozen = bastion.sessions()[0]
    bastion.kill_session(frozen, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(20) as clients:
            answers = list(clients.map(lambda _: query_mysql(shared_mariadb, listen), range(20)))
        assert min(answers) >= 3
    finally:
        bastion.kill_session(frozen, signal.SIGCONT)

    def target(what: str) -> int:
        return int(gateway.backend("orders")["targets"][0][what])

    of_clients, checks = target("broken_handshakes"), target("attempts")
    # The gateway counts unfinished dials as load. If the clients arrive slowly, it therefore starts few dials on the
    # frozen connection.
    assert of_clients >= 1
    bastion.freeze()
    try:
        gateway.command("resume", "orders")
        gateway.wait(lambda: target("attempts") > checks)  # wait until the probe has timed out
        counted = target("broken_handshakes")
    finally:
        bastion.thaw()
    gateway.wait(lambda: not gateway.tunnel("bastion")["channels"])  # wait until the delayed dials have completed
    assert counted > of_clients
    gateway.wait(lambda: aborted(shared_mariadb) - before >= counted)
    assert query_mysql(shared_mariadb, listen) >= 3
    assert aborted(shared_mariadb) - before == counted


def aborted(server: MariaDB) -> int:
    """Return the number of connections without a login since the start of the server (Aborted_connects)."""
    with mysql(server, server.port) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW GLOBAL STATUS LIKE 'Aborted_connects'")
        row = cursor.fetchone()
    assert row is not None
    return int(row[1])


def test_a_command_releases_held_clients(gateway: Gateway, bastion: Bastion) -> None:
    with serving(echoing) as port:
        listen = free_port()
        backend = f'kind: tcp, via: bastion, targets: ["127.0.0.1:{port}"], listen: 127.0.0.1:{listen}, {CHECK}'
        gateway.write(f"""
            tunnels:
              bastion: {ssh_tunnel(bastion)}
            backends:
              a: {{{backend}, hold: 60s}}
        """)
        gateway.start().wait_up("a")
        bastion.crash()
        gateway.wait_state("a", "blocked", "tunnel")
        with connect(listen) as held:
            gateway.wait(lambda: gateway.backend("a")["connections"]["active"] == 1)
            done = gateway.command("fail", "a")
            assert (done.returncode, "are reset while the backend is down" in done.stdout) == (0, True)
            held.settimeout(10)
            assert is_reset(held)
        assert is_refused(listen)
        assert gateway.backend("a")["holds_clients"] is False
        assert "clients do not wait (gateway fail a --undo)" in gateway.command("status").stdout
        assert gateway.command("fail", "a", "--undo").returncode == 0
        with connect(listen) as held:
            bastion.start()
            assert echo(held) == b"hello"


def test_probes_never_exhaust_max_connect_errors(server_folder: Path) -> None:
    need(mariadb.available() and os.geteuid() == 0, "root, and mariadbd (package mariadb-server)")
    outcomes = abort_budget.probe(600, server_folder / "abort-budget")
    assert sum(outcomes.values()) >= 600
    assert outcomes["good: up"] >= abort_budget.MIN_UP
    assert outcomes["hasty: timeout"] >= 5
    assert not [outcome for outcome in outcomes if outcome.endswith("host_blocked")]


def test_the_configuration_file_is_reloaded_when_it_changes(gateway: Gateway) -> None:
    with serving(echoing) as port:
        one, two = free_port(), free_port()
        body = f'backends:\n  a: {{kind: tcp, targets: ["127.0.0.1:{port}"], listen: 127.0.0.1:%s, {CHECK}}}\n'
        gateway.write(body % one)
        gateway.start().wait_up("a")
        gateway.write("backends: {a: {kind: tpc}}\n")
        gateway.wait(lambda: not gateway.status()["reload"]["successful"], timeout=15)
        with connect(one) as client:
            assert echo(client) == b"hello"
        gateway.write(body % two)
        gateway.wait(lambda: bool(gateway.status()["reload"]["successful"]), timeout=15)
        with connect(two) as client:
            assert echo(client) == b"hello"


def test_a_rotated_key_is_used_without_resetting_clients(gateway: Gateway, bastion: Bastion) -> None:
    with serving(echoing) as port:
        listen = free_port()
        gateway.write(f"""
            tunnels:
              bastion: {ssh_tunnel(bastion)}
            backends:
              a: {{kind: tcp, via: bastion, targets: ["127.0.0.1:{port}"], listen: 127.0.0.1:{listen}, {CHECK}}}
        """)
        gateway.start().wait_up("a")
        with connect(listen) as held:
            assert echo(held) == b"hello"
            before = set(bastion.sessions())
            make_key(bastion.client_key)
            bastion.authorize()
            gateway.wait(lambda: len(set(bastion.sessions()) - before) >= 2, timeout=15)
            assert echo(held) == b"hello"
            with connect(listen) as fresh:
                assert echo(fresh) == b"hello"
        gateway.wait(lambda: not before & set(bastion.sessions()))
        assert gateway.tunnel("bastion")["connects"] == 1


def test_a_reload_of_another_backend_drops_none_of_a_thousand_connections(
    gateway: Gateway, shared_bastion: Bastion
) -> None:
    with serving(echoing) as port:
        kept, changed = free_port(), free_port()
        body = f"""
            tunnels:
              bastion: {ssh_tunnel(shared_bastion)}
              other: {ssh_tunnel(shared_bastion, more="%s")}
            backends:
              kept: {{kind: tcp, via: bastion, targets: ["127.0.0.1:{port}"], listen: 127.0.0.1:{kept}, hold: 60s,
                      {CHECK}}}
              changed: {{kind: tcp, via: other, targets: ["127.0.0.1:{port}"], listen: 127.0.0.1:{changed}, {CHECK}}}
        """
        gateway.write(body % "")
        gateway.start("--reload-on-change", "false").wait_up("kept", "changed")
        clients = [connect(kept) for _ in range(1000)]
        for client in clients:
            assert echo(client) == b"hello"
        for seconds in (5, 6, 7):
            gateway.write(body % f", dial_timeout: {seconds}s")
            assert "tunnels opened: other" in gateway.command("reload").stdout
        for client in clients:
            assert echo(client) == b"hello"
            client.close()
        assert gateway.backend("kept")["connections"]["reset"] == {}


def test_a_removed_tunnel_is_draining_while_it_has_clients(gateway: Gateway, shared_bastion: Bastion) -> None:
    with serving(echoing) as port:
        listen = free_port()
        backend = f'kind: tcp, targets: ["127.0.0.1:{port}"], listen: 127.0.0.1:{listen}, {CHECK}'
        gateway.write(
            f"tunnels:\n  bastion: {ssh_tunnel(shared_bastion)}\nbackends:\n  a: {{{backend}, via: bastion}}\n",
            shutdown="{delay: 0s, drain: 20s}",
        )
        gateway.start().wait_up("a")
        with connect(listen) as held:
            assert echo(held) == b"hello"
            gateway.write(f"backends:\n  a: {{{backend}}}\n", shutdown="{delay: 0s, drain: 20s}")
            assert gateway.command("reload").returncode == 0
            assert gateway.tunnel("bastion")["state"] == "draining"
            assert echo(held) == b"hello"
        gateway.wait(lambda: "bastion" not in gateway.status()["tunnels"])


@pytest.mark.timeout(300)
def test_a_minute_of_chaos(capsys: pytest.CaptureFixture[str]) -> None:
    lacking = chaos_site.missing()
    need(lacking is None, str(lacking))
    options = chaos.arguments(["--seconds", "40", "--seed", "2026", "--slack", "1"])
    with scratch() as folder:
        code = chaos.chaos(options, folder)
    reported = capsys.readouterr().out
    assert code == 0, reported
    assert threading.active_count() < 50
