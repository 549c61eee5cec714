"""The check's own TLS towards databases: every mode, with an authority made on the spot."""

import datetime as dt
import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import need
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from test_reasons import mysql_backend, postgres_backend, probe

from gateway.backends.common.tls import TlsOptions, verify
from gateway.contracts import Endpoint, Phases, State, Stream
from gateway.demo import mariadb, postgres
from gateway.demo.process import run
from gateway.errors import ProbeError, Reason
from gateway.health.verdict import CheckResult
from gateway.relay.direct import DirectLink

pytestmark = pytest.mark.rig

NAME = "db.example.test"


@dataclass
class Authority:
    """A certificate authority and one server certificate of its."""

    ca: Path
    certificate: Path
    key: Path


def make_authority(folder: Path, host: str = NAME) -> Authority:
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    now = dt.datetime.now(dt.UTC)

    def certify(
        name: str, key: ec.EllipticCurvePrivateKey, issuer: x509.Name, signer: ec.EllipticCurvePrivateKey, *, ca: bool
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        )
        if ca:
            usage = x509.KeyUsage(
                digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
                key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
            )  # fmt: skip
            builder = builder.add_extension(usage, critical=True)
        else:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        return builder.sign(signer, hashes.SHA256())

    ca_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
    made = Authority(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    ca = certify("test authority", ca_key, ca_name, ca_key, ca=True)
    server = certify(host, server_key, ca_name, ca_key, ca=False)
    made.ca.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    made.certificate.write_bytes(server.public_bytes(serialization.Encoding.PEM))
    made.key.touch(mode=0o600)
    made.key.write_bytes(
        server_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return made


def given_to(user: str, authority: Authority) -> Authority:
    if os.geteuid() == 0:
        run(["chown", user, str(authority.key)])
    return authority


@pytest.fixture(scope="module")
def tls_mariadb(rig_folder: Path) -> Iterator[tuple[mariadb.MariaDB, Authority]]:
    need(mariadb.available(), "mariadbd (package mariadb-server)")
    authority = given_to("mysql", make_authority(rig_folder / "mysql-tls"))
    files = (f"--ssl-ca={authority.ca}", f"--ssl-cert={authority.certificate}", f"--ssl-key={authority.key}")
    server = mariadb.MariaDB(rig_folder / "mariadb-tls", *files).start()
    yield server, authority
    server.stop()


@pytest.fixture(scope="module")
def tls_postgres(rig_folder: Path) -> Iterator[tuple[postgres.Postgres, Authority]]:
    need(postgres.available(), "postgres (package postgresql)")
    authority = given_to("postgres", make_authority(rig_folder / "postgres-tls"))
    files = {"ssl": "on", "ssl_cert_file": str(authority.certificate), "ssl_key_file": str(authority.key)}
    server = postgres.Postgres(rig_folder / "postgres-tls-data", **files).start()
    yield server, authority
    server.stop()


async def test_mysql(tls_mariadb: tuple[mariadb.MariaDB, Authority], tmp_path: Path) -> None:
    server, authority = tls_mariadb
    other = make_authority(tmp_path / "other")
    for tls, reason in (
        (TlsOptions(), None),
        (TlsOptions("require"), None),
        (TlsOptions("verify", authority.ca, NAME), None),
        (TlsOptions("verify", authority.ca), Reason.TLS),  # it is not called 127.0.0.1
        (TlsOptions("verify", other.ca, NAME), Reason.TLS),
        (TlsOptions("verify", server_name=NAME), Reason.TLS),  # the system does not trust it
    ):
        result = await probe(mysql_backend(server, tls=tls), server.port, timeout=5)
        assert result.reason is reason, (tls, result.detail)
        assert ("tls" in result.phases) == (tls.mode != "off")
        assert shown(result) == (expiry_of(authority) if tls.mode != "off" and reason is None else None)


async def test_postgres(tls_postgres: tuple[postgres.Postgres, Authority], tmp_path: Path) -> None:
    server, authority = tls_postgres
    other = make_authority(tmp_path / "other")
    for tls, reason in (
        (TlsOptions(), None),
        (TlsOptions("require"), None),
        (TlsOptions("verify", authority.ca, NAME), None),
        (TlsOptions("verify", authority.ca), Reason.TLS),
        (TlsOptions("verify", other.ca, NAME), Reason.TLS),
        (TlsOptions("verify", server_name=NAME), Reason.TLS),
    ):
        result = await probe(postgres_backend(server, tls=tls), server.port, timeout=5)
        assert result.reason is reason, (tls, result.detail)
        assert (result.state is State.UP) == (reason is None)
        assert shown(result) == (expiry_of(authority) if tls.mode != "off" and reason is None else None)


async def test_a_postgres_certificate_is_asked_for_rarely(
    tls_postgres: tuple[postgres.Postgres, Authority], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, authority = tls_postgres
    backend = postgres_backend(server, tls=TlsOptions("require"))
    dialled: list[Endpoint] = []
    dial = DirectLink.socket

    async def counting(link: DirectLink, to: Endpoint, phases: Phases | None = None) -> Stream:
        dialled.append(to)
        return await dial(link, to, phases)

    def loading(context: ssl.SSLContext) -> None:
        pytest.fail("nothing is verified: the system's authorities are not needed")

    monkeypatch.setattr(DirectLink, "socket", counting)
    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", loading)
    for _ in range(3):
        assert shown(await probe(backend, server.port, timeout=5)) == expiry_of(authority)
    assert len(dialled) == 3 + 1  # three logins, and one for the certificate


def shown(result: CheckResult) -> float | None:
    """When the certificate expires that the server has shown."""
    certificate = result.probe_result.certificate if result.probe_result else None
    return certificate.expires if certificate else None


def expiry_of(authority: Authority) -> float:
    certificate = x509.load_pem_x509_certificate(authority.certificate.read_bytes())
    return certificate.not_valid_after_utc.timestamp()


async def test_mysql_without_tls_is_refused_when_tls_is_required(rig_folder: Path) -> None:
    need(mariadb.available(), "mariadbd (package mariadb-server)")
    server = mariadb.MariaDB(rig_folder / "mariadb-plain", "--skip-ssl").start()
    try:
        result = await probe(mysql_backend(server, tls=TlsOptions("require")), server.port, timeout=5)
        assert result.reason is Reason.TLS, result.detail
    finally:
        server.stop()


def test_a_ca_file_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("not a certificate")
    with pytest.raises(ProbeError, match=r"tls\.ca_file"):
        verify(None, mysql_backend_check(tmp_path / "ca.pem"))


def mysql_backend_check(ca: Path) -> object:
    @dataclass
    class Check:
        tls: TlsOptions

    return Check(TlsOptions("verify", ca))
