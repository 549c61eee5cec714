"""Tests the bytes that the gateway sends to SOCKS5 and HTTP proxies, and how it handles their replies."""

import asyncio
import base64
import socket
from collections.abc import AsyncIterator

import pytest

from gateway.contracts.config_types import HostPort
from gateway.errors import FailureReason
from gateway.proxy import http_connect, socks5
from gateway.proxy.credentials import ProxyCredentials
from gateway.proxy.proxy_connections import PlainProxyConnection
from gateway.proxy.reply_error import ProxyReplyError

DB = HostPort("db.internal", 3306)
LOGIN = ProxyCredentials("user", "pass")
GRANTED = b"\x05\x00\x00\x01" + bytes(6)
GREETING = b"greeting of the server"


class Peer:
    """A proxy that is connected to the gateway by a socket pair.

    Tests send the replies of the proxy before the gateway sends its requests.
    """

    def __init__(self) -> None:
        ours, self._sock = socket.socketpair()
        for sock in (ours, self._sock):
            sock.setblocking(False)
        self.stream = PlainProxyConnection(ours)

    def send(self, data: bytes, *, end: bool = False) -> None:
        self._sock.sendall(data)
        if end:
            self._sock.shutdown(socket.SHUT_WR)

    def received(self) -> bytes:
        try:
            return self._sock.recv(65536)
        except BlockingIOError:
            return b""

    async def unread(self) -> bytes:
        """Return the bytes that follow the proxy's reply, and that the gateway has not read."""
        return await asyncio.get_running_loop().sock_recv(self.stream.sock, 65536)

    def close(self) -> None:
        self.stream.close()
        self._sock.close()


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    made = Peer()
    async with asyncio.timeout(5):
        yield made
    made.close()


async def test_socks_without_a_login_offers_no_other_method(peer: Peer) -> None:
    peer.send(b"\x05\x00")
    await socks5.log_in(peer.stream, None)
    assert peer.received() == b"\x05\x01\x00"


async def test_socks_logs_in_only_if_the_proxy_requests_it(peer: Peer) -> None:
    peer.send(b"\x05\x00")
    await socks5.log_in(peer.stream, LOGIN)
    assert peer.received() == b"\x05\x02\x00\x02"
    peer.send(b"\x05\x02\x01\x00")
    await socks5.log_in(peer.stream, LOGIN)
    assert peer.received() == b"\x05\x02\x00\x02" + b"\x01\x04user\x04pass"


@pytest.mark.parametrize(
    ("reply", "login", "reason"),
    [
        (b"\x05\xff", LOGIN, FailureReason.AUTH),
        (b"\x05\x02", None, FailureReason.AUTH),
        (b"\x05\x01", LOGIN, FailureReason.AUTH),
        (b"\x04\x00", LOGIN, FailureReason.PROTOCOL),
        (b"\x05\x02\x01\x01", LOGIN, FailureReason.AUTH),
        (b"\x05\x02\x05\x00", LOGIN, FailureReason.AUTH),
    ],
)
async def test_socks_login_failures_have_a_reason(
    peer: Peer, reply: bytes, login: ProxyCredentials | None, reason: FailureReason
) -> None:
    peer.send(reply)
    with pytest.raises(ProxyReplyError) as failure:
        await socks5.log_in(peer.stream, login)
    assert failure.value.reason is reason
    assert "pass" not in str(failure.value).replace("password", "")


@pytest.mark.parametrize(
    ("host", "encoded"),
    [
        ("db.internal", b"\x03\x0bdb.internal"),
        ("bücher.example", b"\x03\x15xn--bcher-kva.example"),
        ("10.1.2.3", b"\x01\x0a\x01\x02\x03"),
        ("2001:db8::1", b"\x04\x20\x01\x0d\xb8" + bytes(11) + b"\x01"),
    ],
)
async def test_socks_encodes_names_and_addresses(peer: Peer, host: str, encoded: bytes) -> None:
    peer.send(GRANTED)
    await socks5.connect(peer.stream, HostPort(host, 3306))
    assert peer.received() == b"\x05\x01\x00" + encoded + b"\x0c\xea"


@pytest.mark.parametrize("host", ["a" * 64, ".".join(["a" * 60] * 5)], ids=["long label", "long name"])
async def test_socks_refuses_names_that_it_cannot_encode(peer: Peer, host: str) -> None:
    with pytest.raises(UnicodeError):
        await socks5.connect(peer.stream, HostPort(host, 3306))
    assert peer.received() == b""


@pytest.mark.parametrize(
    "address", [b"\x01" + bytes(4), b"\x03\x05proxy", b"\x04" + bytes(16)], ids=["IPv4", "name", "IPv6"]
)
async def test_socks_reads_no_byte_after_the_reply(peer: Peer, address: bytes) -> None:
    peer.send(b"\x05\x00\x00" + address + b"\x12\x34" + GREETING)
    await socks5.connect(peer.stream, DB)
    assert await peer.unread() == GREETING


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (b"\x05\x01\x00", FailureReason.CHANNEL_FAILED),
        (b"\x05\x02\x00", FailureReason.CHANNEL_PROHIBITED),
        (b"\x05\x03\x00", FailureReason.REFUSED),
        (b"\x05\x04\x00", FailureReason.REFUSED),
        (b"\x05\x05\x00", FailureReason.REFUSED),
        (b"\x05\x06\x00", FailureReason.TIMEOUT),
        (b"\x05\x07\x00", FailureReason.CHANNEL_FAILED),
        (b"\x05\x08\x00", FailureReason.CHANNEL_FAILED),
        (b"\x05\x63\x00", FailureReason.PROTOCOL),
        (b"\x04\x00\x00", FailureReason.PROTOCOL),
        (b"\x05\x00\x01", FailureReason.PROTOCOL),
        (b"\x05\x00\x00\x02", FailureReason.PROTOCOL),
    ],
)
async def test_socks_refusals_have_a_reason(peer: Peer, reply: bytes, reason: FailureReason) -> None:
    peer.send(reply)
    with pytest.raises(ProxyReplyError) as failure:
        await socks5.connect(peer.stream, DB)
    assert failure.value.reason is reason


@pytest.mark.parametrize("length", range(10))
async def test_a_socks_reply_that_is_cut_is_a_lost_connection(peer: Peer, length: int) -> None:
    peer.send(GRANTED[:length], end=True)
    with pytest.raises(ConnectionResetError):
        await socks5.connect(peer.stream, DB)


async def test_connect_requests_the_target(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n" + GREETING)
    await http_connect.connect(peer.stream, DB, None)
    assert peer.received().split(b"\r\n") == [
        b"CONNECT db.internal:3306 HTTP/1.1", b"Host: db.internal:3306", b"User-Agent: gateway", b"", b"",
    ]  # fmt: skip
    assert await peer.unread() == GREETING


async def test_connect_ignores_interim_responses(peer: Peer) -> None:
    peer.send(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n" + GREETING
    )
    await http_connect.connect(peer.stream, DB, None)
    assert await peer.unread() == GREETING


async def test_connect_accepts_a_limited_number_of_interim_responses(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)
    with pytest.raises(ProxyReplyError, match="longer than") as failure:
        await http_connect.connect(peer.stream, DB, None)
    assert failure.value.reason is FailureReason.PROTOCOL


async def test_connect_sends_basic_authentication(peer: Peer) -> None:
    peer.send(b"HTTP/1.0 200\r\n\r\n")
    await http_connect.connect(peer.stream, DB, LOGIN)
    assert b"\r\nProxy-Authorization: Basic " + base64.b64encode(b"user:pass") + b"\r\n" in peer.received()


async def test_connect_puts_ipv6_addresses_in_brackets(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
    await http_connect.connect(peer.stream, HostPort("2001:db8::1", 443), None)
    assert peer.received().startswith(b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"HTTP/1.1 401 Unauthorized", FailureReason.AUTH),
        (b"HTTP/1.1 407 Proxy Authentication Required", FailureReason.AUTH),
        (b"HTTP/1.1 403 Forbidden", FailureReason.CHANNEL_PROHIBITED),
        (b"HTTP/1.1 405 Method Not Allowed", FailureReason.CHANNEL_PROHIBITED),
        (b"HTTP/1.1 504 Gateway Timeout", FailureReason.TIMEOUT),
        (b"HTTP/1.1 502 Bad Gateway", FailureReason.CHANNEL_FAILED),
        (b"HTTP/1.1 302 Found", FailureReason.CHANNEL_FAILED),
        (b"HTTP/1.1 \xff", FailureReason.PROTOCOL),
        (b"HTTP/1.1", FailureReason.PROTOCOL),
        (b"HTTP/1.1 " + b"2" * 5000 + b" OK", FailureReason.PROTOCOL),
        (b"HTTP/1.1 099 OK", FailureReason.PROTOCOL),
        (b"SSH-2.0 200", FailureReason.PROTOCOL),
        (b"", FailureReason.PROTOCOL),
    ],
)
async def test_connect_refusals_have_a_reason(peer: Peer, line: bytes, reason: FailureReason) -> None:
    peer.send(line + b"\r\nServer: test\r\n\r\n")
    with pytest.raises(ProxyReplyError) as failure:
        await http_connect.connect(peer.stream, DB, LOGIN)
    assert failure.value.reason is reason
    assert "\r" not in str(failure.value)


async def test_connect_reads_a_limited_response(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 4000)
    with pytest.raises(ProxyReplyError, match="longer than 16384 bytes"):
        await http_connect.connect(peer.stream, DB, None)


@pytest.mark.parametrize("response", [b"", b"HTTP/1.1 200 OK\r\n"])
async def test_a_connect_response_that_is_cut_is_a_lost_connection(peer: Peer, response: bytes) -> None:
    peer.send(response, end=True)
    with pytest.raises(ConnectionResetError):
        await http_connect.connect(peer.stream, DB, None)


def test_a_login_does_not_show_its_password() -> None:
    assert "pass" not in repr(LOGIN)
