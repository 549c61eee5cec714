"""Ends of connections that the contract's plans cannot make: an echoing backend, broken tunnels, long pauses."""

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from far_sides import Scripted
from plans import Setup
from test_proxy import ANSWER, tls_proxy

from gateway.contracts import Ending, Endpoint
from gateway.demo.sshd import Bastion
from gateway.measure import Histogram
from gateway.proxy import splice
from gateway.proxy.link import ProxyLink
from gateway.proxy.options import ProxyOptions
from gateway.relay.direct import DirectLink
from gateway.relay.straight import StraightRelay
from gateway.ssh.options import Connections, SshOptions
from gateway.tunnels.ssh import SshTunnel

UPLOAD = bytes(range(256)) * 1300
pytestmark = pytest.mark.rig


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client, and the gateway's end of its connection."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        client = socket.create_connection(door.getsockname())
        inner, _ = door.accept()
    with client:
        inner.setblocking(False)
        yield client, inner


async def test_an_upload_whose_client_has_closed_reaches_a_backend_that_sends_first(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """The backend reads only once its own data is taken, although its client takes none of it."""
    client, inner = pair
    client.sendall(UPLOAD)
    client.close()
    received = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        dialled = socket.socket()
        dialled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        dialled.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        dialled.connect(server.getsockname())
        backend, _ = server.accept()
    dialled.setblocking(False)
    backend.settimeout(15)

    def send_first() -> None:
        with backend, contextlib.suppress(OSError):
            for _ in range(3):  # the client's reset comes back, and then a write fails
                backend.sendall(b"x")
                time.sleep(0.1)
            backend.sendall(bytes(8 << 20))
            while data := backend.recv(65536):
                received.extend(data)

    relay = StraightRelay(inner, dialled, Histogram())
    thread = threading.Thread(target=send_first)
    thread.start()
    async with asyncio.timeout(30):
        assert await relay.ended is Ending.CLIENT_RESET
        await asyncio.to_thread(thread.join)
    assert received == UPLOAD


@pytest.mark.parametrize("kind", ["socks5", "http"])
async def test_a_lost_ssh_connection_under_a_proxy_is_no_end_of_a_response(
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
            options = SshOptions(
                host="127.0.0.1",
                port=bastion.port,
                user=bastion.user,
                identity_files=(bastion.client_key,),
                known_hosts=(bastion.known_hosts,),
                connections=Connections(1, 1),
            )
            async with asyncio.timeout(30), SshTunnel(options).open(DirectLink(), lambda *_: None) as ssh:
                url = f"{kind}://127.0.0.1:{server.getsockname()[1]}"
                relay = await ProxyLink(ProxyOptions(url=url), ssh).join(inner, Endpoint("db", 1), Histogram())
                assert await loop.sock_recv(client, 100) == b"half of it"
                assert bastion.kill_sessions() > 0
                with pytest.raises(ConnectionResetError):
                    await loop.sock_recv(client, 100)
                assert await relay.ended is Ending.BACKEND_RESET
            await asyncio.to_thread(serve.join)
    finally:
        await asyncio.to_thread(bastion.stop)


async def test_a_slow_client_that_has_half_closed_gets_the_whole_response_before_tls_13(
    tmp_path: Path, pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What counts is the silence of the far side, not the pause of the client; then close_notify is sent."""
    monkeypatch.setattr(splice, "_PATIENCE", 0.3)
    monkeypatch.setattr(splice, "_LOOK", 0.05)
    ends: list[bytes] = []

    def answer(far: ssl.SSLSocket) -> None:
        far.settimeout(20)
        assert far.recv(100) == b"question"
        far.sendall(ANSWER)
        ends.append(far.recv(1))  # close_notify, after a while of silence
        far.sendall(ANSWER)
        far.unwrap()

    client, inner = pair
    client.setblocking(False)
    inner.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    loop = asyncio.get_running_loop()
    with tls_proxy(tmp_path / "ca", answer, ssl.TLSVersion.TLSv1_2) as (port, authority):
        link = ProxyLink(ProxyOptions(url=f"https://127.0.0.1:{port}", ca_file=authority), DirectLink())
        relay = await link.join(inner, Endpoint("db", 1), Histogram())
        await loop.sock_sendall(client, b"question")
        client.shutdown(socket.SHUT_WR)
        await asyncio.sleep(1)  # the client's pause
        assert ends == []
        got = bytearray()
        async with asyncio.timeout(30):
            while data := await loop.sock_recv(client, 65536):
                got += data
            assert await relay.ended is Ending.FINISHED
    assert got == ANSWER * 2
    assert ends == [b""]


async def test_asyncsshs_channels_keep_nothing_that_a_close_would_lose(
    tmp_path: Path, pair: tuple[socket.socket, socket.socket]
) -> None:
    """A peer that closes while its window is used up has not taken everything: its client must see a reset."""
    adaptor = Scripted(tmp_path / "scripted", "asyncssh's")
    await adaptor.open()
    try:
        async with asyncio.timeout(30):
            joined = await adaptor.join(Setup(window=65536, paused=True, small=False), lambda: None, None)
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
            while not joined.client.refused:  # what it sent is lost, and so its connection is reset
                joined.client.send(1)
                await asyncio.sleep(0.05)
        joined.client.dispose()
        joined.far.dispose()
        await adaptor.restore(reconnect=True)
    finally:
        await adaptor.close()
