"""Tests whether `tests.support.relay_contract` accepts a correct relay, and detects each fault."""

import asyncio
import contextlib
import os
import socket
import time
from math import inf
from pathlib import Path
from typing import Any, cast

import pytest

from gateway.connection_tap import Tap
from gateway.contracts.config_types import HostPort
from gateway.contracts.link import Link, Stream
from gateway.contracts.phase_timer import PhaseTimer
from gateway.contracts.relay import Relay
from gateway.contracts.states import CloseReason
from gateway.metric_types import Histogram
from gateway.relay.sockets import close_gracefully, reset, tune
from gateway.relay.tcp_dial import DIAL_TIMEOUT, dial
from tests.support import relay_contract as contract
from tests.support.far_listener import shrink
from tests.support.far_sides import Straight
from tests.support.plans import Setup, Step

_CHUNK = 65536


class SimpleRelay:
    """A relay with one task for each direction; see `gateway.contracts.relay.Relay`.

    Args:
        client: The accepted socket of the client.
        backend: The connected socket of the backend.
        tap: The tap that observes the bytes.
        fault: The name of the fault that the relay has; empty if the relay is correct.
    """

    awaiting_response = False
    waiting_since = None
    responses = 0

    def __init__(self, client: Stream, backend: Stream, tap: Tap | None, fault: str) -> None:
        self.ended: asyncio.Future[CloseReason] = asyncio.get_running_loop().create_future()
        self.last_active = time.monotonic()
        self.to_backend = self.from_backend = 0
        self._client, self._backend = client, backend
        self._tap = tap
        self._fault = fault
        self._turn = asyncio.Lock()
        self.left: list[int] = []
        self._pumps = [
            asyncio.ensure_future(self._pump(*direction)) for direction in ((client, backend), (backend, client))
        ]
        self._job = asyncio.ensure_future(self._run())

    def abort(self, close_reason: CloseReason) -> None:
        self._end(close_reason)

    async def clear(self) -> None:
        """Release all resources, including those that the fault has left open."""
        jobs = [*self._pumps, self._job]
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        self._client.close()
        self._backend.close()
        for fd in self.left:
            os.close(fd)

    async def _run(self) -> None:
        done, _ = await asyncio.wait(self._pumps, return_when=asyncio.FIRST_EXCEPTION)
        if self.ended.done():
            return
        failed = [pump for pump in done if pump.exception() is not None]
        if failed and failed[0] is self._pumps[0]:
            self._end(CloseReason.CLIENT_RESET)
        else:
            self._end(CloseReason.BACKEND_RESET if failed else CloseReason.FINISHED)

    async def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        forth, loop = source is self._client, asyncio.get_running_loop()
        while True:
            try:
                data = await loop.sock_recv(source, _CHUNK)
            except OSError:
                self._end(CloseReason.CLIENT_RESET if forth else CloseReason.BACKEND_RESET)
                return
            if not data:
                break
            self._count(data, forth=forth)
            await self._send(sink, self._spoil(data))
        if self._fault == "a reset for an end":
            self._end(CloseReason.BACKEND_RESET)
        elif self._fault == "an end that waits for the other":
            await asyncio.wait([self._pumps[forth]])
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def _count(self, data: bytes, *, forth: bool) -> None:
        size = len(data) - (self._fault == "a wrong count" and len(data) > 1000)
        if forth:
            self.to_backend += size
        else:
            self.from_backend += size
        if self._tap is not None and self._fault != "a blind tap":
            (self._tap.on_request if forth else self._tap.on_response)(memoryview(data), time.monotonic())

    def _spoil(self, data: bytes) -> bytes:
        if len(data) > 1000:
            if self._fault == "a lost byte":
                return data[:500] + data[501:]
            if self._fault == "a piece sent twice":
                return data[:500] + data
            if self._fault == "pieces in the wrong order":
                return data[500:] + data[:500]
        return data

    async def _send(self, sink: socket.socket, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        try:
            if self._fault == "one direction at a time":
                async with self._turn:
                    await loop.sock_sendall(sink, data)
            else:
                await loop.sock_sendall(sink, data)
        except OSError:
            self._end(CloseReason.BACKEND_RESET if sink is self._backend else CloseReason.CLIENT_RESET)

    def _end(self, close_reason: CloseReason) -> None:
        if self.ended.done() or self._fault == "no ending":
            return
        for pump in self._pumps:
            pump.cancel()
        clean = close_reason is CloseReason.FINISHED or self._fault == "an end for a reset"
        for sock in (self._client, self._backend):
            (close_gracefully if clean else reset)(sock)
        if self._fault == "a descriptor left":
            self.left.append(os.dup(0))
        self.ended.set_result(CloseReason.FINISHED if self._fault == "a wrong ending" else close_reason)


class SimpleLink:
    """Implements the part of `gateway.contracts.link.Link` that the relay contract uses."""

    def __init__(self, fault: str) -> None:
        self._fault = fault
        self.made: list[SimpleRelay] = []
        self.small = False

    async def join(
        self, client: Stream, to: HostPort, latency: Histogram, within: float = inf, tap: Tap | None = None
    ) -> Relay:
        backend = await dial(to, PhaseTimer(), min(DIAL_TIMEOUT, within))
        shrink(backend, small=self.small)
        tune(client)
        self.made.append(SimpleRelay(client, backend, tap, self._fault))
        return self.made[-1]


class Simple(Straight):
    """Adapts `SimpleRelay` to the relay contract; see `relay_adapter.RelayAdapter`.

    Args:
        fault: The name of the fault that each relay has.
    """

    # If the backend resets its connection, `SimpleRelay` resets the client, which can lose a part of the response.
    keeps_response = False

    def __init__(self, fault: str) -> None:
        super().__init__(Path())
        self.name = fault or "without a fault"
        self._simple = SimpleLink(fault)

    async def close(self) -> None:
        for relay in self._simple.made:
            await relay.clear()
        await super().close()

    def _link(self, setup: Setup) -> tuple[Link, HostPort]:
        self._simple.small = setup.small
        return cast("Any", self._simple), self._far.address(setup)


TALK = [
    Step("client", "send", 100_000),
    Step("far", "send", 300_000),
    Step("loop", "settle"),
    Step("client", "end"),
    Step("loop", "settle"),
    Step("far", "send", 32769),
]
STALL = [Step("far", "pause"), Step("client", "send", 1 << 20), *[Step("loop", "turns", 8)] * 8, *TALK[1:]]
RESET = [Step("client", "send", 100_000), Step("loop", "turns", 8), Step("client", "reset"), Step("loop", "settle")]

FAULTS = {
    "a lost byte": (TALK, "rule 1"),
    "a piece sent twice": (TALK, "rule 1"),
    "pieces in the wrong order": (TALK, "rule 1"),
    "an end for a reset": (RESET, "rule 2"),
    "a reset for an end": (TALK, "rule 3"),
    "an end that waits for the other": (TALK, "rule 4.*sees no end"),
    "one direction at a time": (STALL, "rule 4.*and takes"),
    "no ending": (TALK, "rule 4.*the relay does not end"),
    "a descriptor left": (TALK, "descriptors are left"),
    "a wrong ending": (RESET, "rule 5: ended as finished"),
    "a wrong count": (TALK, "rule 5: counted"),
    "a blind tap": (TALK, "rule 5: the tap saw"),
}


@pytest.mark.parametrize("plan", [TALK, STALL, RESET], ids=["talk", "stall", "reset"])
async def test_a_relay_without_a_fault_passes(plan: list[Step]) -> None:
    await attempt("", plan, patience=contract.PATIENCE)


@pytest.mark.parametrize("fault", FAULTS)
async def test_each_fault_breaks_a_rule(fault: str) -> None:
    plan, rule = FAULTS[fault]
    with pytest.raises(contract.BrokenContractError, match=rule):
        await attempt(fault, plan, patience=3.0 if rule.startswith("rule 4") else 5.0)


async def attempt(fault: str, plan: list[Step], patience: float) -> None:
    adapter = Simple(fault)
    await adapter.open()
    try:
        await contract.run(adapter, plan, Setup(tap=1 << 40), contract.Coverage(patience=patience))
    finally:
        await adapter.close()
