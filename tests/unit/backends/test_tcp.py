"""Tests the probe of `kind: tcp` with text to send and to expect, and with TLS."""

import socket
import ssl
import time
from pathlib import Path

import pytest

from gateway.backend_support.tls_options import HealthCheckTlsOptions
from gateway.backends import EmptyOptions
from gateway.backends.tcp import TcpBackend, TcpCheckOptions, unescape
from gateway.contracts.states import HealthState
from gateway.errors import FailureReason
from tests.support import certificates
from tests.support.probes import probe
from tests.support.servers import dripping, serving, silent, talking


def backend(
    send: str | None = None, expect: str | None = None, tls: HealthCheckTlsOptions | None = None
) -> TcpBackend:
    return TcpBackend(EmptyOptions(), TcpCheckOptions(send, expect, tls=tls or HealthCheckTlsOptions()))


def ponging(client: socket.socket) -> None:
    while data := client.recv(100):
        client.sendall(b"+PO" if data == b"PING\r\n" else b"-ERR\r\n")
        client.sendall(b"NG\r\n")


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("PING\r\n", b"PING\r\n"), (r"PING\r\n", b"PING\r\n"), (r"\x00\xfF\0\t\\", b"\0\xff\0\t\\"),
        (r"\\r", b"\\r"), ("é", "é".encode()), ("", b""),
    ],
)  # fmt: skip
def test_escapes(text: str, data: bytes) -> None:
    assert unescape(text) == data


@pytest.mark.parametrize("text", ["\\", r"a\q", r"\x0", r"\xg0", r"\\\ "])
def test_a_wrong_escape_is_an_error_with_its_key(text: str) -> None:
    with pytest.raises(ValueError, match=r"send: .* is not an escape"):
        TcpCheckOptions(send=text)
    with pytest.raises(ValueError, match=r"expect: .* is not an escape"):
        TcpCheckOptions(expect=text)


async def test_the_response_decides() -> None:
    with serving(ponging) as port:
        assert (await probe(backend(r"PING\r\n", "PONG"), port)).state is HealthState.UP
        assert (await probe(backend("PING\r\n"), port)).state is HealthState.UP
    with serving(talking(b"220 ready\r\n")) as port:
        assert (await probe(backend(expect="220 "), port)).state is HealthState.UP
        result = await probe(backend(expect="PONG"), port, timeout=3)
    assert (result.state, result.reason) == (HealthState.DOWN, FailureReason.PROTOCOL)
    assert result.detail == r"the response b'220 ready\r\n' does not contain check.expect"
    with serving(talking(b"-ERR\r\n\x1b[2J", then_close=True)) as port:
        result = await probe(backend(expect="PONG"), port)
    assert (result.state, result.reason) == (HealthState.DOWN, FailureReason.PROTOCOL)
    assert result.detail == r"the response b'-ERR\r\n\x1b[2J' does not contain check.expect"
    with serving(talking(b"x" * 100_000)) as port:
        result = await probe(backend(expect="PONG"), port)
    assert (result.state, result.reason) == (HealthState.DOWN, FailureReason.PROTOCOL)
    assert len(result.detail) < 200
    for server, limit, reason in (
        (dripping(b""), 3.0, FailureReason.PROTOCOL),
        (silent, 0.5, FailureReason.TIMEOUT),
    ):
        with serving(server) as port:
            assert (await probe(backend(expect="PONG"), port, timeout=limit)).reason is reason


async def test_a_pattern_matches_bytes_in_linear_time() -> None:
    def pattern(text: str) -> TcpBackend:
        return TcpBackend(EmptyOptions(), TcpCheckOptions(r"PING\r\n", expect_pattern=text))

    with serving(ponging) as port:
        assert (await probe(pattern(r"^\+PO+NG\r\n$"), port)).state is HealthState.UP

    def respond(client: socket.socket) -> None:
        client.recv(100)
        client.sendall(b"\xff\0" + b"a" * 15_000)

    with serving(respond) as port:
        assert (await probe(pattern(r"\xff\x00a"), port)).state is HealthState.UP
        result = await probe(pattern("((a*)*)*b"), port)
    assert (result.state, result.reason) == (HealthState.DOWN, FailureReason.PROTOCOL)
    assert result.detail.endswith("does not match check.expect_pattern")
    for text, words in (
        ("(", "missing \\)"), (r"(a)\1", "invalid escape"), ("((a{100}){100}){100}", "invalid repetition|too large"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"expect_pattern: is not a valid RE2 regular expression: .*{words}"):
            TcpCheckOptions(expect_pattern=text)
    with pytest.raises(ValueError, match="expect_pattern: is set together with expect"):
        TcpCheckOptions(expect="a", expect_pattern="a")


async def test_a_response_in_many_pieces_is_refused() -> None:
    def in_pieces(client: socket.socket) -> None:
        for _ in range(500):
            client.sendall(b"x")
            time.sleep(0.005)

    with serving(in_pieces) as port:
        result = await probe(backend(expect="PONG"), port)
    assert (result.state, result.reason) == (HealthState.DOWN, FailureReason.PROTOCOL), result.detail


async def test_tls_verifies_the_server_and_reports_its_certificate(tmp_path: Path) -> None:
    issued = certificates.issue(tmp_path / "issued")
    other = certificates.issue(tmp_path / "other")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.certificate, issued.key)

    def over_tls(client: socket.socket) -> None:
        with context.wrap_socket(client, server_side=True) as secure:
            ponging(secure)

    with serving(over_tls) as port:
        for tls in (HealthCheckTlsOptions("verify", issued.ca, certificates.NAME), HealthCheckTlsOptions("require")):
            result = await probe(backend("PING\r\n", "PONG", tls), port)
            assert result.state is HealthState.UP, result.detail
            assert result.probe_result is not None
            assert result.probe_result.certificate is not None
        for tls in (
            HealthCheckTlsOptions("verify", other.ca, certificates.NAME),
            HealthCheckTlsOptions("verify", issued.ca),
        ):
            result = await probe(backend("PING\r\n", "PONG", tls), port)
            assert (result.state, result.reason) == (HealthState.DOWN, FailureReason.TLS), result.detail
        missing = await probe(backend(tls=HealthCheckTlsOptions("verify", tmp_path / "missing.pem")), port)
        assert (missing.reason, "check.tls.ca_file" in missing.detail) == (FailureReason.TLS, True)
    with serving(ponging) as port:
        assert (await probe(backend(tls=HealthCheckTlsOptions("require")), port)).reason is FailureReason.TLS
