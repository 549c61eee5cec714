"""Tests the client for a running service."""

import socket

import pytest

from gateway.errors import ServiceUnreachableError, UsageError
from gateway.ops.ops_api_client import OpsApiClient
from tests.support.servers import serving


def speak_ssh(client: socket.socket) -> None:
    client.sendall(b"SSH-2.0-server\r\n")
    client.recv(65536)


def test_the_error_contains_no_text_of_a_server_that_is_not_a_gateway() -> None:
    with serving(speak_ssh) as port:
        for scheme, reason in (
            ("http", "the response is not HTTP"),
            ("https", "the TLS handshake failed (wrong version number)"),
        ):
            with pytest.raises(ServiceUnreachableError) as raised:
                OpsApiClient(f"{scheme}://127.0.0.1:{port}", None).get("/api/v1/status")
            expected = f"cannot connect to a gateway at {scheme}://127.0.0.1:{port} ({reason}): start the gateway"
            assert str(raised.value).startswith(expected)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://[::1]", ("::1", 80)),
        ("https://[::1]/", ("::1", 443)),
        ("[::1]:9090", ("::1", 9090)),
        ("host", ("host", 80)),
    ],
)
def test_the_client_connects_to_the_address_of_the_url(
    url: str, address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    dialed = []

    def refuse(address: tuple[str, int], *_: object) -> socket.socket:
        dialed.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(ServiceUnreachableError):
        OpsApiClient(url, None).get("/api/v1/status")
    assert dialed == [address]


@pytest.mark.parametrize("url", ["http://host/päth", "http://host/a b", "http://", "ftp://host", "http://host:x"])
def test_an_invalid_url_is_an_error_of_the_caller(url: str) -> None:
    with pytest.raises(UsageError, match="is not valid: use an http:// or https:// URL"):
        OpsApiClient(url, None).get("/api/v1/status")
