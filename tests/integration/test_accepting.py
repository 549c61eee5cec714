"""Tests backends whose clients the native engine accepts: counters, limits, reloads, failed targets and tunnels."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from gateway.contracts.config_types import HostPort
from gateway.demo.postgres import Postgres
from gateway.demo.server_process import free_port
from gateway.demo.sshd import Bastion, make_key
from gateway.forwarding.admission import AdmissionRules
from gateway.forwarding.backend_route import BackendRoute
from gateway.forwarding.forward import Forward
from gateway.forwarding.listener import Listener
from gateway.forwarding.target_path import TargetIdentity
from gateway.metric_types import Histogram
from gateway.ssh.options import PoolOptions
from gateway.ssh.pool_policy import CHANNELS_PER_CONNECTION
from tests.support.audit_lines import lines
from tests.support.clients import connect, echo, is_refused, is_reset, postgres, query_postgres
from tests.support.configs import CHECK, database_check, ssh_tunnel
from tests.support.gateway_process import Gateway
from tests.support.listening_sockets import engine_accepts
from tests.support.requirements import need_data_plane
from tests.support.servers import echoing, serving
from tests.support.ssh_sessions import opened, options

pytestmark = pytest.mark.integration


def start_accepting(gateway: Gateway, port: int) -> int:
    """Connect clients, one after another, until the native engine listens on `port`; return the number of clients."""
    count = 0

    def accepts() -> bool:
        nonlocal count
        count += 1
        with connect(port) as client:
            assert echo(client) == b"hello"
        return engine_accepts(gateway.pid, port)

    gateway.wait(accepts)
    return count


def use(gateway: Gateway, name: str, port: int, first: int) -> None:
    """Connect `first` clients, one after another. Then test refused, half-closed and reset connections.

    The backend must refuse addresses outside 127.0.0.0/30, and more than six clients at the same time.
    """

    def connections() -> dict[str, Any]:
        return dict(gateway.backend(name)["connections"])

    for _ in range(first):
        with connect(port) as client:
            assert echo(client) == b"hello"
    gateway.wait(lambda: connections()["active"] == 0)
    assert is_refused(port, ("127.0.0.4", 0))
    with connect(port) as ending:
        ending.sendall(b"x" * 60_000)
        ending.shutdown(socket.SHUT_WR)
        got = 0
        while piece := ending.recv(65536):
            got += len(piece)
        assert got == 60_000
    with connect(port) as resetting:
        assert echo(resetting) == b"hello"
        resetting.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    gateway.wait(lambda: connections()["active"] == 0)
    with contextlib.ExitStack() as stack:
        for _ in range(6):
            assert echo(stack.enter_context(connect(port))) == b"hello"
        assert is_refused(port)
        gateway.wait(lambda: connections()["active"] == 6)
    gateway.wait(lambda: connections()["active"] == 0)


def metrics_of(gateway: Gateway, name: str) -> list[str]:
    """Return the metrics about the clients of a backend, except sums and buckets of durations.

    Replace the backend's name by `*`, so that a test can compare two backends.
    """
    lines = gateway.http.get("/metrics")[1].splitlines()
    about = re.compile(rf'gateway_(connections?|bytes|response\w*|resets?\w*)_.*backend="{name}"')
    return [
        line.replace(f'"{name}"', '"*"')
        for line in lines
        if about.match(line) and not re.search("_(sum|bucket)", line)
    ]


def test_counters_limits_and_reloads_are_the_same_as_without_the_engine(
    gateway: Gateway, shared_bastion: Bastion, echo_port: int
) -> None:
    need_data_plane()
    ports = {name: free_port() for name in ("fast", "straight", "plain")}
    vias = {"fast": "via: fast, ", "straight": "", "plain": "via: plain, "}

    def write(allow: str, audit: str = "null") -> None:
        backends = "\n".join(
            f"              {name}: {{kind: tcp, {vias[name]}targets: ['127.0.0.1:{echo_port}'], "
            f"listen: '127.0.0.1:{port}', allow: [{allow}], max_connections: 6, {CHECK}}}"
            for name, port in ports.items()
        )
        gateway.write(f"""
            tunnels:
              fast: {ssh_tunnel(shared_bastion)}
              plain: {ssh_tunnel(shared_bastion, more=", data_plane: asyncssh")}
            backends:
{backends}
            audit: {audit}
        """)

    write("127.0.0.0/30")
    gateway.start().wait_up(*ports)
    first = {name: start_accepting(gateway, ports[name]) for name in ("fast", "straight")}
    most = max(first.values())
    for name, port in ports.items():
        use(gateway, name, port, most - first.get(name, 0))
    fast, straight, plain = (gateway.backend(name)["connections"] for name in ports)
    assert fast == straight == plain
    assert (fast["rejected"], fast["active"]) == ({"not_allowed": 1, "max_connections": 1}, 0)
    assert metrics_of(gateway, "fast") == metrics_of(gateway, "straight") == metrics_of(gateway, "plain")
    assert len(metrics_of(gateway, "fast")) > 5
    start_accepting(gateway, ports["fast"])
    assert not engine_accepts(gateway.pid, ports["plain"])
    record = gateway.folder / "audit.log"
    write("127.0.0.0/30", f"{{log: {record}}}")
    assert gateway.command("reload").returncode == 0
    with connect(ports["fast"]) as client:
        assert echo(client) == b"hello"
    gateway.wait(lambda: len(lines(record, "connection", backend="fast")) == 1)
    assert not engine_accepts(gateway.pid, ports["fast"])
    write("127.0.0.0/30")
    assert gateway.command("reload").returncode == 0
    start_accepting(gateway, ports["fast"])
    write("127.0.0.3")
    assert gateway.command("reload").returncode == 0
    assert is_refused(ports["fast"])
    with connect(ports["fast"], ("127.0.0.3", 0)) as inside:
        assert echo(inside) == b"hello"


def test_failures_are_handled_as_without_the_engine(gateway: Gateway, bastion: Bastion) -> None:
    need_data_plane()
    ports = {"fast": free_port(), "plain": free_port(), "held": free_port()}
    with serving(echoing, free_port()) as server:
        options = f"kind: tcp, targets: ['127.0.0.1:{server}'], {CHECK}"
        gateway.write(f"""
            tunnels:
              fast: {ssh_tunnel(bastion)}
              plain: {ssh_tunnel(bastion, more=", data_plane: asyncssh")}
            backends:
              fast: {{{options}, via: fast, hold: 3s, listen: '127.0.0.1:{ports["fast"]}'}}
              plain: {{{options}, via: plain, hold: 3s, listen: '127.0.0.1:{ports["plain"]}'}}
              held: {{{options}, via: fast, listen: '127.0.0.1:{ports["held"]}'}}
        """)
        gateway.start().wait_up(*ports)
        start_accepting(gateway, ports["held"])
        with connect(ports["held"]) as client:
            assert echo(client) == b"hello"
            bastion.crash()
            assert is_reset(client)
        with connect(ports["held"]) as held:
            gateway.wait(lambda: gateway.backend("held")["connections"]["waiting"] == 1)
            bastion.start()
            assert echo(held) == b"hello"
        gateway.wait_up(*ports)
        with connect(ports["plain"]) as client:
            assert echo(client) == b"hello"
        start_accepting(gateway, ports["fast"])
    with ThreadPoolExecutor(2) as pool:  # the target no longer listens
        assert all(pool.map(lambda name: is_refused(ports[name], within=10), ("fast", "plain")))
    assert not engine_accepts(gateway.pid, ports["fast"])
    fast, plain = (gateway.backend(name)["connections"]["rejected"] for name in ("fast", "plain"))
    # Near the end of `hold`, the last dial can time out before the refusal arrives.
    assert [sum(each.values()) for each in (fast, plain)] == [1, 1]
    assert {*fast, *plain} <= {"refused", "timeout"}


def test_a_query_is_cancelled_over_connections_that_the_engine_accepts(
    gateway: Gateway, shared_bastion: Bastion, shared_postgres: Postgres
) -> None:
    need_data_plane()
    port = free_port()
    gateway.write(f"""
        tunnels:
          bastion: {ssh_tunnel(shared_bastion)}
        backends:
          reports:
            kind: postgres
            via: bastion
            targets: ["127.0.0.1:{shared_postgres.port}"]
            listen: 127.0.0.1:{port}
            check: {database_check(shared_postgres, gateway.folder)}
    """)
    gateway.start().wait_up("reports")

    def accepts() -> bool:
        query_postgres(shared_postgres, port)
        return engine_accepts(gateway.pid, port)

    gateway.wait(accepts)
    with postgres(shared_postgres, port) as session, ThreadPoolExecutor(1) as pool:
        query = pool.submit(session.execute, "SELECT pg_sleep(60)")
        while not query.done():  # the server ignores a cancel request that arrives before the query
            session.cancel()
            time.sleep(0.1)
        with pytest.raises(psycopg.errors.QueryCanceled):
            query.result()


class Uplink:
    """Stands in for an uplink. Its link always stays open."""

    def __init__(self, link: Any) -> None:
        self.tunnel_name: str | None = "bastion"
        self.link: Any = link
        self.channel_open = Histogram()

    async def wait_link(self) -> Any:
        return self.link


def test_clients_without_a_tunnel_use_another_target_or_wait_if_the_target_dies(gateway: Gateway) -> None:
    need_data_plane()
    port, second = free_port(), free_port()
    with serving(echoing, free_port()) as first:
        gateway.write(f"""
            backends:
              db: {{kind: tcp, targets: ['127.0.0.1:{first}', '127.0.0.1:{second}'], prefer: order, {CHECK},
                    listen: '127.0.0.1:{port}'}}
        """)
        gateway.start()
        start_accepting(gateway, port)
    with serving(echoing, second):
        with connect(port) as client:
            assert echo(client) == b"hello"
        start_accepting(gateway, port)
    with connect(port) as held:
        gateway.wait(lambda: gateway.backend("db")["connections"]["waiting"] == 1)
        # The number of waiting clients includes a client that the engine has not returned to Python code yet.
        gateway.wait(lambda: not engine_accepts(gateway.pid, port))
        with serving(echoing, second):
            assert echo(held) == b"hello"
    assert gateway.backend("db")["connections"]["rejected"] == {}


async def test_the_clients_of_a_silent_connection_use_another_one(bastion: Bastion, echo_port: int) -> None:
    need_data_plane()
    loop = asyncio.get_running_loop()
    listener = Listener(HostPort("127.0.0.1", 0))
    address = listener.sockets[0].getsockname()

    async def use_one() -> None:
        with socket.create_connection(address, timeout=15) as client:
            client.setblocking(False)
            await loop.sock_sendall(client, b"hello")
            assert await loop.sock_recv(client, 100) == b"hello"

    async with opened(options(bastion, connections=PoolOptions(2, 2))) as link, asyncio.timeout(40):
        uplink = Uplink(link)
        paths = list(TargetIdentity(HostPort("127.0.0.1", echo_port), (uplink,)).paths())
        route = BackendRoute((uplink,), lambda: paths, lambda _: None, 30.0)
        forward = Forward("b", [listener], AdmissionRules("b"), route)
        serving_clients = asyncio.create_task(forward.run(lambda: None))
        while len(bastion.sessions()) < 2 or not engine_accepts(os.getpid(), address[1]):
            await use_one()
        stopped = bastion.sessions()[0]
        bastion.kill_session(stopped, signal.SIGSTOP)
        # The gateway distributes the two clients over both SSH connections, one of which is stopped.
        await asyncio.gather(use_one(), use_one())
        bastion.kill_session(stopped, signal.SIGCONT)
        assert (forward.waiting, dict(forward.rejected), dict(forward.resets)) == (0, {}, {})
        serving_clients.cancel()
        await asyncio.wait({serving_clients})
    listener.close()


def test_short_connections_survive_a_rotated_key(gateway: Gateway, bastion: Bastion) -> None:
    need_data_plane()
    listen, done = free_port(), threading.Event()

    def use_repeatedly() -> int:
        count = 0
        while not done.is_set():
            with connect(listen) as client:
                assert echo(client) == b"hello"
                time.sleep(0.02)
                assert echo(client) == b"hello"
            count += 1
        return count

    def rotate() -> None:
        before = set(bastion.sessions())
        make_key(bastion.client_key)
        bastion.authorize()
        gateway.wait(lambda: not before & set(bastion.sessions()))

    with serving(echoing) as port, ThreadPoolExecutor(4) as clients:
        gateway.write(f"""
            tunnels:
              bastion: {ssh_tunnel(bastion, more=", connections: {min: 1, max: 1}")}
            backends:
              a: {{kind: tcp, via: bastion, targets: ["127.0.0.1:{port}"], listen: 127.0.0.1:{listen}, {CHECK}}}
        """)
        gateway.start().wait_up("a")
        first = start_accepting(gateway, listen)
        running = [clients.submit(use_repeatedly) for _ in range(4)]
        try:
            rotate()
            rotate()
        finally:
            done.set()
        total = sum(each.result(timeout=30) for each in running)
    gateway.wait(lambda: gateway.backend("a")["connections"]["total"] == first + total)
    assert gateway.backend("a")["connections"]["reset"] == {}


def test_the_pool_grows_for_many_short_connections_at_the_same_time(gateway: Gateway, bastion: Bastion) -> None:
    need_data_plane()
    listen = free_port()

    def burst() -> bool:
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(connect(listen)) for _ in range(CHANNELS_PER_CONNECTION + 6)]
            for client in clients:
                assert echo(client) == b"hello"
        return len(bastion.sessions()) == 2

    with serving(echoing) as port:
        gateway.write(f"""
            tunnels:
              bastion: {ssh_tunnel(bastion, more=", connections: {min: 1, max: 2}")}
            backends:
              a: {{kind: tcp, via: bastion, targets: ["127.0.0.1:{port}"], listen: 127.0.0.1:{listen}, {CHECK}}}
        """)
        gateway.start().wait_up("a")
        start_accepting(gateway, listen)
        assert len(bastion.sessions()) == 1
        gateway.wait(burst)
