"""Tests of the link that dials through one of several tunnels."""

import asyncio
import socket
from typing import Any

import pytest

from gateway.contracts.config_types import HostPort
from gateway.contracts.link import Link, RemoteNetworkId, Stream
from gateway.contracts.phase_timer import PhaseTimer
from gateway.errors import DialError, FailureReason, LinkLostError
from gateway.metric_types import Histogram
from gateway.relay.direct_link import DirectLink
from gateway.supervision import link_through_outer_tunnels
from gateway.supervision.link_through_outer_tunnels import LinkThroughOuterTunnels

TO = HostPort("127.0.0.1", 1)


class Scripted(DirectLink):
    """A link whose dials fail with an error, hang, or return a socket."""

    def __init__(self, outcome: Exception | None = None, *, hangs: bool = False) -> None:
        super().__init__()
        self.outcome, self.hangs, self.dials = outcome, hangs, 0

    async def socket(self, to: HostPort, phases: PhaseTimer | None = None) -> Stream:
        del to, phases
        self.dials += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.outcome is not None:
            raise self.outcome
        return socket.socket()

    async def join(self, *arguments: Any, **keywords: Any) -> Any:
        del arguments, keywords
        self.dials += 1
        raise NotImplementedError


class Outer:
    """A substitute for an outer tunnel."""

    def __init__(self, link: Link | None) -> None:
        self.link = link
        self.tunnel_name: str | None = None


async def test_the_next_tunnel_is_used_at_once_and_stays_in_use() -> None:
    broken, good, closed = Scripted(LinkLostError()), Scripted(), Outer(None)
    second = Outer(good)
    link = LinkThroughOuterTunnels([Outer(broken), closed, second], RemoteNetworkId(("a",)))
    assert link.used is None
    for _ in range(3):
        (await link.socket(TO)).close()
        assert link.used is second
    assert (broken.dials, good.dials) == (1, 3)
    good.outcome = DialError(FailureReason.REFUSED, "no")
    with pytest.raises(LinkLostError):
        await link.socket(TO)
    assert (broken.dials, good.dials) == (2, 4)
    closed.link = joining = Scripted()
    with socket.socket() as client, pytest.raises(NotImplementedError):
        await link.join(client, TO, Histogram())
    assert joining.dials == 1


async def test_a_tunnel_that_does_not_answer_does_not_use_up_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_through_outer_tunnels, "_NEXT_TUNNEL_AFTER", 0.05)
    silent, good = Scripted(hangs=True), Scripted()
    link = LinkThroughOuterTunnels([Outer(silent), Outer(good)], RemoteNetworkId(("a",)))
    async with asyncio.timeout(5):
        (await link.socket(TO)).close()
    assert (silent.dials, good.dials) == (1, 1)


async def test_without_an_open_tunnel_the_link_is_lost() -> None:
    with pytest.raises(LinkLostError, match="none of the tunnels is open"):
        await LinkThroughOuterTunnels([Outer(None), Outer(None)], RemoteNetworkId(("a",))).socket(TO)
