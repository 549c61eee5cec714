"""Tests when a link accepts the clients of a forward, and how the forward handles clients that the link returns.

These tests use `FakeLink`. tests/integration/test_accepting.py uses the native engine.
"""

import asyncio
import contextlib
import ipaddress
import socket
import time
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from gateway.audit_log.recorder import AuditLogRecorder
from gateway.backend_support.postgres_cancel_protocol import PostgresCancelProtocol
from gateway.contracts.config_types import HostPort
from gateway.contracts.native_listener_interfaces import (
    AcceptedClientHandler,
    NativeListenerRule,
    ShortLivedConnectionTotals,
)
from gateway.contracts.relay import Relay
from gateway.contracts.states import CloseReason
from gateway.forwarding import native_acceptor
from gateway.forwarding.aborted_handshake_budget import AbortedHandshakeBudget, set_limit
from gateway.forwarding.admission import AdmissionRules, UnixSocketRule
from gateway.forwarding.backend_route import BackendRoute
from gateway.forwarding.forward import Forward
from gateway.forwarding.listener import Listener
from gateway.forwarding.target_path import TargetIdentity
from gateway.metric_types import Histogram
from gateway.query_cancel_parser import CancelKeyTap
from gateway.relay.direct_link import DirectLink
from tests.support.servers import echoing, serving

pytestmark = pytest.mark.timeout(20)
LOOPBACK = (ipaddress.ip_network("127.0.0.0/30"),)


class FakeListener:
    """A listener of `FakeLink`."""

    def __init__(
        self, link: "FakeLink", rule: NativeListenerRule, permits: int, handler: AcceptedClientHandler
    ) -> None:
        self.link, self.rule, self.permits, self.handler = link, rule, permits, handler
        self.waiting = self.clients = 0
        self.relays: list[Relay] = []
        self.withdrawn = self.recalled = False

    @property
    def reserved(self) -> int:
        return self.clients if self.withdrawn else self.permits

    def permit(self, count: int) -> None:
        self.permits += count

    def withdraw(self) -> None:
        self.withdrawn = True

    def recall(self) -> None:
        self.recalled = True

    def accept(self) -> socket.socket:
        """Take a client from the kernel's queue."""
        client, _ = self.rule.sockets[0].accept()
        client.setblocking(False)
        self.permits -= 1
        return client

    async def accept_and_join(self) -> None:
        relay = await self.link.join(self.accept(), self.rule.to, self.rule.latency)
        self.relays.append(relay)
        self.handler.on_joined(self, relay, None)


class FakeLink(DirectLink):
    """A link that accepts clients when a test calls the methods of its listeners."""

    def __init__(self) -> None:
        super().__init__()
        self.listeners: list[FakeListener] = []

    def listen(self, rule: NativeListenerRule, permits: int, handler: AcceptedClientHandler) -> FakeListener:
        self.listeners.append(FakeListener(self, rule, permits, handler))
        return self.listeners[-1]


class Uplink:
    """An uplink that is always open."""

    def __init__(self) -> None:
        self.tunnel_name: str | None = None
        self.link: Any = FakeLink()
        self.channel_open = Histogram()

    async def wait_link(self) -> Any:
        return self.link


class Rig:
    """A forward with one listener, and two paths to an echo server."""

    def __init__(self, port: int, rules: AdmissionRules, hold: float, budget: AbortedHandshakeBudget | None) -> None:
        self.uplinks = Uplink(), Uplink()
        self.paths = list(TargetIdentity(HostPort("127.0.0.1", port), self.uplinks).paths())
        self.route = BackendRoute(self.uplinks, lambda: self.paths, lambda _: None, hold, lambda _: budget)
        self.rules = rules
        self.listener = Listener(HostPort("127.0.0.1", 0))

    @property
    def accepting(self) -> list[FakeListener]:
        """The listeners on which links currently accept clients."""
        return [each for uplink in self.uplinks for each in uplink.link.listeners if not each.withdrawn]

    def dial(self, source: str = "127.0.0.1") -> socket.socket:
        address = self.listener.sockets[0].getsockname()
        client = socket.create_connection(address, timeout=10, source_address=(source, 0))
        client.setblocking(False)
        return client

    async def echo(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(10):
            await loop.sock_sendall(client, b"hello")
            assert await loop.sock_recv(client, 100) == b"hello"

    async def offered(self) -> FakeListener:
        """Make a link accept clients, and return the link's listener.

        A link accepts clients only after Python code has connected a client. This method therefore connects and
        disconnects a client.
        """
        with self.dial() as client:
            await self.echo(client)
        while self.forward.active:
            await asyncio.sleep(0.01)
        (listener,) = self.accepting
        return listener

    forward: Forward


@contextlib.asynccontextmanager
async def running(
    rules: AdmissionRules, hold: float = 30.0, budget: AbortedHandshakeBudget | None = None, **more: Any
) -> AsyncIterator[Rig]:
    with serving(echoing) as port:
        rig = Rig(port, rules, hold, budget)
        rig.forward = Forward("b", [rig.listener], rules, rig.route, **more)
        task = asyncio.create_task(rig.forward.run(lambda: None))
        await asyncio.sleep(0)
        yield rig
        task.cancel()
        await asyncio.wait({task})
        rig.listener.close()


def nearly_used_budget() -> AbortedHandshakeBudget:
    """Return a budget that can admit only 30 more clients, which is too few for a link to accept clients."""
    budget = AbortedHandshakeBudget(100)
    for _ in range(60):
        budget.record_aborted(time.monotonic())
    return budget


async def test_clients_of_the_link_count_like_others_and_refused_ones_are_handled_here() -> None:
    async with running(AdmissionRules("b", allow=LOOPBACK, max_connections=8)) as rig:
        forward, listener = rig.forward, await rig.offered()
        assert (listener.rule.to, listener.rule.allow, listener.reserved) == (rig.paths[0].target, LOOPBACK, 8)
        with rig.dial() as client:
            await listener.accept_and_join()
            await rig.echo(client)
            assert (forward.accepted, forward.active, forward.waiting) == (2, 1, 0)
            listener.waiting = listener.clients = 3
            assert (forward.active, forward.waiting) == (4, 3)
            listener.waiting = listener.clients = 0
        while forward.active:
            await asyncio.sleep(0.01)
        assert (forward.to_backend, forward.from_backend) == (10, 10)
        assert forward.latency.count == 2
        assert listener.rule.open_time is rig.uplinks[0].channel_open
        with rig.dial("127.0.0.9") as outside:
            listener.handler.on_returned(listener, listener.accept(), 0.0, abandoned=False)
            with pytest.raises(ConnectionResetError):
                outside.setblocking(True)
                outside.recv(1)
        assert dict(forward.rejected) == {"not_allowed": 1}
        with rig.dial() as slow:
            listener.handler.on_returned(listener, listener.accept(), 0.5, abandoned=False)
            await rig.echo(slow)
        assert (forward.accepted, rig.accepting) == (3, [listener])


async def test_clients_with_short_connections_are_counted() -> None:
    async with running(AdmissionRules("b")) as rig:
        listener = await rig.offered()
        forward, reserved = rig.forward, listener.reserved
        before = forward.accepted, forward.to_backend, forward.from_backend
        listener.clients = 2
        assert (forward.active, forward.waiting) == (2, 0)
        assert [forward.active_on(each) for each in rig.uplinks] == [2, 0]
        listener.clients = 0
        listener.handler.on_served(listener, ShortLivedConnectionTotals(7, 3, 70, 700))
        assert (forward.accepted, forward.to_backend, forward.from_backend) == (
            before[0] + 7,
            before[1] + 70,
            before[2] + 700,
        )
        assert dict(forward.resets) == {CloseReason.CLIENT_RESET: 3}
        assert (forward.active, listener.reserved) == (0, reserved)


async def test_permits_do_not_exceed_the_handshake_budget() -> None:
    budget = AbortedHandshakeBudget(20)
    async with running(AdmissionRules("b"), budget=budget) as rig:
        # The client of `offered` gets only one response, so its disconnect counts as an aborted handshake.
        listener = await rig.offered()
        assert (budget.aborted, listener.rule.min_responses) == (1, 2)
        assert listener.reserved == int(0.75 * (18 - 1))
        for _ in range(2):
            with rig.dial():
                await listener.accept_and_join()
            while rig.forward.active:
                await asyncio.sleep(0.01)
        assert budget.aborted == 3
        # The aborted handshakes use up handshake budget, so the link is allowed to accept fewer clients.
        assert listener.reserved == int(0.75 * (18 - 3))
        budget.record_aborted(time.monotonic())
        listener.handler.on_served(listener, ShortLivedConnectionTotals(1, 0, 5, 5))
        # The login can be older than the last aborted handshake, so the login does not reset the count.
        assert budget.aborted > 0
        budget.record_login(time.monotonic() + 1.0)
        with rig.dial() as client:
            await listener.accept_and_join()
            await rig.echo(client)
            assert budget.unproven(time.monotonic()) == listener.reserved + 1
            await rig.echo(client)
            assert budget.unproven(time.monotonic()) == listener.reserved
        while rig.forward.active:
            await asyncio.sleep(0.01)
        assert budget.aborted == 0
        listener.handler.on_returned(listener, rig.dial(), 0.5, abandoned=True)
        assert budget.aborted == 1
        listener.withdraw()
        listener.handler.on_closed(listener)
        assert listener not in budget.listeners


async def test_a_link_stops_if_the_server_has_a_lower_limit_than_expected() -> None:
    budget = AbortedHandshakeBudget(100)
    async with running(AdmissionRules("b"), budget=budget) as rig:
        listener = await rig.offered()
        rig.forward.review()
        assert rig.accepting == [listener]
        set_limit([budget], 10)
        rig.forward.review()
        assert rig.accepting == []


async def test_short_connections_with_a_login_reset_the_count_of_aborted_handshakes() -> None:
    budget = AbortedHandshakeBudget(20)
    async with running(AdmissionRules("b"), budget=budget) as rig:
        listener = await rig.offered()
        assert budget.aborted == 1
        # After CLOSE_DELAY plus REPORT_DELAY, the login is certainly later than the aborted handshake.
        await asyncio.sleep(2.01)
        listener.handler.on_served(listener, ShortLivedConnectionTotals(1, 0, 5, 5))
        assert budget.aborted == 0


async def test_permits_never_exceed_the_limit() -> None:
    async with running(AdmissionRules("b", max_connections=4)) as rig:
        listener = await rig.offered()
        with contextlib.ExitStack() as clients:
            for _ in range(4):
                clients.enter_context(rig.dial())
                await listener.accept_and_join()
            assert (rig.forward.active, listener.reserved) == (4, 0)
        while rig.forward.active:
            assert rig.forward.active + listener.reserved <= 4
            await asyncio.sleep(0.01)
        assert listener.reserved == 4


async def test_a_client_that_the_link_connects_after_the_forward_has_ended_is_reset() -> None:
    async with running(AdmissionRules("b")) as rig:
        listener = await rig.offered()
        client = rig.dial()
        relay = await listener.link.join(listener.accept(), listener.rule.to, listener.rule.latency)
        await rig.echo(client)
    with client:
        listener.handler.on_joined(listener, relay, None)
        assert await relay.ended is CloseReason.ABORTED


async def test_a_client_of_a_listener_that_was_not_created_completely_is_reset() -> None:
    async with running(AdmissionRules("b")) as rig:
        listener = await rig.offered()
        incomplete = FakeListener(listener.link, listener.rule, 1, listener.handler)
        with rig.dial():
            await incomplete.accept_and_join()
            (relay,) = incomplete.relays
            assert await relay.ended is CloseReason.ABORTED


async def test_this_process_accepts_again_when_the_link_stops_or_another_path_is_better(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(native_acceptor, "_RETRY_AFTER", 60.0)
    async with running(AdmissionRules("b")) as rig:
        listener = await rig.offered()
        rig.forward.move_clients(frozenset())
        assert rig.accepting == [listener]
        rig.paths.reverse()
        rig.forward.move_clients(frozenset())
        assert rig.accepting == []
        second = await rig.offered()
        assert second.link is rig.uplinks[1].link
        second.handler.on_stopped(second, failed=True)
        with rig.dial() as client:
            await rig.echo(client)
        second.withdrawn = True
        assert rig.accepting == []  # For `_RETRY_AFTER` after a failure, the link accepts no clients.
        assert {listener.recalled, second.recalled} == {False}
        rig.forward.abort_all()
        assert {listener.recalled, second.recalled} == {True}
        for each in (listener, second):
            each.handler.on_closed(each)
        assert rig.forward.waiting == 0


async def test_a_change_of_the_rules_or_listeners_takes_effect_immediately() -> None:
    async with running(AdmissionRules("b")) as rig:
        await rig.offered()
        rig.forward.update([rig.listener], AdmissionRules("b", allow=LOOPBACK), rig.route)
        assert rig.accepting == []
        assert (await rig.offered()).rule.allow == LOOPBACK
        rig.listener.stop()
        assert rig.accepting == []
        rig.forward.update([rig.listener], AdmissionRules("b"), rig.route)
        await rig.offered()
        rig.listener.close()
        assert rig.accepting == []


async def test_clients_are_not_accepted_by_a_link_while_they_are_recorded() -> None:
    recorder = AuditLogRecorder()
    async with running(AdmissionRules("b"), recorder=recorder) as rig:
        await rig.offered()
        recorder.sink = cast("Any", type("Sink", (), {"put": lambda *_: None})())
        rig.forward.review()
        assert rig.accepting == []
        with rig.dial() as client:
            await rig.echo(client)
        assert rig.accepting == []
        recorder.sink = None


async def test_a_link_accepts_only_while_one_target_has_sessions_that_can_be_cancelled() -> None:
    async with running(AdmissionRules("b"), cancels=PostgresCancelProtocol()) as rig:
        listener = await rig.offered()
        make_tap = listener.rule.make_tap
        assert make_tap is not None
        tap = cast("CancelKeyTap", make_tap())
        elsewhere = TargetIdentity(HostPort("127.0.0.2", 1), rig.uplinks)
        with rig.dial() as client:
            relay = await listener.link.join(listener.accept(), listener.rule.to, listener.rule.latency)
            listener.handler.on_joined(listener, relay, tap)
            await rig.echo(client)
            rig.forward.review()
            assert rig.accepting == [listener]
            assert rig.forward._cancels is not None
            assert rig.forward._cancels.has_sessions_elsewhere(elsewhere)
            rig.forward._cancels.add_session(elsewhere, tap)
            rig.forward.review()
            assert rig.accepting == []
        while rig.forward.active:
            await asyncio.sleep(0.01)
        assert not rig.forward._cancels.has_sessions_elsewhere(elsewhere)


@pytest.mark.parametrize(
    ("rules", "more"),
    [
        (AdmissionRules("b", per_consumer=5), {}),
        (AdmissionRules("b", sockets={"/s": UnixSocketRule()}), {}),
        (AdmissionRules("b"), {"hold": 1.0}),
        (AdmissionRules("b"), {"budget": nearly_used_budget()}),
        (AdmissionRules("b", max_connections=1), {}),
    ],
    ids=["quota", "unix socket", "short hold", "budget", "no room"],
)
async def test_only_simple_rules_are_passed_to_a_link(rules: AdmissionRules, more: dict[str, Any]) -> None:
    async with running(rules, **more) as rig:
        with rig.dial() as client:
            await rig.echo(client)
            assert rig.accepting == []
