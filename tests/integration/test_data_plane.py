"""Tests which data plane an SSH tunnel selects."""

import asyncio
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.demo.server_process import free_port
from gateway.demo.sshd import Bastion
from gateway.ssh import asyncssh_transport
from gateway.ssh.asyncssh_channel_opener import AsyncsshChannelOpener
from gateway.ssh.asyncssh_transport import AsyncsshTransport
from gateway.ssh.ssh_connection import SshConnection
from tests.support.configs import ssh_tunnel
from tests.support.gateway_process import Gateway
from tests.support.requirements import need_data_plane, need_sshd
from tests.support.servers import echoing, serving
from tests.support.ssh_sessions import echo_once, opened, options

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module", params=["openssh", "asyncssh"])
def bastion(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bastion]:
    need_sshd()
    server = Bastion(tmp_path_factory.mktemp("plane") / "bastion", embedded=request.param == "asyncssh").start()
    yield server
    server.stop()


@pytest.mark.parametrize("cipher", ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com"])
async def test_asyncsshs_channels_with_a_cipher_that_the_plane_knows(
    bastion: Bastion, monkeypatch: pytest.MonkeyPatch, cipher: str
) -> None:
    monkeypatch.setattr(asyncssh_transport, "REKEY_BYTES", 2 << 20)
    exchanges = 0
    original = SshConnection.send_newkeys

    def counted(self: SshConnection, k: bytes, h: bytes) -> None:
        nonlocal exchanges
        exchanges += 1
        original(self, k, h)

    monkeypatch.setattr(SshConnection, "send_newkeys", counted)
    with serving(echoing) as port:
        async with opened(options(bastion, data_plane="asyncssh", ciphers=(cipher,))) as link:
            assert (link.status().data_plane, link.status().cipher) == ("asyncssh", cipher)
            session = link._connections[0]
            conn: Any = session._conn
            assert isinstance(conn, SshConnection)
            assert isinstance(conn.own_transport, AsyncsshTransport)
            assert isinstance(session._opener, AsyncsshChannelOpener)
            async with asyncio.timeout(50):
                await asyncio.gather(*(echo_once(link, port, os.urandom(size)) for size in (1, 32769, 3_000_000)))
                await echo_once(link, port, os.urandom(3_000_000))
                while link.status().channels:
                    await asyncio.sleep(0.01)
            assert session.alive
            assert len(link._connections) == 1
    assert exchanges > 2


def test_the_status_and_the_metrics_show_the_data_plane_in_use(
    gateway: Gateway, shared_bastion: Bastion, tmp_path: Path
) -> None:
    need_data_plane()
    closed = free_port()
    gateway.write(f"""
        tunnels:
          plain: {ssh_tunnel(shared_bastion)}
          careful: {ssh_tunnel(shared_bastion, more=", data_plane: asyncssh")}
          down: {ssh_tunnel(shared_bastion).replace(f"port: {shared_bastion.port}", f"port: {closed}")}
        backends:
          a: {{kind: tcp, via: plain, targets: ["127.0.0.1:{shared_bastion.port}"], listen: {tmp_path}/a}}
          b: {{kind: tcp, via: careful, targets: ["127.0.0.1:{shared_bastion.port}"], listen: {tmp_path}/b}}
          c: {{kind: tcp, via: down, targets: ["127.0.0.1:{shared_bastion.port}"], listen: {tmp_path}/c}}
    """)
    gateway.start().wait_up("a", "b")
    planes = {name: gateway.tunnel(name).get("data_plane") for name in ("plain", "careful", "down")}
    assert planes == {"plain": "native", "careful": "asyncssh", "down": None}
    table = gateway.command("status", "-o", "wide").stdout.splitlines()
    facts = [re.search(r"data plane (\w+)", line) for line in table if line.startswith(("plain", "careful"))]
    assert [found and found[1] for found in facts] == ["asyncssh", "native"]  # `status` sorts the tunnels by name
    reported = [
        line for line in gateway.http.get("/metrics")[1].splitlines() if line.startswith("gateway_data_plane_info")
    ]
    assert sorted(reported) == [
        'gateway_data_plane_info{plane="asyncssh",tunnel="careful"} 1.0',
        'gateway_data_plane_info{plane="native",tunnel="plain"} 1.0',
    ]
