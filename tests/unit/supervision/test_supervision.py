import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from gateway.backoff import BackoffPolicy
from gateway.contracts.link import Link
from gateway.contracts.states import TunnelState
from gateway.contracts.tunnel import TunnelOpenResult, TunnelStateCallback
from gateway.errors import FailureReason, TunnelError
from gateway.relay.direct_link import DirectLink, DirectLinkFactory
from gateway.supervision import supervisor as supervisor_module
from gateway.supervision import uplink as uplink_module
from gateway.supervision.link_through_outer_tunnels import LinkThroughOuterTunnels
from gateway.supervision.supervisor import supervise
from gateway.supervision.uplink import Uplink

QUICK = BackoffPolicy(first=0.001, cap=0.002)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uplink_module, "RECONNECT", QUICK)
    monkeypatch.setattr(supervisor_module, "RESTART", QUICK)


class Losing(DirectLink):
    """A link that is lost when the test sets the event `end`."""

    def __init__(self) -> None:
        super().__init__()
        self.end = asyncio.Event()

    async def lost(self) -> TunnelError:  # type: ignore[override] # a direct link is never lost
        await self.end.wait()
        return TunnelError(FailureReason.RESET, "requested")


class Flaky:
    """A tunnel. Each attempt to open it raises the next error of `script`, or returns the next link of `script`."""

    far_side = "nowhere"

    def __init__(self, *script: TunnelError | Losing) -> None:
        self.script = list(script)
        self.opened_via: list[Link] = []

    @contextlib.asynccontextmanager
    async def open(self, via: Link, progress: TunnelStateCallback) -> AsyncIterator[TunnelOpenResult]:
        progress(TunnelState.CONNECTING)
        self.opened_via.append(via)
        step = self.script.pop(0)
        if isinstance(step, TunnelError):
            raise step
        yield TunnelOpenResult(step)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


async def test_a_tunnel_opens_after_failures_and_reopens_after_a_loss() -> None:
    first, second = Losing(), Losing()
    uplink = Uplink(
        "t", Flaky(TunnelError(FailureReason.REFUSED, "no"), first, second), [Uplink("d", DirectLinkFactory())]
    )
    async with supervise() as components:
        components.start("direct", uplink.vias[0])
        components.start("t", uplink)
        await until(lambda: uplink.link is first)
        assert (uplink.state, uplink.reason) == (TunnelState.UP, None)
        assert uplink.failures == {FailureReason.REFUSED: 1}
        first.end.set()
        await until(lambda: uplink.link is second)
        assert uplink.connects == 2
        assert uplink.failures == {FailureReason.REFUSED: 1, FailureReason.RESET: 1}
    assert uplink.state is TunnelState.STOPPED


async def test_a_fatal_error_quarantines_until_a_reconnect_is_requested() -> None:
    link = Losing()
    failures = TunnelError(FailureReason.REFUSED, "no"), TunnelError(FailureReason.HOST_KEY, "changed", fatal=True)
    uplink = Uplink("t", Flaky(*failures, link))
    began = uplink.since
    async with supervise() as components:
        components.start("t", uplink)
        await until(lambda: uplink.state is TunnelState.QUARANTINED)
        assert uplink.since == began  # The tunnel has been down since its start, not since the quarantine.
        assert (uplink.reason, uplink.detail) == (FailureReason.HOST_KEY, "changed")
        await asyncio.sleep(0.05)
        assert uplink.link is None
        uplink.reconnect()
        await until(lambda: uplink.link is link)


class Endless:
    """A tunnel whose first attempt to open it takes until it is cancelled. The next attempts return `link`."""

    far_side = "nowhere"

    def __init__(self, link: Losing) -> None:
        self.link = link
        self.began = asyncio.Event()
        self.ended = 0

    @contextlib.asynccontextmanager
    async def open(self, _: Link, progress: TunnelStateCallback) -> AsyncIterator[TunnelOpenResult]:
        progress(TunnelState.CONNECTING)
        if not self.began.is_set():
            self.began.set()
            try:
                await asyncio.sleep(3600)
            finally:
                self.ended += 1
        yield TunnelOpenResult(self.link)


@pytest.mark.parametrize("ask", [Uplink.reconnect, Uplink.renew, Uplink.retry])
async def test_a_request_ends_an_attempt_that_takes_long(ask: Callable[[Uplink], None]) -> None:
    link = Losing()
    tunnel = Endless(link)
    uplink = Uplink("t", tunnel)
    async with supervise() as components:
        components.start("t", uplink)
        await tunnel.began.wait()
        ask(uplink)
        await until(lambda: uplink.link is link)
        assert (tunnel.ended, uplink.connects) == (1, 1)
        assert uplink.failures == {FailureReason.RESET: 1}


@pytest.mark.parametrize("ask", [Uplink.reconnect, Uplink.renew, Uplink.retry])
async def test_a_request_does_not_interrupt_the_close_of_a_lost_tunnel(ask: Callable[[Uplink], None]) -> None:
    links, closing, steps = [Losing(), Losing()], asyncio.Event(), list[str]()

    class Slow(Flaky):
        @contextlib.asynccontextmanager
        async def open(self, via: Link, progress: TunnelStateCallback) -> AsyncIterator[TunnelOpenResult]:
            steps.append("open")
            async with super().open(via, progress) as opened:
                yield opened
            closing.set()
            await asyncio.sleep(0.1)
            steps.append("closed")

    uplink = Uplink("t", Slow(*links))
    async with supervise() as components:
        components.start("t", uplink)
        await until(lambda: uplink.link is links[0])
        links[0].end.set()
        await closing.wait()
        ask(uplink)
        await until(lambda: uplink.link is links[1])
        assert steps == ["open", "closed", "open"]


async def test_an_attempt_ends_with_its_uplink() -> None:
    tunnel = Endless(Losing())
    uplink = Uplink("t", tunnel)
    async with asyncio.timeout(20):
        async with supervise() as components:
            components.start("t", uplink)
            await tunnel.began.wait()
        assert (tunnel.ended, uplink.state) == (1, TunnelState.STOPPED)
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("attempt")]


async def test_an_inner_tunnel_waits_for_its_outer_tunnel_and_reports_it() -> None:
    outer = Uplink("outer", Flaky(TunnelError(FailureReason.AUTH, "refused", fatal=True)))
    inner = Uplink("inner", Flaky(Losing()), [outer])
    async with supervise() as components:
        components.start("outer", outer)
        components.start("inner", inner)
        await until(lambda: inner.state is TunnelState.WAITING)
        assert inner.reason is FailureReason.TUNNEL
        assert "outer is quarantined: refused" in inner.detail


async def test_an_inner_tunnel_waits_for_any_of_its_outer_tunnels_and_names_a_common_cause_once() -> None:
    edge = Uplink("edge", Flaky(TunnelError(FailureReason.AUTH, "refused", fatal=True)))
    one, two = (Uplink(name, Flaky(Losing()), [edge]) for name in ("one", "two"))
    tunnel = Flaky(Losing())
    inner = Uplink("inner", tunnel, [one, two])
    async with supervise() as components:
        for each in (edge, one, two, inner):
            components.start(each.name, each)
        await until(lambda: inner.state is TunnelState.WAITING)
        assert inner.describe() == "tunnel edge is quarantined: refused"
        two.vias = [Uplink("direct", DirectLinkFactory())]
        components.start("direct", two.vias[0])
        await components.stop("two")
        components.start("two", two)
        await until(lambda: inner.state is TunnelState.UP)
        link = tunnel.opened_via[0]
        assert isinstance(link, LinkThroughOuterTunnels)
        link.used = two
        assert inner.via_in_use == "two"
        await components.stop("inner")
        assert inner.via_in_use is None


async def test_a_crashed_unit_is_restarted_without_affecting_others() -> None:
    runs = 0

    class Crashing:
        async def run(self, ready: Callable[[], None]) -> None:
            nonlocal runs
            runs += 1
            ready()
            if runs < 3:
                raise RuntimeError("a defect")
            await asyncio.Event().wait()

    class Steady:
        cancelled = False

        async def run(self, ready: Callable[[], None]) -> None:
            ready()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled = True
                raise

    steady = Steady()
    async with supervise() as components:
        components.start("steady", steady)
        await components.start("crashing", Crashing()).wait()
        await until(lambda: runs == 3)
        assert not steady.cancelled
    assert steady.cancelled


async def test_a_unit_that_is_cancelled_from_inside_is_restarted() -> None:
    class Waiting:
        runs = 0

        async def run(self, ready: Callable[[], None]) -> None:
            self.runs += 1
            if self.runs == 1:
                gone = asyncio.get_running_loop().create_future()
                gone.cancel()
                await gone
            ready()
            await asyncio.Event().wait()

    component = Waiting()
    async with supervise() as components:
        await asyncio.wait_for(components.start("waiting", component).wait(), 2)
    assert component.runs == 2
