"""Tests of a forward and the handshake budget of its target."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from gateway.contracts.config_types import HostPort
from gateway.contracts.link import Link
from gateway.errors import FailureReason
from gateway.forwarding import aborted_handshake_budget
from gateway.forwarding.aborted_handshake_budget import AbortedHandshakeBudget
from gateway.forwarding.admission import AdmissionRules
from gateway.forwarding.backend_route import BackendRoute
from gateway.forwarding.forward import Forward
from gateway.forwarding.target_path import TargetIdentity
from gateway.metric_types import Histogram
from gateway.relay.direct_link import DirectLink
from gateway.relay.sockets import reset
from tests.support.clock import set_clock_back

pytestmark = pytest.mark.timeout(20)


class Uplink:
    """A substitute for the direct uplink."""

    def __init__(self) -> None:
        self.tunnel_name: str | None = None
        self.channel_open = Histogram()
        self.link: Link | None = DirectLink()

    async def wait_link(self) -> Link:
        assert self.link is not None
        return self.link


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(100):
        writer.write(data)
    writer.close()


@contextlib.asynccontextmanager
async def forwarding(budget: AbortedHandshakeBudget, hold: float = 0.0) -> AsyncIterator[Forward]:
    """Run a forward to an echo server. The forward counts the aborted handshakes of its clients in `budget`."""
    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        target = HostPort(*server.sockets[0].getsockname())
        uplink = Uplink()
        paths = list(TargetIdentity(target, (uplink,)).paths())
        route = BackendRoute((uplink,), lambda: paths, lambda _: None, hold, lambda _: budget)
        forward = Forward("orders", [], AdmissionRules("orders"), route)
        task = asyncio.create_task(forward.run(lambda: None))
        await asyncio.sleep(0)
        yield forward
        task.cancel()
        await asyncio.wait({task})


async def connect(forward: Forward, requests: int, others: int = 0) -> None:
    """Connect a client, send `requests` requests one after the other, and disconnect the client.

    Return when the forward has at most `others` clients.
    """
    near, far = socket.socketpair()
    for each in (near, far):
        each.setblocking(False)
    loop = asyncio.get_running_loop()
    forward._acceptor.accept(near)
    with far:
        for _ in range(requests):
            await loop.sock_sendall(far, b"request")
            assert await loop.sock_recv(far, 100) == b"request"
        if not requests:
            while forward.waiting:
                await asyncio.sleep(0.01)
    while forward.active > others:
        await asyncio.sleep(0.01)


async def test_the_budget_does_not_depend_on_the_system_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aborted_handshake_budget, "_THROTTLE_INTERVAL", 0.0)
    monkeypatch.setattr(aborted_handshake_budget, "CLOSE_DELAY", 0.0)
    budget = AbortedHandshakeBudget(1)
    async with forwarding(budget) as forward:
        await connect(forward, 0)
        # The limit is reached, but the budget still admits one client per `_THROTTLE_INTERVAL` (0 in this test).
        await connect(forward, 0)
        assert budget.aborted == 2
        set_clock_back(monkeypatch)
        await connect(forward, 0)
        assert (budget.aborted, forward.rejected[FailureReason.HOST_BLOCKED]) == (3, 0)
        await connect(forward, 2)
        assert budget.aborted == 0


async def test_clients_wait_while_others_can_still_abort_their_handshakes() -> None:
    """Ten clients connect at the same time, and the budget admits nine. After one login, it admits the tenth."""
    budget, loop = AbortedHandshakeBudget(10), asyncio.get_running_loop()
    async with forwarding(budget, hold=20.0) as forward:
        pairs = [socket.socketpair() for _ in range(10)]
        for near, far in pairs:
            near.setblocking(False)
            far.setblocking(False)
            forward._acceptor.accept(near)
        while forward.waiting > 1:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert (forward.waiting, budget.unproven(time.monotonic())) == (1, 9)
        _, first = pairs[0]
        for _ in range(2):
            await loop.sock_sendall(first, b"request")
            assert await loop.sock_recv(first, 100) == b"request"
        while forward.waiting:
            await asyncio.sleep(0.01)
        assert (forward.active, budget.aborted, dict(forward.rejected)) == (10, 0, {})
        for _, far in pairs:
            far.close()
        while forward.active:
            await asyncio.sleep(0.01)
        assert budget.aborted == 9


async def test_a_client_is_refused_if_the_others_do_not_log_in_in_time() -> None:
    budget = AbortedHandshakeBudget(1)
    async with forwarding(budget) as forward:
        near, far = socket.socketpair()
        near.setblocking(False)
        forward._acceptor.accept(near)
        while forward.waiting:
            await asyncio.sleep(0.01)
        await connect(forward, 0, others=1)
        assert forward.rejected[FailureReason.HOST_BLOCKED] == 1
        far.close()


async def test_a_waiting_client_uses_a_new_route_immediately() -> None:
    budget = AbortedHandshakeBudget(1)
    budget.dials = 1
    async with forwarding(budget, hold=20.0) as forward:
        near, far = socket.socketpair()
        near.setblocking(False)
        forward._acceptor.accept(near)
        while not budget.waiting:
            await asyncio.sleep(0.01)
        route = forward._dialer.target_dialer.route
        forward.update([], AdmissionRules("orders"), replace(route, budget=lambda _: None))
        async with asyncio.timeout(10):
            while forward.waiting:
                await asyncio.sleep(0.01)
        assert (forward.active, budget.waiting) == (1, 0)
        far.close()


async def test_a_client_that_is_reset_while_it_waits_is_not_connected() -> None:
    budget = AbortedHandshakeBudget(1)
    budget.dials = 1
    async with forwarding(budget, hold=20.0) as forward:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            far = socket.create_connection(listening.getsockname(), timeout=10)
            near, _ = listening.accept()
        near.setblocking(False)
        forward._acceptor.accept(near)
        while not budget.waiting:
            await asyncio.sleep(0.01)
        reset(far)
        async with asyncio.timeout(10):
            while forward.waiting:
                await asyncio.sleep(0.01)
        assert (forward.active, budget.waiting, budget.aborted) == (0, 0, 0)


async def test_a_client_that_waits_for_the_budget_uses_no_other_target() -> None:
    """After a burst of clients, a healthy target must not lose its clients to the next target."""
    budget = AbortedHandshakeBudget(10)
    budget.dials = 9
    async with forwarding(budget, hold=20.0) as forward:
        route = forward._dialer.target_dialer.route
        (first,) = route.paths()
        other = TargetIdentity(HostPort("127.0.0.1", 1), route.uplinks).paths()
        paths = [first, *other]
        failures: list[object] = []
        forward.update([], AdmissionRules("orders"), replace(route, paths=lambda: paths, on_failure=failures.append))
        near, far = socket.socketpair()
        near.setblocking(False)
        forward._acceptor.accept(near)
        # If there is another path, a dial fails after 2 s. The wait for the budget must not have this limit.
        await asyncio.sleep(2.5)
        assert (forward.waiting, failures) == (1, [])
        budget.dials = 0
        async with asyncio.timeout(10):
            while forward.waiting:
                await asyncio.sleep(0.01)
        assert forward.active == 1
        far.close()


async def test_a_check_is_requested_when_its_login_can_reset_the_count() -> None:
    budget = AbortedHandshakeBudget(2)
    async with forwarding(budget, hold=5.0) as forward:
        route = forward._dialer.target_dialer.route
        requests: list[float] = []
        requested = replace(route, on_failure=lambda _: requests.append(time.monotonic()))
        forward.update([], AdmissionRules("orders"), requested)
        began = time.monotonic()
        await connect(forward, 0)
        assert budget.check_scheduled or requests
        async with asyncio.timeout(10):
            while not requests:
                await asyncio.sleep(0.01)
        assert requests[0] - began >= 1.0
        budget.record_login(time.monotonic() + 0.1)
        assert (budget.aborted, budget.check_scheduled, len(requests)) == (0, False, 1)
