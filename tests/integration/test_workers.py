"""Tests workers: they carry bulk traffic in separate processes, and all other behavior stays the same."""

import asyncio
import errno
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from gateway.app.worker.worker_supervisor import WorkerLostError, WorkerSupervisor
from gateway.config import ConfigSources, load
from gateway.contracts.values import Endpoint
from gateway.demo.mariadb import MariaDB
from gateway.demo.nfs import NfsServer
from gateway.demo.postgres import Postgres
from gateway.demo.process import free_port
from gateway.demo.sshd import Bastion
from gateway.forwarding.listener import Listener
from tests.support.clients import connect, echo, is_refused, is_reset, query_mysql, query_postgres, read_nfs
from tests.support.configs import database_check, ssh_tunnel
from tests.support.gateway_process import Gateway
from tests.support.servers import Behavior, echoing, serving, talking

pytestmark = pytest.mark.integration

CHECK = "check: {interval: 500ms, fast_interval: 200ms, down_interval: 300ms, timeout: 1s}"


def worker(gateway: Gateway, number: int = 1) -> int:
    pid = gateway.status()["workers"][str(number)]
    assert isinstance(pid, int)
    return pid


def test_a_worker_carries_bulk_traffic_and_the_owner_carries_queries(
    gateway: Gateway,
    tmp_path: Path,
    shared_bastion: Bastion,
    shared_mariadb: MariaDB,
    shared_postgres: Postgres,
    shared_nfs: NfsServer,
) -> None:
    ports = {name: free_port() for name in ("orders", "reports", "media")}
    gateway.write(f"""
        tunnels:
          bastion: {ssh_tunnel(shared_bastion)}
        backends:
          orders:
            kind: mysql
            via: bastion
            targets: ["127.0.0.1:{shared_mariadb.port}"]
            listen: 127.0.0.1:{ports["orders"]}
            check: {database_check(shared_mariadb, tmp_path)}
          reports:
            kind: postgres
            via: bastion
            worker: true
            targets: ["127.0.0.1:{shared_postgres.port}"]
            listen: 127.0.0.1:{ports["reports"]}
            check: {database_check(shared_postgres, tmp_path)}
          media:
            kind: nfs
            via: bastion
            targets: ["127.0.0.1:{shared_nfs.port}"]
            export: /media
            listen: 127.0.0.1:{ports["media"]}
            check: {{write: true, interval: 1s}}
    """)
    gateway.start("--workers", "1").wait_up("orders", "reports", "media")
    assert query_mysql(shared_mariadb, ports["orders"]) == 3
    assert query_postgres(shared_postgres, ports["reports"]) == 2
    assert read_nfs(ports["media"]) == "hello over NFS\n"
    gateway.wait(lambda: gateway.backend("media")["connections"]["bytes_from_backend"] > 0)
    gateway.wait(lambda: gateway.backend("reports")["connections"]["bytes_from_backend"] > 0)
    for name in ("media", "reports"):
        assert gateway.backend(name)["connections"]["total"] == 1
    phases = gateway.backend("reports")["targets"][0]["last_phases_seconds"]
    assert set(phases) == {"channel", "greeting", "auth", "query"}

    def tunnel() -> tuple[object, ...]:
        seen = gateway.tunnel("bastion")
        return seen["state"], seen["connections"], seen["connects"]

    gateway.wait(lambda: tunnel() == ("up", 4, 2))
    _, metrics = gateway.http.get("/metrics")
    assert 'gateway_connections_total{backend="media"} 1.0' in metrics


def test_a_killed_worker_resets_only_its_own_connections_and_is_replaced(
    gateway: Gateway, shared_bastion: Bastion
) -> None:
    with serving(echoing) as port:
        bulk, query = free_port(), free_port()
        backend = f'kind: tcp, via: bastion, targets: ["127.0.0.1:{port}"], {CHECK}'
        gateway.write(f"""
            tunnels:
              bastion: {ssh_tunnel(shared_bastion)}
            backends:
              bulk: {{{backend}, listen: 127.0.0.1:{bulk}, worker: true}}
              query: {{{backend}, listen: 127.0.0.1:{query}, worker: false}}
        """)
        gateway.start("--workers", "1").wait_up("bulk", "query")
        with connect(bulk) as lost, connect(query) as kept:
            assert echo(lost, b"x" * 1000) == b"x" * 1000
            assert echo(kept) == b"hello"
            gateway.wait(lambda: gateway.backend("bulk")["connections"]["bytes_to_backend"] == 1000)
            first = worker(gateway)
            os.kill(first, signal.SIGKILL)
            assert is_reset(lost) or lost.recv(1) == b""
            # While no worker runs, a new client waits in the listener, which the main process keeps open.
            with connect(bulk) as patient:
                assert echo(patient) == b"hello"
            assert echo(kept) == b"hello"
        gateway.wait_up("bulk", "query")
        assert worker(gateway) != first
        connections = gateway.backend("bulk")["connections"]
        assert connections["total"] == 2
        assert connections["reset"] == {"aborted": 1}
        gateway.wait(lambda: gateway.backend("bulk")["connections"]["bytes_to_backend"] == 1005)
        assert gateway.backend("query")["connections"]["reset"] == {}


def test_a_failed_backend_still_resets_clients_after_its_worker_is_replaced(gateway: Gateway) -> None:
    listen = free_port()
    gateway.write(f"""
        backends:
          one:
            kind: tcp
            targets: ["127.0.0.1:{free_port()}"]
            listen: 127.0.0.1:{listen}
            hold: 30s
            worker: true
            {CHECK}
    """)
    gateway.start("--workers", "1").wait(lambda: gateway.state("one")[0] == "down")
    assert gateway.command("fail", "one").returncode == 0
    assert is_refused(listen)
    first = worker(gateway)
    os.kill(first, signal.SIGKILL)
    gateway.wait(lambda: gateway.status()["workers"]["1"] not in (first, None))
    assert is_refused(listen)


async def test_lost_listeners_are_sent_to_the_worker_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first transfer of a listener fails because no descriptor is free; the main process sends it again."""
    lost = iter([True])
    real = socket.dup
    address = Endpoint("127.0.0.1", free_port())

    def dup(fd: int) -> int:
        if next(lost, False):
            raise OSError(errno.EMFILE, "Too many open files")
        return int(real(fd))

    with serving(echoing) as port:
        given = ConfigSources(backends=(f"one=tcp://127.0.0.1:{port}?listen={address}&worker=true",), environment={})
        listener = Listener(address)
        unit = WorkerSupervisor(1, lambda *_: None)
        unit.apply(load(given), {address: listener})
        monkeypatch.setattr(socket, "dup", dup)
        running = asyncio.ensure_future(unit.run(lambda: None))
        try:
            async with asyncio.timeout(20):
                await unit.settled()
                while not unit.running:
                    await asyncio.sleep(0.05)
                await unit.settled()
                assert await asyncio.to_thread(_echoes, address.port)
        finally:
            running.cancel()
            await asyncio.wait({running})
            listener.close()
    assert next(lost, None) is None


class OfAnotherVersion:
    """A message that the receiver cannot unpickle, as between two different versions of the gateway."""

    def __reduce__(self) -> tuple[type[int], tuple[str]]:
        return int, ("no number",)


async def test_a_worker_that_cannot_read_a_message_is_replaced() -> None:
    address = Endpoint("127.0.0.1", free_port())
    given = ConfigSources(backends=(f"one=tcp://127.0.0.1:1?listen={address}&worker=true",), environment={})
    listener = Listener(address)
    unit = WorkerSupervisor(1, lambda *_: None)
    unit.apply(load(given), {address: listener})
    running = asyncio.ensure_future(unit.run(lambda: None))
    try:
        async with asyncio.timeout(30):
            while not unit.running:
                await asyncio.sleep(0.05)
            await unit.settled()
            unit.send(OfAnotherVersion())
            with pytest.raises(WorkerLostError):
                await running
    finally:
        running.cancel()
        await asyncio.wait({running})
        listener.close()


def _echoes(port: int) -> bool:
    with connect(port) as client:
        return echo(client) == b"hello"


def test_reload_reaches_workers_and_moves_backends(gateway: Gateway, shared_bastion: Bastion) -> None:
    with serving(echoing) as port:
        one, two = free_port(), free_port()
        backend = f'kind: tcp, via: bastion, targets: ["127.0.0.1:{port}"], {CHECK}'
        body = f"""
            tunnels:
              bastion: {ssh_tunnel(shared_bastion)}
            backends:
              one: {{{backend}, listen: 127.0.0.1:{one}, worker: true, max_connections: %s}}
              two: {{{backend}, listen: 127.0.0.1:{two}, worker: %s}}
        """
        gateway.write(body % (5, "false"))
        gateway.start("--workers", "1").wait_up("one", "two")
        with connect(one) as client:
            assert echo(client) == b"hello"
            gateway.write(body % (1, "true"))
            assert gateway.command("reload").returncode == 0
            assert echo(client) == b"hello"
            gateway.wait_up("two")
            with connect(two) as moved:
                assert echo(moved) == b"hello"
                gateway.wait(lambda: gateway.backend("two")["connections"]["active"] == 1)
            gateway.wait(lambda: is_refused(one, within=1))
            gateway.wait(lambda: gateway.backend("one")["connections"]["rejected"].get("max_connections", 0) > 0)


def test_term_drains_workers_and_none_outlives_the_gateway(gateway: Gateway, shared_bastion: Bastion) -> None:
    with serving(echoing) as port:
        listen = free_port()
        backend = f'kind: tcp, via: bastion, targets: ["127.0.0.1:{port}"], {CHECK}'
        gateway.write(
            f"tunnels:\n  bastion: {ssh_tunnel(shared_bastion)}\n"
            f"backends:\n  one: {{{backend}, listen: 127.0.0.1:{listen}, worker: true}}\n",
            shutdown="{delay: 300ms, drain: 20s}",
        )
        gateway.start("--workers", "2").wait_up("one")
        workers = [worker(gateway, 1), worker(gateway, 2)]
        child = gateway.process._child  # type: ignore[union-attr]
        with connect(listen) as client:
            assert echo(client) == b"hello"
            gateway.wait(lambda: gateway.backend("one")["connections"]["active"] == 1)
            gateway.process.send(signal.SIGTERM)  # type: ignore[union-attr]
            deadline = time.monotonic() + 10  # the admin socket can close first, so poll the listener
            while not refused(listen):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            time.sleep(1)  # a main process that ignored the workers' clients would exit now
            assert echo(client) == b"hello"
        assert child is not None
        assert child.wait(15) == 0
        for pid in workers:
            assert not Path(f"/proc/{pid}").exists()


def refused(port: int) -> bool:
    try:
        connect(port).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        return False  # this client was in the accept queue when the listener closed
    return False


def test_workers_end_with_a_killed_gateway(gateway: Gateway) -> None:
    with serving(echoing) as port:
        gateway.write(f"""
            backends:
              one:
                kind: tcp
                targets: ["127.0.0.1:{port}"]
                listen: 127.0.0.1:{free_port()}
                worker: true
                {CHECK}
        """)
        gateway.start("--workers", "1").wait_up("one")
        pid = worker(gateway)
        os.kill(gateway.pid, signal.SIGKILL)
        deadline = time.monotonic() + 15
        while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not Path(f"/proc/{pid}").exists()


def test_a_worker_reports_a_failing_target_to_the_owner_and_routing_follows(gateway: Gateway) -> None:
    with serving(echoing) as good, socket.create_server(("127.0.0.1", 0)) as dying:
        listen = free_port()
        bad = dying.getsockname()[1]
        gateway.write(f"""
            backends:
              one:
                kind: tcp
                targets: ["127.0.0.1:{bad}", "127.0.0.1:{good}"]
                listen: 127.0.0.1:{listen}
                worker: true
                check: {{interval: 30s, fast_interval: 200ms, timeout: 1s}}
        """)
        gateway.start("--workers", "1").wait_up("one")
        dying.close()
        with connect(listen) as client:
            assert echo(client) == b"hello"
        # If the client's failed dial did not start a check, the next check would start 30 s later.
        gateway.wait(lambda: gateway.backend("one")["targets"][0]["state"] == "down", 15)


def test_an_address_that_moves_between_processes_serves_only_its_new_backend(gateway: Gateway) -> None:
    def answering(word: bytes) -> Behavior:
        return talking(word)

    with serving(answering(b"own")) as own, serving(answering(b"worker")) as other:
        keep, moving = free_port(), free_port()
        body = f"""
            backends:
              own: {{kind: tcp, targets: ["127.0.0.1:{own}"], listen: [%s], {CHECK}}}
              bulk: {{kind: tcp, targets: ["127.0.0.1:{other}"], listen: [%s], worker: true, {CHECK}}}
        """
        gateway.write(body % (f'"127.0.0.1:{keep}", "127.0.0.1:{moving}"', ""))
        gateway.start("--workers", "1").wait_up("own", "bulk")
        for listen, want in ((f'"127.0.0.1:{moving}"', b"worker"), ("", b"own")):
            mine = f'"127.0.0.1:{keep}"' + ("" if listen else f', "127.0.0.1:{moving}"')
            gateway.write(body % (mine, listen))
            assert gateway.client.post("/-/reload")[0] == 200
            for _ in range(30):  # the process that had the listener before must have closed it
                with connect(moving) as client:
                    assert client.recv(10) == want


def test_a_reload_is_done_when_every_worker_has_it(gateway: Gateway) -> None:
    with serving(echoing) as port:
        listen = free_port()
        gateway.write(f"""
            backends:
              one: {{kind: tcp, targets: ["127.0.0.1:{port}"], listen: 127.0.0.1:{listen}, worker: true, {CHECK}}}
        """)
        gateway.start("--workers", "1").wait_up("one")
        pid = worker(gateway)
        os.kill(pid, signal.SIGSTOP)
        timer = threading.Timer(0.7, os.kill, (pid, signal.SIGCONT))
        started = time.monotonic()
        timer.start()
        assert gateway.client.post("/-/reload")[0] == 200
        assert time.monotonic() - started > 0.6
        timer.join()
        # If a worker hangs, the reload waits for it for a limited time, and then reports it.
        os.kill(pid, signal.SIGSTOP)
        try:
            assert gateway.client.post("/-/reload")[0] == 200
            assert "a worker has not applied the configuration" in gateway.log
        finally:
            os.kill(pid, signal.SIGCONT)


def test_a_unix_socket_gets_its_mode_after_its_worker_has_the_rule(gateway: Gateway, tmp_path: Path) -> None:
    path = tmp_path / "one.sock"

    def write(listen: str) -> None:
        gateway.write(f"""
            backends: {{one: {{kind: tcp, targets: ["127.0.0.1:1"], listen: [{listen}], worker: true, {CHECK}}}}}
        """)

    write(str(path))
    gateway.start("--workers", "1")
    gateway.wait(lambda: gateway.status()["workers"]["1"] is not None)
    pid = worker(gateway)
    os.kill(pid, signal.SIGSTOP)
    try:
        write(f"{{unix: {path}, uid: 1000}}")
        assert gateway.client.post("/-/reload")[0] == 200
        assert path.stat().st_mode & 0o777 == 0o660
    finally:
        os.kill(pid, signal.SIGCONT)
    gateway.wait(lambda: path.stat().st_mode & 0o777 == 0o666)


def test_a_hundred_and_fifty_listeners_reach_one_worker(gateway: Gateway) -> None:
    with serving(echoing) as port:
        ports = [free_port() for _ in range(150)]
        listen = ", ".join(f"localhost:{each}" for each in ports)
        gateway.write(f"""
            backends:
              one:
                kind: tcp
                targets: ["127.0.0.1:{port}"]
                listen: [{listen}]
                worker: true
                {CHECK}
        """)
        gateway.start("--workers", "1").wait_up("one")
        for each in ports:
            with connect(each) as client:
                assert echo(client) == b"hello"


def test_a_stuck_worker_is_replaced(gateway: Gateway) -> None:
    with serving(echoing) as port:
        listen = free_port()
        gateway.write(f"""
            backends:
              one:
                kind: tcp
                targets: ["127.0.0.1:{port}"]
                listen: 127.0.0.1:{listen}
                worker: true
                {CHECK}
        """)
        gateway.start("--workers", "1").wait_up("one")
        first = worker(gateway)
        os.kill(first, signal.SIGSTOP)
        gateway.wait(lambda: gateway.status()["workers"]["1"] not in (first, None), 30)
        assert not Path(f"/proc/{first}").exists()
        gateway.wait_up("one")
        with connect(listen) as client:
            assert echo(client) == b"hello"
