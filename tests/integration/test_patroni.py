"""Tests whether clients follow the primary of a Patroni cluster. Checks read the roles from Patroni's REST API."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from gateway.demo.server_process import find, free_port
from gateway.demo.sshd import Bastion
from tests.support.configs import ssh_tunnel
from tests.support.files import write_secret
from tests.support.gateway_process import Gateway
from tests.support.lateness import Lateness
from tests.support.patroni import PatroniCluster, programs
from tests.support.requirements import need
from tests.support.writer import Writer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

PROMPTLY = 6.0
"""Maximum seconds from a promotion to the next write on the new primary."""


@pytest.fixture
def cluster(server_folder: Path) -> Iterator[PatroniCluster]:
    for program in ("patroni", "etcd"):
        need(find(program) is not None, f"{program} (packages patroni etcd-server python3-etcd)")
    need(programs() != [], "postgres (package postgresql)")
    made = PatroniCluster(server_folder / "patroni")
    try:
        yield made.start()
    finally:
        made.stop()


def test_clients_follow_a_switchover_and_a_failover_and_the_old_primary_gets_no_writes(
    gateway: Gateway, shared_bastion: Bastion, cluster: PatroniCluster
) -> None:
    one, two = cluster.hosts
    listen = free_port()
    write_secret(gateway.folder / "secret", cluster.check_password)
    targets = ", ".join(f'"{host}:{cluster.port}"' for host in cluster.hosts)
    check = f"user: {cluster.check_user}, database: postgres"
    role = f"via_http: {{port: {cluster.rest_port}, path: /patroni, role: {{json: role}}}}"
    gateway.write(f"""
        tunnels: {{bastion: {ssh_tunnel(shared_bastion)}}}
        backends:
          shop:
            kind: postgres
            via: bastion
            targets: [{targets}]
            listen: 127.0.0.1:{listen}
            check: {{{check}, password_file: {gateway.folder}/secret, {role}}}
          status-only:
            kind: postgres
            via: bastion
            targets: [{targets}]
            check: {{via_http: {{port: {cluster.rest_port}, path: /primary}}}}
    """)

    def connect() -> tuple[Callable[[], str], Callable[[], None]]:
        client = psycopg.connect(
            host="127.0.0.1", port=listen, user=cluster.user, password=cluster.password, dbname="postgres",
            autocommit=True, connect_timeout=5,
        )  # fmt: skip

        def write() -> str:
            row = client.execute("INSERT INTO writes DEFAULT VALUES RETURNING host(inet_server_addr())").fetchone()
            assert row is not None
            return str(row[0])

        return write, client.close

    def roles(name: str) -> list[str]:
        return [each["role"] for each in gateway.backend(name)["targets"]]

    gateway.start().wait(lambda: roles("shop") == roles("status-only") == ["primary", "replica"])
    gateway.wait_up("shop", "status-only")
    with Writer(connect, psycopg.Error) as writer, Writer(connect, psycopg.Error, reconnects=True) as newcomer:
        writer.first(one, 0.0, 20)
        switchover = threading.Thread(target=cluster.switch_over, args=(one, two))
        switchover.start()
        moved_to_two = _promotion(cluster, writer, two)
        switchover.join()
        cluster.wait(lambda: cluster.streams(one))
        newcomer.first(two, time.monotonic(), 20)  # new clients use `two`, although `one` is back
        cluster.kill_postgres(two)
        moved_to_one = _promotion(cluster, writer, one)
        cluster.wait(lambda: cluster.streams(two))
        newcomer.first(one, time.monotonic(), 20)
        gateway.wait(lambda: roles("shop") == roles("status-only") == ["primary", "replica"])
        gateway.wait_up("shop")
    late = [
        each
        for each in writer.accepted + newcomer.accepted
        if (each.server == one and moved_to_two < each.sent < moved_to_one)
        or (each.server == two and each.sent > moved_to_one)
    ]
    assert late == []


def _promotion(cluster: PatroniCluster, writer: Writer, host: str) -> float:
    """Wait for the promotion of a node, check that the node soon gets a write, and return the promotion's time."""
    with Lateness() as machine:
        while not cluster.is_writable(host):
            time.sleep(0.02)
        promoted = time.monotonic()
        first = writer.first(host, promoted - 1, 30)
    assert first.confirmed - promoted < PROMPTLY + machine.worst
    return promoted
