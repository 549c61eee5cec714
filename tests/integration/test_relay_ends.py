"""Tests how connections close in cases that the relay contract cannot create, such as echoes and broken tunnels."""

import asyncio
import contextlib
import select
import socket
import ssl
import subprocess
import termios
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.contracts.config_types import HostPort
from gateway.contracts.states import CloseReason
from gateway.demo.server_process import find, free_port
from gateway.demo.sshd import Bastion
from gateway.metric_types import Histogram
from gateway.proxy.link import ProxyLink
from gateway.proxy.options import ProxyOptions
from gateway.proxy.tls_socket import TlsSocket
from gateway.relay import dead_peer_detector, stream_bridge
from gateway.relay.direct_link import DirectLink
from gateway.relay.socket_relay import SocketRelay
from gateway.ssh.options import PoolOptions
from tests.support.certificates import Authority
from tests.support.plans import Setup
from tests.support.requirements import need
from tests.support.ssh_far_sides import Scripted
from tests.support.ssh_sessions import opened, options
from tests.support.tcp_end import buffered_bytes
from tests.support.tls_proxy import ANSWER, tls_proxy

UPLOAD = bytes(range(256)) * 1300
pytestmark = pytest.mark.integration


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The two sockets of a client's connection: one of the client, and one of the gateway."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        client = socket.create_connection(door.getsockname())
        inner, _ = door.accept()
    with client:
        inner.setblocking(False)
        yield client, inner
        inner.close()  # has no effect if a relay has already closed the socket


async def test_the_upload_of_a_closed_client_reaches_a_backend_that_sends_first(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """The backend reads the upload only after it has sent its own data, which the closed client never reads."""
    client, inner = pair
    client.sendall(UPLOAD)
    client.close()
    received = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        dialed = socket.socket()
        dialed.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        dialed.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        dialed.connect(server.getsockname())
        backend, _ = server.accept()
    dialed.setblocking(False)
    backend.settimeout(15)

    def send_first() -> None:
        with backend, contextlib.suppress(OSError):
            # The client's kernel answers the first byte with a reset, so later writes to the client fail.
            for _ in range(3):
                backend.sendall(b"x")
                time.sleep(0.1)
            backend.sendall(bytes(8 << 20))
            while data := backend.recv(65536):
                received.extend(data)

    relay = SocketRelay(inner, dialed, Histogram())
    thread = threading.Thread(target=send_first)
    thread.start()
    async with asyncio.timeout(30):
        assert await relay.ended is CloseReason.CLIENT_RESET
        await asyncio.to_thread(thread.join)
    assert received == UPLOAD


@pytest.mark.parametrize("kind", ["socks5", "http"])
async def test_a_lost_ssh_connection_under_a_proxy_resets_the_response(
    tmp_path: Path, pair: tuple[socket.socket, socket.socket], kind: str
) -> None:
    client, inner = pair
    client.setblocking(False)
    loop = asyncio.get_running_loop()

    def proxy(sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            if kind == "socks5":
                sock.recv(100)
                sock.sendall(b"\x05\x00")
                sock.recv(100)
                sock.sendall(b"\x05\x00\x00\x01" + bytes(6))
            else:
                asked = b""
                while not asked.endswith(b"\r\n\r\n"):
                    asked += sock.recv(1)
                sock.sendall(b"HTTP/1.1 200 yes\r\n\r\n")
            sock.sendall(b"half of it")
            sock.recv(1)

    bastion = await asyncio.to_thread(Bastion(tmp_path / "bastion").start)
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            serve = threading.Thread(target=lambda: proxy(server.accept()[0]))
            serve.start()
            chosen = options(bastion, connections=PoolOptions(1, 1))
            async with asyncio.timeout(30), opened(chosen) as ssh:
                url = f"{kind}://127.0.0.1:{server.getsockname()[1]}"
                relay = await ProxyLink(ProxyOptions(url=url), ssh).join(inner, HostPort("db", 1), Histogram())
                assert await loop.sock_recv(client, 100) == b"half of it"
                assert bastion.kill_sessions() > 0
                with pytest.raises(ConnectionResetError):
                    await loop.sock_recv(client, 100)
                assert await relay.ended is CloseReason.BACKEND_RESET
            await asyncio.to_thread(serve.join)
    finally:
        await asyncio.to_thread(bastion.stop)


async def test_a_slow_client_that_has_half_closed_gets_the_whole_response_before_tls_13(
    tmp_path: Path, pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway sends close_notify when the far side has sent no data for `_SILENCE_TIMEOUT`.

    The time in which the client does not read must not count.
    """
    monkeypatch.setattr(stream_bridge, "_SILENCE_TIMEOUT", 0.3)
    monkeypatch.setattr(stream_bridge, "_POLL_INTERVAL", 0.05)
    ends: list[bytes] = []

    def answer(far: ssl.SSLSocket) -> None:
        far.settimeout(20)
        assert far.recv(100) == b"question"
        far.sendall(ANSWER)
        ends.append(far.recv(1))  # `recv` returns when close_notify arrives
        far.sendall(ANSWER)
        far.unwrap()

    client, inner = pair
    client.setblocking(False)
    inner.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    loop = asyncio.get_running_loop()
    with tls_proxy(tmp_path / "ca", answer, ssl.TLSVersion.TLSv1_2) as (port, authority):
        link = ProxyLink(ProxyOptions(url=f"https://127.0.0.1:{port}", ca_file=authority), DirectLink())
        relay = await link.join(inner, HostPort("db", 1), Histogram())
        await loop.sock_sendall(client, b"question")
        unread = [-1, -2]
        async with asyncio.timeout(20):
            while not unread[0] == unread[1] > 0:  # wait until the response fills the client's buffer
                await asyncio.sleep(0.2)
                unread = [unread[1], buffered_bytes(client.fileno(), termios.FIONREAD)]
        client.shutdown(socket.SHUT_WR)
        await asyncio.sleep(1)  # the client does not read for a second
        assert ends == []
        got = bytearray()
        async with asyncio.timeout(30):
            while data := await loop.sock_recv(client, 65536):
                got += data
            assert await relay.ended is CloseReason.FINISHED
    assert got == ANSWER * 2
    assert ends == [b""]


async def test_asyncssh_channels_hold_no_data_that_a_close_would_lose(tmp_path: Path) -> None:
    """If the SSH server closes the channel before it has received all data, the client must get a reset."""
    adapter = Scripted(tmp_path / "scripted", "asyncssh")
    await adapter.open()
    try:
        async with asyncio.timeout(30):
            joined = await adapter.join(Setup(window=65536, paused=True, small=False), lambda: None, None)
            joined.client.send(150_000)
            while joined.client.queued:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            assert not joined.relay._channel._send_buf  # type: ignore[attr-defined]
            joined.far.send(100)
            joined.far.close()  # type: ignore[attr-defined]
            await joined.relay.ended
            while joined.client.seen is None:
                await asyncio.sleep(0.01)
            assert joined.client.received == 100
            while not joined.client.refused:  # the client's data is lost, so the gateway resets the client
                joined.client.send(1)
                await asyncio.sleep(0.05)
        joined.client.dispose()
        joined.far.dispose()
        await adapter.restore(reconnect=True)
    finally:
        await adapter.close()


@contextlib.asynccontextmanager
async def is_reset(sock: socket.socket) -> AsyncIterator[None]:
    """Check that `sock` is not reset before the `with` block, and is reset at most 10 s after the block."""
    poller = select.poll()
    poller.register(sock, 0)  # without events, poll(2) reports only errors and hang-ups
    assert not poller.poll(0)
    yield
    async with asyncio.timeout(10):
        while not poller.poll(0):
            await asyncio.sleep(0.05)
    assert poller.poll(0)[0][1] & select.POLLERR


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["tls 1.2", "tls 1.3"])
async def test_a_finished_upload_arrives_although_its_client_does_not_read(
    tmp_path: Path, pair: tuple[socket.socket, socket.socket], version: ssl.TLSVersion
) -> None:
    """The client closes its socket after the upload. The far side then sends data before it reads the upload."""
    client, inner = pair
    got: list[int] = []
    closed, done = threading.Event(), threading.Event()

    def answer_first(far: ssl.SSLSocket) -> None:
        try:
            far.settimeout(20)
            assert closed.wait(20)
            for _ in range(3):
                # `sendall` fails if the gateway has already closed this connection.
                with contextlib.suppress(OSError):
                    far.sendall(b"progress")
                time.sleep(0.1)
            while data := far.recv(65536):
                got.append(len(data))
            got.append(0)
        finally:
            done.set()

    with tls_proxy(tmp_path / "ca", answer_first, version) as (port, authority):
        link = ProxyLink(ProxyOptions(url=f"https://127.0.0.1:{port}", ca_file=authority), DirectLink())
        relay = await link.join(inner, HostPort("db", 1), Histogram())
        await asyncio.to_thread(client.sendall, UPLOAD)
        client.close()
        async with asyncio.timeout(20):
            while not relay._upload.source_eof:  # type: ignore[attr-defined]
                await asyncio.sleep(0.01)
            closed.set()
            assert await relay.ended is CloseReason.CLIENT_RESET
            await asyncio.to_thread(done.wait)
    assert (sum(got), got[-1]) == (len(UPLOAD), 0)


@pytest.mark.parametrize("goes_on", [True, False], ids=["uploading", "silent"])
async def test_a_client_with_a_failed_upload_gets_its_response_and_a_reset(
    tmp_path: Path, pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch, goes_on: bool
) -> None:
    """After a write to the far side has failed, the gateway discards all further data from the client."""
    client, inner = pair
    loop = asyncio.get_running_loop()
    sent = threading.Event()

    def answer(far: ssl.SSLSocket) -> None:
        far.settimeout(20)
        far.sendall(ANSWER[:1000])
        assert sent.wait(20)
        far.sendall(ANSWER[1000:])
        with contextlib.suppress(OSError):
            far.unwrap()

    async def fail(*_: object) -> None:
        raise ssl.SSLError("an upload that fails")

    with tls_proxy(tmp_path / "ca", answer) as (port, authority):
        link = ProxyLink(ProxyOptions(url=f"https://127.0.0.1:{port}", ca_file=authority), DirectLink())
        relay = await link.join(inner, HostPort("db", 1), Histogram())
        monkeypatch.setattr(TlsSocket, "write", fail)
        client.settimeout(10)
        await asyncio.to_thread(client.sendall, UPLOAD if goes_on else b"question")
        if goes_on:
            await asyncio.to_thread(client.sendall, bytes(32 << 20))
        async with is_reset(client):
            sent.set()
            client.setblocking(False)
            got = bytearray()
            async with asyncio.timeout(20):
                while data := await loop.sock_recv(client, 65536):
                    got += data
                await relay.ended
    assert got == ANSWER


async def test_a_tls_renegotiation_by_the_far_side_loses_no_upload(
    tmp_path: Path, pair: tuple[socket.socket, socket.socket]
) -> None:
    """The gateway refuses the renegotiation. The far side then closes the connection, and the client gets a reset."""
    openssl = find("openssl")
    need(openssl is not None, "openssl (package openssl)")
    client, inner = pair
    loop = asyncio.get_running_loop()
    client.setblocking(False)
    certificate, key = Authority(tmp_path / "ca").issue("127.0.0.1", server=True, host="127.0.0.1")
    port = free_port()
    command = [
        openssl or "", "s_server", "-accept", str(port), "-cert", str(certificate), "-key", str(key), "-tls1_2",
    ]  # fmt: skip
    with subprocess.Popen(  # noqa: ASYNC220 - `Popen` blocks only briefly
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        said = bytearray()

        def until(words: bytes) -> None:
            assert server.stdout is not None
            while words not in said:
                data = server.stdout.read(4096)
                assert data, said
                said.extend(data)

        try:
            async with asyncio.timeout(30):
                await asyncio.to_thread(until, b"ACCEPT")
                url = f"https://127.0.0.1:{port}"
                link = ProxyLink(ProxyOptions(url=url, ca_file=tmp_path / "ca/ca.pem"), DirectLink())
                joining = asyncio.create_task(link.join(inner, HostPort("db", 1), Histogram()))
                await asyncio.to_thread(until, b"CONNECT db:1")
                server.stdin.write(b"HTTP/1.1 200 yes\r\n\r\n")
                relay = await joining
                server.stdin.write(b"r\n")
                await asyncio.to_thread(until, b"SSL_do_handshake")
                with pytest.raises(ConnectionError):
                    while True:
                        await loop.sock_sendall(client, b"more")
                        await asyncio.sleep(0.05)
                assert await relay.ended is CloseReason.BACKEND_RESET
        finally:
            server.kill()


async def test_a_far_side_that_pauses_is_not_closed(
    tmp_path: Path, pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The far side reads nothing for longer than `DEAD_AFTER`, but still acknowledges window probes."""
    for name, seconds in (("DEAD_AFTER", 1.5), ("_SCAN_INTERVAL", 0.025)):
        monkeypatch.setattr(dead_peer_detector, name, seconds)
    client, inner = pair
    size = 8 << 20

    def pause(far: ssl.SSLSocket) -> None:
        time.sleep(4)
        left = size
        while left and (data := far.recv(65536)):
            left -= len(data)
        far.sendall(b"done")
        far.unwrap()

    with tls_proxy(tmp_path / "ca", pause) as (port, authority):
        link = ProxyLink(ProxyOptions(url=f"https://127.0.0.1:{port}", ca_file=authority), DirectLink())
        await link.join(inner, HostPort("db", 1), Histogram())
        client.settimeout(20)

        def upload() -> bytes:
            client.sendall(bytes(size))
            client.shutdown(socket.SHUT_WR)
            return client.recv(100)

        assert await asyncio.to_thread(upload) == b"done"


async def test_little_data_is_buffered_between_a_tunnel_and_a_tls_proxy(tmp_path: Path) -> None:
    """The buffers must be small, because new data of an SSH connection reaches the proxy after all buffered data."""
    stop = threading.Event()
    window = 64 << 10

    def take_nothing(far: ssl.SSLSocket) -> None:
        far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window // 2)  # the kernel doubles the value (socket(7))
        stop.wait(20)

    with tls_proxy(tmp_path / "ca", take_nothing) as (port, authority):
        link = ProxyLink(ProxyOptions(url=f"https://127.0.0.1:{port}", ca_file=authority), DirectLink())
        with await link.socket(HostPort("bastion", 22)) as user:
            taken, quiet = 0, 0
            while quiet < 10:
                await asyncio.sleep(0.02)
                quiet += 1
                with contextlib.suppress(BlockingIOError):
                    while True:
                        taken += user.send(bytes(4096))
                        quiet = 0
        stop.set()
    assert window < taken < window + (192 << 10)


async def test_asyncssh_channels_reset_the_client_if_an_upload_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All writes to the SSH channel fail. The client must get the whole response, and then a reset."""
    adapter = Scripted(tmp_path / "scripted", "asyncssh")
    await adapter.open()
    try:
        async with asyncio.timeout(30):
            joined = await adapter.join(Setup(small=False), lambda: None, None)

            def refuse(*_: object) -> None:
                raise BrokenPipeError

            monkeypatch.setattr(joined.relay._channel, "write", refuse)  # type: ignore[attr-defined]
            joined.client.send(1000)
            while not joined.relay.to_backend:
                await asyncio.sleep(0.01)
            joined.far.send(100)
            async with is_reset(joined.client._sock):
                joined.far.close()  # type: ignore[attr-defined]
                assert await joined.relay.ended is CloseReason.FINISHED
                while joined.client.seen is None:
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.5)
            assert joined.client.received == 100
        joined.client.dispose()
        joined.far.dispose()
        await adapter.restore(reconnect=True)
    finally:
        await adapter.close()
