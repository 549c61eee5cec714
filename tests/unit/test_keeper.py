"""What the watch of a VPN tells of it."""

import asyncio
import contextlib
import time
from types import SimpleNamespace

import pytest

from gateway.contracts import TunnelState
from gateway.vpn import keeper as module
from gateway.vpn.keeper import Keeper
from gateway.vpn.vitals import Patience, Vitals


async def test_what_is_connected_anew_is_not_up_because_we_slept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK", 0.05)
    told: list[TunnelState] = []
    patience = Patience(suspect=0.3, nudge=60, down=80, lost=90, restart=100)
    link = SimpleNamespace(vitals=Vitals(patience, time.monotonic()), ask=lambda: None, leads_to="far")

    async def received() -> int:
        return 0

    async def nudge() -> None:
        pytest.fail("it is being connected anew already")

    keeper = Keeper(link, lambda state, *_: told.append(state), received, nudge)  # type: ignore[arg-type]
    watch = asyncio.ensure_future(keeper.run())
    try:
        await asyncio.sleep(0.1)
        keeper.disconnected("server said so")
        await asyncio.sleep(0.6)
        time.sleep(1.5)  # noqa: ASYNC251 - the loop is what sleeps
        await asyncio.sleep(0.3)
        assert told == [TunnelState.SUSPECT]
        keeper.connected()
        assert told == [TunnelState.SUSPECT, TunnelState.UP]
    finally:
        watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watch
