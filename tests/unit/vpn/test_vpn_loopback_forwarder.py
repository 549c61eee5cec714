"""Tests the loopback forwarder for VPN programs with real sockets."""

import asyncio
from typing import NoReturn

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


class BlockedLink(DirectLink):
    """A link whose dials do not end before the test sets `release`, even if they are cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.dialing, self.cancelled, self.release = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def join(self, *_: object) -> NoReturn:
        self.dialing.set()
        try:
            await self.release.wait()
        finally:
            self.cancelled.set()
            await self.release.wait()
        raise AssertionError


async def test_a_cancellation_during_the_exit_is_not_lost() -> None:
    link = BlockedLink()

    async def use() -> None:
        async with VpnLoopbackForwarder(link) as forwarder:
            _, writer = await asyncio.open_connection(*forwarder.set_target(HostPort("127.0.0.1", 1)))
            writer.close()
            await link.dialing.wait()

    async with asyncio.timeout(30):
        user = asyncio.create_task(use())
        await link.cancelled.wait()
        user.cancel()
        with pytest.raises(asyncio.CancelledError):
            await user
        link.release.set()
        await asyncio.sleep(0)
