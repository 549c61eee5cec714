"""SSH connections on slow paths: every client gets its share, and new keys are agreed on a full uplink."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Lateness, need
from servers import serving
from test_ssh import opened, options

from gateway.contracts import Duration
from gateway.demo.process import find
from gateway.demo.sshd import Bastion
from gateway.relay.sockets import reset
from gateway.ssh import doors
from gateway.ssh.options import Cipher, Connections, Keepalive, SshOptions
from tests.chaos.front import fronting
from tests.chaos.slow_link import Shape, SlowLink

pytestmark = pytest.mark.rig

CIPHERS: list[Cipher] = ["aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com"]
ASK, ANSWER = 200, 4096


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Bastion]:
    need(find("sshd") is not None, "sshd (package openssh-server)")
    server = Bastion(tmp_path / "bastion").start()
    yield server
    server.stop()


def over(path: SlowLink, bastion: Bastion, **changes: Any) -> SshOptions:
    """One connection to `bastion` by the slow path."""
    pin = (bastion.folder / "host_key.pub").read_text().strip()
    plain = options(bastion, port=path.port, known_hosts=(), host_keys=(pin,), connections=Connections(1, 1))
    return replace(plain, **changes)


class Arrivals:
    """A backend: counts what each upload brings, by the byte that it begins with, and answers queries."""

    def __init__(self) -> None:
        self.bytes = dict.fromkeys(range(1, 256), 0)

    def __call__(self, client: socket.socket) -> None:
        client.settimeout(None)
        (name,) = client.recv(1)
        if name:
            while data := client.recv(65536):
                self.bytes[name] += len(data)
        else:
            while client.recv(ASK, socket.MSG_WAITALL):
                client.sendall(bytes(ANSWER))


class Clients(contextlib.ExitStack):
    """Clients in threads, reset at the end of the block."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port
        self._asked: dict[int, float] = {}
        self.waits: dict[int, list[float]] = {}
        """Of each query client, seconds that each of its answers took."""

    def upload(self, name: int) -> None:
        """One that sends without end."""
        self._start(self._send, name)

    def query(self, name: int) -> None:
        """One that asks, waits for the answer, and asks again."""
        self.waits[name] = []
        self._start(self._ask, name)

    def worst(self, name: int) -> float:
        """The longest that a query client waited for an answer, the one that it waits for now included."""
        return max(*self.waits[name], time.monotonic() - self._asked[name], 0.0)

    def _start(self, act: Any, name: int) -> None:
        client = socket.create_connection(("127.0.0.1", self._port))
        thread = threading.Thread(target=act, args=(client, name))
        thread.start()
        self.callback(self._stop, client, thread)

    @staticmethod
    def _stop(client: socket.socket, thread: threading.Thread) -> None:
        with contextlib.suppress(OSError):  # the other side may have ended it
            client.shutdown(socket.SHUT_RDWR)
        thread.join()
        client.close()

    @staticmethod
    def _send(client: socket.socket, name: int) -> None:
        with contextlib.suppress(OSError):
            client.sendall(bytes([name]))
            while True:
                client.sendall(bytes(65536))

    def _ask(self, client: socket.socket, name: int) -> None:
        with contextlib.suppress(OSError):
            client.sendall(b"\0")
            while True:
                asked = self._asked[name] = time.monotonic()
                client.sendall(bytes(ASK))
                if len(client.recv(ANSWER, socket.MSG_WAITALL)) < ANSWER:
                    return
                self.waits[name].append(time.monotonic() - asked)
                time.sleep(0.05)


@pytest.mark.parametrize("cipher", CIPHERS)
async def test_every_upload_has_its_share_of_a_full_uplink_and_queries_are_answered(
    sshd: Bastion, cipher: Cipher
) -> None:
    uploads, queries = range(1, 17), range(2)
    backend = Arrivals()
    with serving(backend) as port, SlowLink(sshd.port, Shape(up=2e6)) as path:
        async with opened(over(path, sshd, ciphers=(cipher,))) as link, fronting(link, port) as front:
            with Clients(front.port) as clients, Lateness() as machine:
                for name in uploads:
                    clients.upload(name)
                for name in queries:
                    clients.query(name)
                await asyncio.sleep(6)
                got = [backend.bytes[name] for name in uploads]
                waits = [clients.worst(name) for name in queries]
    print(got, waits, [len(clients.waits[name]) for name in queries])
    assert min(got) >= 0.3 * sum(got) / len(got), sorted(got)
    assert max(waits) < 3 + machine.sum, waits


@pytest.mark.parametrize(("who", "cipher"), [("us", CIPHERS[0]), ("sshd", CIPHERS[0]), ("us", CIPHERS[1])])
async def test_new_keys_on_a_full_slow_uplink_cost_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: str, cipher: Cipher
) -> None:
    """What is under way delays them, and must not look like silence."""
    need(find("sshd") is not None, "sshd (package openssh-server)")
    done = 0
    original = doors.PlaneConnection.send_newkeys

    def counted(self: doors.PlaneConnection, k: bytes, h: bytes) -> None:
        nonlocal done
        done += 1
        original(self, k, h)

    monkeypatch.setattr(doors.PlaneConnection, "send_newkeys", counted)
    if who == "us":
        monkeypatch.setattr(doors, "REKEY_BYTES", 512 << 10)
    keepalive = Keepalive(interval=Duration(0.5), suspect=Duration(3.0), replace=Duration(1.5), lost=Duration(60.0))
    bastion = Bastion(tmp_path / "bastion", extra="RekeyLimit 512K" if who == "sshd" else "").start()
    backend = Arrivals()
    try:
        with serving(backend) as port, SlowLink(bastion.port, Shape(up=2e5, buffer=16 << 10)) as path:
            chosen = over(path, bastion, ciphers=(cipher,), keepalive=keepalive)
            async with opened(chosen) as link, fronting(link, port) as front:
                first = link._sessions[0]
                with Clients(front.port) as clients:
                    for name in range(1, 5):
                        clients.upload(name)
                    async with asyncio.timeout(40):
                        while done < 4 or min(backend.bytes[name] for name in range(1, 5)) < 256 << 10:
                            assert link._sessions == [first], "the connection was given up or replaced"
                            print(round(time.monotonic(),2), done, first.silence(time.monotonic()), first._wire.kex_done, path.figures().up)
                            await asyncio.sleep(0.05)
                    assert not front.endings
    finally:
        bastion.stop()
