"""Tests the TLS connections of checks to databases in every `tls.mode`."""

import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509

from gateway.backend_support import postgres_certificate_fetcher
from gateway.backend_support.tls_options import HealthCheckTlsOptions, verify
from gateway.contracts.config_types import HostPort
from gateway.contracts.link import Stream
from gateway.contracts.phase_timer import PhaseTimer
from gateway.contracts.states import HealthState
from gateway.demo import mariadb, postgres
from gateway.errors import FailureReason, UnusableTargetError
from gateway.health.check_results import CheckResult
from gateway.relay.direct_link import DirectLink
from tests.support import certificates
from tests.support.probes import mysql_backend, postgres_backend, probe
from tests.support.requirements import need
from tests.support.servers import serving

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def tls_mariadb(server_folder: Path) -> Iterator[tuple[mariadb.MariaDB, certificates.Issued]]:
    need(mariadb.available(), "mariadbd (package mariadb-server)")
    authority = certificates.issue(server_folder / "mysql-tls", owner="mysql")
    files = (f"--ssl-ca={authority.ca}", f"--ssl-cert={authority.certificate}", f"--ssl-key={authority.key}")
    server = mariadb.MariaDB(server_folder / "mariadb-tls", *files).start()
    yield server, authority
    server.stop()


@pytest.fixture(scope="module")
def tls_postgres(server_folder: Path) -> Iterator[tuple[postgres.Postgres, certificates.Issued]]:
    need(postgres.available(), "postgres (package postgresql)")
    authority = certificates.issue(server_folder / "postgres-tls", owner="postgres")
    files = {"ssl": "on", "ssl_cert_file": str(authority.certificate), "ssl_key_file": str(authority.key)}
    server = postgres.Postgres(server_folder / "postgres-tls-data", **files).start()
    yield server, authority
    server.stop()


async def test_mysql(tls_mariadb: tuple[mariadb.MariaDB, certificates.Issued], tmp_path: Path) -> None:
    server, authority = tls_mariadb
    other = certificates.issue(tmp_path / "other")
    for tls, reason in (
        (HealthCheckTlsOptions(), None),
        (HealthCheckTlsOptions("require"), None),
        (HealthCheckTlsOptions("verify", authority.ca, certificates.NAME), None),
        # The server's certificate is not valid for 127.0.0.1.
        (HealthCheckTlsOptions("verify", authority.ca), FailureReason.TLS),
        (HealthCheckTlsOptions("verify", other.ca, certificates.NAME), FailureReason.TLS),
        # Without a CA file, the check uses the CAs of the system. These do not include the CA of this test.
        (HealthCheckTlsOptions("verify", server_name=certificates.NAME), FailureReason.TLS),
    ):
        result = await probe(mysql_backend(server, tls=tls), server.port, timeout=5)
        assert result.reason is reason, (tls, result.detail)
        assert ("tls" in result.phases) == (tls.mode != "off")
        assert shown(result) == (expiry_of(authority) if tls.mode != "off" and reason is None else None)


async def test_postgres(
    tls_postgres: tuple[postgres.Postgres, certificates.Issued], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, authority = tls_postgres
    monkeypatch.setattr(postgres_certificate_fetcher, "_TIMEOUT", 30.0)
    other = certificates.issue(tmp_path / "other")
    for tls, reason in (
        (HealthCheckTlsOptions(), None),
        (HealthCheckTlsOptions("require"), None),
        (HealthCheckTlsOptions("verify", authority.ca, certificates.NAME), None),
        (HealthCheckTlsOptions("verify", authority.ca), FailureReason.TLS),
        (HealthCheckTlsOptions("verify", other.ca, certificates.NAME), FailureReason.TLS),
        (HealthCheckTlsOptions("verify", server_name=certificates.NAME), FailureReason.TLS),
    ):
        result = await probe(postgres_backend(server, tls=tls), server.port, timeout=40)
        assert result.reason is reason, (tls, result.detail)
        assert (result.state is HealthState.UP) == (reason is None)
        assert shown(result) == (expiry_of(authority) if tls.mode != "off" and reason is None else None)


async def test_a_postgres_certificate_is_requested_rarely(
    tls_postgres: tuple[postgres.Postgres, certificates.Issued], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, authority = tls_postgres
    monkeypatch.setattr(postgres_certificate_fetcher, "_TIMEOUT", 30.0)
    backend = postgres_backend(server, tls=HealthCheckTlsOptions("require"))
    dialed: list[HostPort] = []
    dial = DirectLink.socket

    async def counting(link: DirectLink, to: HostPort, phases: PhaseTimer | None = None) -> Stream:
        dialed.append(to)
        return await dial(link, to, phases)

    def loading(context: ssl.SSLContext) -> None:
        pytest.fail("the check loads the system's authorities although it verifies nothing")

    monkeypatch.setattr(DirectLink, "socket", counting)
    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", loading)
    for _ in range(3):
        assert shown(await probe(backend, server.port, timeout=40)) == expiry_of(authority)
    assert len(dialed) == 3 + 1  # three logins, and one connection that reads the certificate


async def test_a_certificate_is_reported_even_if_the_server_does_not_end_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_certificate_fetcher, "_TIMEOUT", 5.0)
    issued = certificates.issue(tmp_path / "silent")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.certificate, issued.key)
    done = threading.Event()

    def complete_only_the_handshake(client: socket.socket) -> None:
        client.settimeout(20)
        assert len(client.recv(8)) == 8
        client.sendall(b"S")
        with context.wrap_socket(client, server_side=True):
            assert done.wait(20)

    fetcher = postgres_certificate_fetcher.PostgresCertificateFetcher()
    with serving(complete_only_the_handshake) as port:
        try:
            validity = await fetcher.validity(DirectLink(), HostPort("127.0.0.1", port))
        finally:
            done.set()
    assert validity is not None
    assert validity.expires == expiry_of(issued)


def shown(result: CheckResult) -> float | None:
    """Return the expiry time of the server's certificate, which the probe reports."""
    certificate = result.probe_result.certificate if result.probe_result else None
    return certificate.expires if certificate else None


def expiry_of(authority: certificates.Issued) -> float:
    certificate = x509.load_pem_x509_certificate(authority.certificate.read_bytes())
    return certificate.not_valid_after_utc.timestamp()


async def test_mysql_without_tls_is_refused_when_tls_is_required(server_folder: Path) -> None:
    need(mariadb.available(), "mariadbd (package mariadb-server)")
    server = mariadb.MariaDB(server_folder / "mariadb-plain", "--skip-ssl").start()
    try:
        result = await probe(mysql_backend(server, tls=HealthCheckTlsOptions("require")), server.port, timeout=5)
        assert result.reason is FailureReason.TLS, result.detail
    finally:
        server.stop()


def test_an_invalid_ca_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("not a certificate")
    with pytest.raises(UnusableTargetError, match=r"tls\.ca_file"):
        verify(None, mysql_backend_check(tmp_path / "ca.pem"))


def mysql_backend_check(ca: Path) -> object:
    @dataclass
    class Check:
        tls: HealthCheckTlsOptions

    return Check(HealthCheckTlsOptions("verify", ca))
