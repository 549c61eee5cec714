"""Tests which states the liveness monitor of a VPN reports."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from gateway.contracts.link import RemoteNetworkId
from gateway.contracts.states import TunnelState
from gateway.vpn import liveness_monitor
from gateway.vpn.liveness_monitor import LivenessMonitor
from gateway.vpn.overdue_reply_timer import OverdueReplyThresholds, OverdueReplyTimer


class Link:
    """A link of a VPN. No host behind the VPN responds."""

    network = RemoteNetworkId(("far",))

    def __init__(self, thresholds: OverdueReplyThresholds) -> None:
        self.silence = OverdueReplyTimer(thresholds, time.monotonic())
        self.acts: list[str] = []

    def send_echo_requests(self) -> None:
        """Do nothing, because no host would reply."""

    def reset_all(self) -> None:
        self.acts.append("reset")

    def mark_lost(self, _: str) -> None:
        self.acts.append("lose")


@contextlib.asynccontextmanager
async def watched(link: Link, reported: list[TunnelState]) -> AsyncIterator[LivenessMonitor]:
    async def received() -> int:
        return 0

    async def reconnect() -> None:
        pytest.fail("the monitor reconnects too early")

    monitor = LivenessMonitor(link, lambda state, *_: reported.append(state), received, reconnect)  # type: ignore[arg-type]
    watch = asyncio.ensure_future(monitor.run())
    try:
        yield monitor
    finally:
        watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watch


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness_monitor, "_INTERVAL", 0.05)


async def test_a_reconnecting_vpn_is_not_up_after_a_pause_of_the_gateway() -> None:
    reported: list[TunnelState] = []
    link = Link(OverdueReplyThresholds(suspect=0.3, reconnect=60, down=80, lost=90, restart=100))
    async with watched(link, reported) as monitor:
        await asyncio.sleep(0.1)
        monitor.on_reconnecting("server said so")
        await asyncio.sleep(0.6)
        time.sleep(1.5)  # noqa: ASYNC251 - this call simulates a pause of the whole process
        await asyncio.sleep(0.3)
        assert reported == [TunnelState.SUSPECT]
        monitor.on_connected()
        assert reported == [TunnelState.SUSPECT, TunnelState.UP]


@pytest.mark.parametrize("slept_after", [0.1, 0.6])
async def test_a_reconnecting_vpn_is_closed_also_after_a_pause_of_the_gateway(slept_after: float) -> None:
    reported: list[TunnelState] = []
    link = Link(OverdueReplyThresholds(suspect=0.3, reconnect=60, down=0.9, lost=1.2, restart=1.5))
    async with watched(link, reported) as monitor:
        monitor.on_reconnecting("server said so")
        await asyncio.sleep(slept_after)
        time.sleep(1.5)  # noqa: ASYNC251 - this call simulates a pause of the whole process
        async with asyncio.timeout(20):
            while "lose" not in link.acts:
                await asyncio.sleep(0.02)
    assert reported[0] is TunnelState.SUSPECT
    assert set(reported[1:]) == {TunnelState.BACKOFF}  # after a further delay, the monitor reports the state again
