"""Opens SSH tunnels in the test process, without a gateway."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from gateway._dataplane import is_built
from gateway.contracts.config_types import Duration, HostPort
from gateway.contracts.link import Link
from gateway.demo.sshd import Bastion
from gateway.errors import TunnelError
from gateway.relay.direct_link import DirectLink
from gateway.ssh.options import KeepaliveOptions, PoolOptions, SshOptions
from gateway.ssh.pool import SshConnectionPool
from gateway.tunnels.ssh import SshTunnel

PATIENT = KeepaliveOptions(Duration(55.0), Duration(60.0), Duration(60.0), Duration(60.0))


def options(bastion: Bastion, **changes: Any) -> SshOptions:
    plain = SshOptions(
        host="127.0.0.1",
        port=bastion.port,
        user=bastion.user,
        identity_files=(bastion.client_key,),
        known_hosts=(bastion.known_hosts,),
        connections=PoolOptions(1, 32),
    )
    return replace(plain, **changes)


@contextlib.asynccontextmanager
async def opened(chosen: SshOptions, via: Link | None = None) -> AsyncIterator[SshConnectionPool]:
    async with SshTunnel(chosen).open(via or DirectLink(), lambda *_: None) as tunnel:
        assert isinstance(tunnel.link, SshConnectionPool)
        yield tunnel.link


async def until_engines_are_idle() -> None:
    """Wait until all threads of the native engine have closed their connections."""
    if not is_built():
        return
    from gateway.relay.native_engine_runner import native_engines  # noqa: PLC0415 - the native engine is optional

    async with asyncio.timeout(20):
        while any(runner.load for runner in native_engines().runners):
            await asyncio.sleep(0.005)


async def refused(chosen: SshOptions) -> TunnelError:
    with pytest.raises(TunnelError) as caught:
        async with opened(chosen):
            pass
    return caught.value


async def echo_once(link: Link, port: int, payload: bytes = b"hello") -> None:
    loop = asyncio.get_running_loop()
    sock = await link.socket(HostPort("127.0.0.1", port))
    with sock:
        await loop.sock_sendall(sock, payload)
        sock.shutdown(socket.SHUT_WR)
        got = bytearray()
        while piece := await loop.sock_recv(sock, 65536):
            got += piece
    assert bytes(got) == payload
