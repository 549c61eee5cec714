"""Tests the errors of the client for a running service."""

import socket

import pytest

from gateway.errors import ServiceUnreachableError
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
            expected = f"cannot connect to a gateway at {scheme}://127.0.0.1:{port} ({reason}): start it with"
            assert str(raised.value).startswith(expected)
