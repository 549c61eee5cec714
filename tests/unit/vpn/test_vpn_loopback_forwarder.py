"""Tests the loopback forwarder for VPN programs with real sockets."""

import asyncio

import pytest

from gateway.contracts.config_types import HostPort
from gateway.relay.direct_link import DirectLink
from gateway.vpn.vpn_loopback_forwarder import VpnLoopbackForwarder
from tests.support.servers import echoing, serving


async def test_on_exit_the_forwarder_stops_listening_and_resets_its_clients() -> None:
    with serving(echoing) as port:
        async with asyncio.timeout(30), VpnLoopbackForwarder(DirectLink()) as forwarder:
            address = forwarder.set_target(HostPort("127.0.0.1", port))
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
        async with asyncio.timeout(30):
            with pytest.raises(ConnectionResetError):
                await reader.read(1)
            writer.close()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(*address)
