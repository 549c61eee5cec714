"""Tests the HTTP client that requests data from the members of a fleet."""

import asyncio
import contextlib
import errno
import json
import socket
import ssl
from pathlib import Path

import aiohttp
import pytest

from gateway.contracts.config_types import HostPort
from gateway.fleet.error_descriptions import describe
from gateway.fleet.member_addresses import Member
from gateway.fleet.member_client import MemberClient, MemberCredentials, MemberRequestError
from gateway.tls_client_context import client_context
from tests.support import certificates

WITHIN = 20.0
CORRECT_PORT = "use the port of the member's ops.listen, and https:// if it has ops.tls"
BODY = json.dumps({
    "instance": "a", "version": "1", "status": "ready", "started_at": "2026-01-01T00:00:00Z", "clients": 3,
    "warnings": 0, "reload_successful": True, "tunnels": {}, "backends": {}, "problems": [],
}).encode()  # fmt: skip


async def test_a_connection_is_closed_after_its_answer() -> None:
    ended = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n"
        writer.write(head.encode() + BODY)
        await reader.read()  # Wait until the client closes the connection.
        ended.set()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, asyncio.timeout(WITHIN):
        port = server.sockets[0].getsockname()[1]
        async with MemberClient(WITHIN) as client:
            assert (await client.ask(Member("http", HostPort("127.0.0.1", port)))).instance == "a"
            await ended.wait()


async def test_a_host_name_that_is_not_valid_is_reported() -> None:
    async with MemberClient(WITHIN) as client:
        with pytest.raises(MemberRequestError, match="the host name is not valid: correct the address"):
            await client.ask(Member("http", HostPort("a..b", 1)))


async def test_each_error_of_a_request_says_what_to_do(tmp_path: Path) -> None:
    issued = certificates.issue(tmp_path / "server", "localhost")
    server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_tls.load_cert_chain(issued.certificate, issued.key)

    async def speak_ssh(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-server\r\n")
        with contextlib.suppress(OSError):
            await reader.read()
        writer.close()

    async def send_half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nx")
        await writer.drain()
        writer.close()

    async def error_of(url: str, port: int, ca_file: Path | None = None) -> str:
        client.credentials = MemberCredentials(tls=client_context(ca_file))
        scheme, _, host = url.partition("://")
        with pytest.raises(MemberRequestError) as raised:
            await client.ask(Member(scheme, HostPort(host, port)))
        return str(raised.value)

    async with (
        asyncio.timeout(WITHIN),
        await asyncio.start_server(speak_ssh, "127.0.0.1", 0) as ssh,
        await asyncio.start_server(send_half, "127.0.0.1", 0) as half,
        await asyncio.start_server(send_half, "127.0.0.1", 0, ssl=server_tls) as tls,
        MemberClient(WITHIN) as client,
    ):
        ssh_port, half_port, tls_port = (each.sockets[0].getsockname()[1] for each in (ssh, half, tls))
        assert await error_of("http://127.0.0.1", ssh_port) == f"the response is not HTTP: {CORRECT_PORT}"
        assert await error_of("https://127.0.0.1", ssh_port) == (
            "the TLS handshake failed (wrong version number): check the port, and that the member has ops.tls"
        )
        assert (await error_of("http://127.0.0.1", tls_port)).endswith(CORRECT_PORT)
        assert await error_of("https://localhost", tls_port) == (
            "the certificate is not trusted (unable to get local issuer certificate): set fleet.tls.ca_file"
            " (gateway fleet --ca-file) to the authority that signed it"
        )
        assert (await error_of("https://127.0.0.1", tls_port, issued.ca)).endswith(
            "is not valid for '127.0.0.1'): use a name in the certificate as the address of the member"
        )
        assert (await error_of("http://127.0.0.1", half_port)).startswith("the connection ended in the middle")
        ssh.close()
        assert await error_of("http://127.0.0.1", ssh_port) == (
            "Connection refused: start the gateway there, or correct the address of the member"
        )


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            aiohttp.ClientOSError("Multiple exceptions: [Errno 101] Unreachable, [Errno 111] Refused"),
            "Network is unreachable, Connection refused: correct the address of the member, or the IP route to it",
        ),
        (
            socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
            "Name or service not known: correct the host name, or the DNS settings of the gateway's host",
        ),
        (
            aiohttp.ClientOSError(errno.ECONNRESET, "Connection reset by peer"),
            f"the server closed the connection without a response: {CORRECT_PORT}",
        ),
    ],
)
def test_an_error_of_the_network_says_what_to_do(error: OSError, text: str) -> None:
    assert describe(error, Member("http", HostPort("localhost", 9090))) == text
