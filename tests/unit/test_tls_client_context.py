"""Tests whether TLS clients of the gateway verify servers, and report unusable certificate files."""

import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from gateway.errors import GatewayError
from gateway.ops.ops_api_client import OpsApiClient
from gateway.tls_client_context import TlsClientFiles, client_context

PLAIN = "[req]\ndistinguished_name=dn\nx509_extensions=ca\n[dn]\n[ca]\nbasicConstraints=critical,CA:true\n"


@pytest.fixture
def server(tmp_path: Path) -> object:
    """Run an HTTPS server on 127.0.0.1, and yield its port.

    The CA certificate lacks the extension "key usage", as with many private CAs. By default, Python 3.13 rejects it.
    """
    (tmp_path / "plain.cnf").write_text(PLAIN)
    new = ["-newkey", "rsa:2048", "-nodes"]
    for command in (
        ["req", "-x509", *new, "-config", "plain.cnf", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=own CA"],
        ["req", *new, "-keyout", "key.pem", "-out", "server.csr", "-subj", "/CN=gateway"],
        ["x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
         "-extfile", "san.cnf", "-out", "server.pem"],
    ):  # fmt: skip
        (tmp_path / "san.cnf").write_text("subjectAltName=IP:127.0.0.1\n")
        subprocess.run(["openssl", *command], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "key.pem")
    with HTTPServer(("127.0.0.1", 0), Teapot) as made:
        made.socket = context.wrap_socket(made.socket, server_side=True)
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield made.server_address[1]
        made.shutdown()
        thread.join()


class Teapot(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(418)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_trusts_only_the_given_ca(server: int, tmp_path: Path) -> None:
    def client(scheme: str, ca_file: str | None) -> OpsApiClient:
        return OpsApiClient(f"{scheme}://127.0.0.1:{server}", "/none", ca_file=ca_file)

    assert client("https", str(tmp_path / "ca.pem")).get("/")[0] == 418
    with pytest.raises(GatewayError, match=r"^https://\S+: the certificate is not trusted: .*--ca-file\)$"):
        client("https", None).get("/")
    with pytest.raises(GatewayError, match="use https://"):
        client("http", None).get("/")


def test_names_and_signatures_are_verified() -> None:
    context = client_context()
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED


def test_a_file_without_a_certificate_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("none")
    with pytest.raises(OSError, match="contains no usable PEM certificate"):
        client_context(tmp_path / "ca.pem")


def test_the_error_begins_with_the_key_of_the_file(tmp_path: Path) -> None:
    missing = tmp_path / "missing.pem"
    with pytest.raises(GatewayError, match=rf"^ca_file: {missing}: No such file"):
        TlsClientFiles(missing).context()
    with pytest.raises(GatewayError, match=rf"^cert_file: {missing}: No such file"):
        TlsClientFiles(cert_file=missing).context()
    present = tmp_path / "present.pem"
    present.write_text("none")
    with pytest.raises(GatewayError, match=rf"^key_file: {missing}: No such file"):
        TlsClientFiles(cert_file=present, key_file=missing).context()
    with pytest.raises(GatewayError, match=rf"^cert_file: {present}, key_file: {present}: "):
        TlsClientFiles(cert_file=present, key_file=present).context()


def test_without_verification_any_server_is_accepted() -> None:
    context = TlsClientFiles().context(verified=False)
    assert (context.check_hostname, context.verify_mode) == (False, ssl.CERT_NONE)
