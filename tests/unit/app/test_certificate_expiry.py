"""Tests when certificates expire, and when the gateway logs a warning about their expiry."""

import asyncio
import contextlib
import datetime as dt
import logging
import os
import threading
import time
from pathlib import Path

import asyncssh
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.app import certificate_expiry
from gateway.certificate_validity import ca_credentials, der_validity, pem_validities
from gateway.config import Config, ConfigSources, load
from gateway.contracts.certificate import MonitoredCertificate, ValidityPeriod
from gateway.demo.sshd import make_key
from gateway.metric_types import Histogram
from gateway.ops.metrics import families
from gateway.ops.status_views import CertificateView, ServiceView
from gateway.ssh.credentials import certificates
from gateway.ssh.options import SshOptions

DAY = 86400.0
NOW = 1_800_000_000.0


def pem(begins: float, expires: float) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(dt.datetime.fromtimestamp(begins, dt.UTC))
        .not_valid_after(dt.datetime.fromtimestamp(expires, dt.UTC))
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)


def read(text: str, folder: Path) -> Config:
    file = folder / "gateway.yaml"
    file.write_text(text)
    return load(ConfigSources(file, environment={}))


@pytest.mark.parametrize(
    ("lifetime", "left", "soon"),
    [
        (90 * DAY, 8 * DAY, False),
        (90 * DAY, 6.9 * DAY, True),
        (3 * DAY, 1.1 * DAY, False),
        (3 * DAY, 0.9 * DAY, True),
        (60, 21, False),
        (60, 19, True),
        (60, -1, True),
    ],
)
def test_the_warning_starts_in_the_last_third_but_at_most_a_week_before(
    lifetime: float, left: float, *, soon: bool
) -> None:
    validity = ValidityPeriod(NOW + left - lifetime, NOW + left)
    assert validity.expires_soon(NOW) is soon
    reported = certificate_expiry.expiry_warnings(
        [("bastion", MonitoredCertificate("ssh_certificate", "/k-cert.pub", validity))], NOW
    )
    assert len(reported) == soon
    if soon:
        assert reported[0].startswith(
            "bastion: /k-cert.pub: the certificate " + ("expires at" if left > 0 else "expired at")
        )


def test_certificates_of_ssh_keys_are_found_beside_them_and_where_they_are_named(tmp_path: Path) -> None:
    key, other, elsewhere = tmp_path / "key", tmp_path / "other", tmp_path / "elsewhere.pub"
    ca = asyncssh.generate_private_key("ssh-ed25519")
    now = int(time.time())
    for path, to, end in ((key, tmp_path / "key-cert.pub", now + 60), (other, elsewhere, now + 3600)):
        make_key(path)
        made = ca.generate_user_certificate(
            asyncssh.read_private_key(path), "id", valid_after=now - 60, valid_before=end
        )
        made.write_certificate(to)
    options = SshOptions(host="h", user="u", identity_files=(key, other), certificate_files=(elsewhere,))
    assert certificates(options) == [
        MonitoredCertificate("ssh_certificate", str(elsewhere), ValidityPeriod(now - 60, now + 3600)),
        MonitoredCertificate("ssh_certificate", f"{key}-cert.pub", ValidityPeriod(now - 60, now + 60)),
    ]
    forever = ca.generate_user_certificate(asyncssh.read_private_key(key), "id")
    forever.write_certificate(elsewhere)
    (tmp_path / "key-cert.pub").write_text("garbage")
    assert certificates(options) == []


def test_a_file_of_authorities_is_valid_until_the_last_expires(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_bytes(
        pem(NOW, NOW + 10) + b"words\n" + pem(NOW, NOW + 20) + b"-----BEGIN CERTIFICATE-----\n!\n-----END"
    )
    assert ca_credentials(path) == [MonitoredCertificate("tls", str(path), ValidityPeriod(NOW, NOW + 20))]
    assert ca_credentials(tmp_path / "none") == []
    assert ca_credentials(None) == []
    fifo, large = tmp_path / "fifo", tmp_path / "large"
    os.mkfifo(fifo)
    large.write_bytes(path.read_bytes() + b"x" * (4 << 20))
    assert ca_credentials(fifo) == ca_credentials(large) == []
    assert pem_validities(b"nothing") == []
    assert der_validity(b"nothing") is None
    data = x509.load_pem_x509_certificate(pem(NOW, dt.datetime(2060, 1, 2, tzinfo=dt.UTC).timestamp()))
    der = data.public_bytes(serialization.Encoding.DER)
    assert (
        der_validity(der.replace(b"20600102000000Z", b"00000102000000Z")) is None
    )  # Python's datetime does not support year 0.


def test_the_certificates_of_a_configuration(tmp_path: Path) -> None:
    ca, ours, vpn = tmp_path / "ca.pem", tmp_path / "ours.pem", tmp_path / "office.ovpn"
    ca.write_bytes(pem(NOW, NOW + 1))
    ours.write_bytes(pem(NOW, NOW + 2))
    blocks = f"<ca>\n{pem(NOW, NOW + 3).decode()}</ca>\n<cert>\n{pem(NOW, NOW + 4).decode()}</cert>\n"
    vpn.write_text(f"client\ndev tun\nremote vpn.example.com 1194\n{blocks}")
    vpn.chmod(0o600)
    config = read(
        f"""
tunnels:
  office: {{kind: openvpn, config: {vpn}}}
  broken: {{kind: openvpn, config: {tmp_path}/none}}
  egress: {{kind: proxy, url: "https://proxy", ca_file: {ca}}}
backends:
  orders: {{kind: mysql, targets: db, check: {{user: u, tls: {{mode: verify, ca_file: {ca}}}}}}}
docker: {{host: "tcp://engine:2376", tls: {{ca_file: {ca}, cert_file: {ours}, key_file: /k}}}}
ops: {{tls: {{client_ca_file: {ca}, cert_file: {ours}, key_file: /k}}}}
""",
        tmp_path,
    )
    found = [
        (name, each.kind, each.name, each.validity.expires - NOW)
        for name, each in certificate_expiry.read_credentials(config)
    ]
    assert found == [
        ("office", "vpn", f"{vpn}: ca", 3),
        ("office", "vpn", f"{vpn}: cert", 4),
        ("egress", "tls", str(ca), 1),
        ("orders", "tls", str(ca), 1),
        ("docker", "tls", str(ca), 1),
        ("docker", "tls", str(ours), 2),
        ("ops", "tls", str(ca), 1),
        ("ops", "tls", str(ours), 2),
    ]


async def test_files_that_hang_are_reported_once_and_block_one_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config, goes_on, calls = read("backends: {a: {kind: tcp, targets: 'h:1'}}\n", tmp_path), threading.Event(), []
    found = [("a", MonitoredCertificate("tls", "/ca.pem", ValidityPeriod(0, time.time() + 99 * DAY)))]

    def hang(_: Config) -> list[certificate_expiry.NamedCredential]:
        calls.append(threading.current_thread())
        goes_on.wait()
        return found

    monkeypatch.setattr(certificate_expiry, "read_credentials", hang)
    monkeypatch.setattr(certificate_expiry, "_POLL_INTERVAL", 0.0)
    monkeypatch.setattr(certificate_expiry, "_READ_TIMEOUT", 0.01)
    watch = certificate_expiry.CertificateExpiryMonitor(lambda: config, list)
    with caplog.at_level(logging.WARNING):
        task = asyncio.create_task(watch.run(lambda: None))
        try:
            async with asyncio.timeout(20):
                while not (calls and caplog.records):
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            assert len(calls) == 1
            assert [each.getMessage().count("hang") for each in caplog.records] == [1]
            assert watch.found == []
            goes_on.set()
            async with asyncio.timeout(20):
                while watch.found != found:
                    await asyncio.sleep(0.01)
        finally:
            goes_on.set()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def test_the_metric_has_the_first_to_expire_of_each_name() -> None:
    seen = [
        CertificateView("tls", "orders", "a", 0, 3),
        CertificateView("tls", "orders", "b", 0, 2),
        CertificateView("vpn", "orders", "c", 0, 9),
    ]
    view = ServiceView(
        version="", python_version="", instance="", started_at=0, startup_done=True, draining=False,
        reload_successful=True, reload_success_at=0, reload_error="", tunnels=[], backends=[], loop_lag=Histogram(),
        credentials=seen,
    )  # fmt: skip
    (family,) = (each for each in families(view) if each.name == "gateway_credential_expiry_timestamp_seconds")
    assert [(sample.labels, sample.value) for sample in family.samples] == [
        ({"kind": "tls", "name": "orders"}, 2.0),
        ({"kind": "vpn", "name": "orders"}, 9.0),
    ]
