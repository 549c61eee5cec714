"""Tests backends of kind `redis` on real Redis servers, replicas and a Sentinel."""

import contextlib
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from gateway.backend_support.tls_options import HealthCheckTlsOptions
from gateway.backends import EmptyOptions
from gateway.backends.redis import RedisBackend, RedisCheckOptions
from gateway.contracts.config_types import Duration
from gateway.contracts.secret import Secret
from gateway.contracts.states import HealthState
from gateway.demo.server_process import find, free_port
from gateway.demo.sshd import Bastion
from gateway.errors import FailureReason
from tests.support import certificates
from tests.support.certificates import Issued
from tests.support.configs import ssh_tunnel
from tests.support.files import write_secret
from tests.support.gateway_process import Gateway
from tests.support.lateness import Lateness
from tests.support.probes import DEADLINE, probe
from tests.support.redis import Redis, RedisError, Sentinel
from tests.support.requirements import need
from tests.support.writer import Writer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

PROMPTLY = 6.0
"""Maximum seconds from a promotion to the next write on the new primary."""


class Pair(NamedTuple):
    """A primary with TLS, a replica, and a replica with a wrong `masterauth`."""

    primary: Redis
    replica: Redis
    refused: Redis
    issued: Issued


@pytest.fixture(scope="module", autouse=True)
def programs() -> None:
    need(find("redis-server") is not None, "redis-server (package redis-server)")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("redis")
    issued = certificates.issue(folder / "certificates")
    primary = Redis(folder / "primary", "maxmemory 64mb", tls=issued)
    replica, refused = Redis(folder / "replica", of=primary), Redis(folder / "refused", "masterauth x", of=primary)
    servers = (primary, replica, refused)
    with contextlib.ExitStack() as stack:
        for each in servers:
            each.start()
            stack.callback(each.stop)
        replica.wait_replicating()
        yield Pair(*servers, issued)


def backend(server: Redis, **changes: object) -> RedisBackend:
    check = RedisCheckOptions(user=server.check_user, password=Secret(server.check_password))
    return RedisBackend(EmptyOptions(), replace(check, **changes))  # type: ignore[arg-type] # any field


async def test_a_check_reports_role_lag_memory_and_replication_problems(pair: Pair) -> None:
    primary = await probe(backend(pair.primary), pair.primary.port)
    assert primary.state is HealthState.UP, primary.detail
    assert primary.probe_result is not None
    facts = {fact.key: value for fact, value in primary.probe_result.facts.items()}
    assert (primary.probe_result.role, facts["read_only"], facts["lag_seconds"]) == ("primary", False, None)
    assert re.fullmatch(r"Redis [\d.]+", str(facts["version"]))
    memory = facts["memory_bytes"]
    assert isinstance(memory, dict)
    assert memory["max"] == 64 << 20
    assert 0 < memory["used"] < 64 << 20
    assert list(primary.phases) == ["dns", "tcp", "greeting", "auth", "query"]
    replica = await probe(backend(pair.replica, max_lag=Duration(60.0)), pair.replica.port)
    assert replica.state is HealthState.UP, replica.detail
    assert replica.probe_result is not None
    assert (replica.probe_result.role, replica.probe_result.read_only) == ("replica", True)
    refused = await probe(backend(pair.refused), pair.refused.port)
    assert (refused.state, refused.reason) == (HealthState.DEGRADED, FailureReason.LAG)
    assert f"not connected to 127.0.0.1:{pair.primary.port}" in refused.detail
    assert "set masterauth" in refused.detail
    limited = await probe(backend(pair.refused, max_lag=Duration(60.0)), pair.refused.port)
    assert (limited.state, limited.reason) == (HealthState.DOWN, FailureReason.LAG)


async def test_each_failed_login_has_a_reason_and_a_remedy(pair: Pair) -> None:
    port = pair.primary.port
    for changes, reason, words in (
        ({"password": Secret("wrong")}, FailureReason.AUTH, "WRONGPASS"),
        ({"user": None, "password": Secret("wrong")}, FailureReason.AUTH, "WRONGPASS"),
        (
            {"user": None, "password": None},
            FailureReason.AUTH,
            "NOAUTH Authentication required: set check.password_file",
        ),
        (
            {"tls": HealthCheckTlsOptions("require")},
            FailureReason.TIMEOUT,
            "the server does not respond to the TLS handshake",
        ),
    ):
        result = await probe(backend(pair.primary, **changes), port, timeout=DEADLINE)
        assert (result.reason, words in result.detail) == (reason, True), result.detail
        assert "wrong" not in result.detail
    pair.primary.run("ACL", "SETUSER", "narrow", "on", ">narrow", "-@all", "+ping")
    narrow = await probe(backend(pair.primary, user="narrow", password=Secret("narrow")), port)
    assert (narrow.state, narrow.reason) == (HealthState.DEGRADED, FailureReason.AUTH)
    assert "grant the user of the check the ACL rules +ping +role +info" in narrow.detail
    pair.primary.run("ACL", "SETUSER", "narrow", "+role")
    without_info = await probe(backend(pair.primary, user="narrow", password=Secret("narrow")), port)
    assert without_info.state is HealthState.UP, without_info.detail
    assert without_info.probe_result is not None
    assert without_info.probe_result.role == "primary"


async def test_tls_verifies_the_server_and_reports_its_certificate(pair: Pair, tmp_path: Path) -> None:
    other = certificates.issue(tmp_path / "other")
    trusted = HealthCheckTlsOptions("verify", pair.issued.ca, certificates.NAME)
    result = await probe(backend(pair.primary, tls=trusted), pair.primary.tls_port)
    assert result.state is HealthState.UP, result.detail
    assert result.probe_result is not None
    assert result.probe_result.certificate is not None
    assert result.probe_result.certificate.expires > time.time() + 3600
    assert "tls" in result.phases
    required = await probe(backend(pair.primary, tls=HealthCheckTlsOptions("require")), pair.primary.tls_port)
    assert required.state is HealthState.UP, required.detail
    for wrong in (
        HealthCheckTlsOptions("verify", other.ca, certificates.NAME),
        HealthCheckTlsOptions("verify", pair.issued.ca),
    ):
        result = await probe(backend(pair.primary, tls=wrong), pair.primary.tls_port)
        assert (result.state, result.reason) == (HealthState.DOWN, FailureReason.TLS), result.detail


async def test_a_loading_server_an_open_server_and_a_sentinel_are_recognized(tmp_path: Path) -> None:
    slow = ("key-load-delay 20000", "loading-process-events-interval-bytes 1024")
    loading = Redis(tmp_path / "loading", *slow)
    loading.start()
    with loading.connect() as client:
        for number in range(1000):
            client.run("SET", f"key:{number}", "x" * 100)
        client.run("SAVE")
    loading.stop()
    loading.start()
    try:
        result = await probe(backend(loading), loading.port)
        assert (result.state, result.reason) == (HealthState.DOWN, FailureReason.STARTING), result.detail
    finally:
        loading.stop()
    server = Redis(tmp_path / "open", "maxmemory 100kb", "maxmemory-policy noeviction").start()
    sentinel = Sentinel(tmp_path / "sentinel", server).start()
    try:
        full = await probe(backend(server), server.port)
        assert (full.state, full.reason) == (HealthState.DEGRADED, FailureReason.NO_SPACE), full.detail
        server.run("CONFIG", "SET", "requirepass", "")
        result = await probe(backend(server), server.port)
        assert (result.state, result.reason) == (HealthState.DEGRADED, FailureReason.UNAUTHENTICATED), result.detail
        result = await probe(backend(server, user=None, password=None), sentinel.port)
        assert (result.state, result.reason) == (HealthState.DOWN, FailureReason.PROTOCOL)
        assert "this is a Sentinel" in result.detail
    finally:
        sentinel.stop()
        server.stop()


def test_clients_follow_a_sentinel_failover_and_the_old_primary_gets_no_writes(
    gateway: Gateway, shared_bastion: Bastion, tmp_path: Path
) -> None:
    """The old primary is frozen during the failover. Afterwards, it accepts writes until the Sentinel demotes it."""
    old = Redis(tmp_path / "one")
    new = Redis(tmp_path / "two", of=old)
    listen = free_port()
    write_secret(gateway.folder / "secret", old.check_password)
    gateway.write(f"""
        tunnels: {{bastion: {ssh_tunnel(shared_bastion)}}}
        backends:
          cache:
            kind: redis
            via: bastion
            targets: ["127.0.0.1:{old.port}", "127.0.0.1:{new.port}"]
            listen: 127.0.0.1:{listen}
            check: {{interval: 1s, user: {old.check_user}, password_file: {gateway.folder}/secret}}
    """)

    def connect() -> tuple[Callable[[], str], Callable[[], None]]:
        client = old.connect(listen)

        def write() -> str:
            client.run("INCR", "writes")
            match = re.search(r" laddr=127\.0\.0\.1:(\d+)", str(client.run("CLIENT", "INFO")))
            return match[1] if match else ""

        return write, client.close

    with contextlib.ExitStack() as stack:
        for server in (old, new):
            server.start()
            stack.callback(server.stop)
        new.wait_replicating()
        sentinel = Sentinel(tmp_path / "sentinel", old).start()
        stack.callback(sentinel.stop)
        sentinel.wait_replicas(1)
        gateway.start().wait(
            lambda: [each["role"] for each in gateway.backend("cache")["targets"]] == ["primary", "replica"]
        )
        metrics = gateway.http.get("/metrics")[1]
        for server, read_only in ((old, 0), (new, 1)):
            labels = f'backend="cache",target="127.0.0.1:{server.port}"'
            assert f"gateway_database_read_only{{{labels}}} {read_only}.0" in metrics
            assert (
                f'gateway_redis_memory_bytes{{backend="cache",kind="used",target="127.0.0.1:{server.port}"' in metrics
            )
        errors = OSError, RedisError
        with Writer(connect, *errors) as writer, Writer(connect, *errors, reconnects=True) as newcomer:
            writer.first(str(old.port), 0.0, 20)
            old.send(signal.SIGSTOP)
            promoted = _promotion(writer, new)
            gateway.wait(lambda: sentinel.primary_port == new.port)
            sentinel.stop()
            old.send(signal.SIGCONT)
            gateway.wait_state("cache", "degraded", "role")
            # New clients must use `new`, although `old` runs again.
            newcomer.first(str(new.port), time.monotonic() + 1, 20)
            assert old.role == "master"  # without the Sentinel, `old` does not know of the failover
            sentinel.start()
            gateway.wait(lambda: old.role == "slave")
            gateway.wait_up("cache")
            sentinel.fail_over()
            back = _promotion(writer, old)
            gateway.wait(lambda: new.role == "slave")
        accepted = writer.accepted + newcomer.accepted
        late = [each for each in accepted if each.server == str(old.port) and promoted < each.sent < back]
        assert late == []
        gateway.wait(lambda: old.run("GET", "writes") == new.run("GET", "writes"))


def _promotion(writer: Writer, server: Redis) -> float:
    """Wait for a replica's promotion, check that this server soon gets a write, and return the promotion's time."""
    with Lateness() as machine:
        while server.role != "master":
            time.sleep(0.02)
        promoted = time.monotonic()
        first = writer.first(str(server.port), promoted - 1, 20)
    assert first.confirmed - promoted < PROMPTLY + machine.worst
    return promoted
