"""Tests the usage counters of consumers, and the quota per consumer.

The consumers beyond the first `MAX_CONSUMERS` share one set of counters.
"""

import asyncio
import socket
from typing import Any

import pytest

from gateway.contracts.config_types import HostPort
from gateway.contracts.link import Link
from gateway.forwarding.admission import AdmissionRules, RefusalReason
from gateway.forwarding.backend_route import BackendRoute
from gateway.forwarding.consumer_usage import MAX_CONSUMERS, OTHERS, ConsumerUsage
from gateway.forwarding.forward import Forward
from gateway.forwarding.listener import Listener
from gateway.forwarding.target_path import TargetIdentity
from gateway.metric_types import Histogram
from gateway.relay.event_loop import RelayEventLoop


def test_relays_counted_as_others_are_still_counted_after_a_merge() -> None:
    consumers = ConsumerUsage()
    for number in range(MAX_CONSUMERS):
        consumers.usage_of(f"c{number}", "").waiting = 1
    running = consumers.usage_of("one more", "").latency

    first = consumers["c0"]
    first.latency.observe(0.25)
    first.waiting = 0
    consumers.usage_of("yet one more", "")
    running.observe(0.5)

    others = consumers[OTHERS].latency
    assert "c0" not in consumers
    assert (others.count, others.sum) == (2, 0.75)


def test_the_quota_applies_per_consumer_also_among_others() -> None:
    consumers = ConsumerUsage()
    for number in range(MAX_CONSUMERS):
        consumers.admit(f"c{number}", "")
    slots = [consumers.admit(f"late{number}", "") for number in range(3)]
    assert consumers[OTHERS].active == 3
    assert [consumers.active[f"late{number}"] for number in range(3)] == [1, 1, 1]
    slots[0].release_unjoined()
    slots[0].release_unjoined()
    assert (consumers[OTHERS].active, consumers.active["late0"], "late0" in consumers.active) == (2, 0, False)


@pytest.mark.timeout(20)
def test_a_burst_does_not_exceed_the_quota() -> None:
    class NoLink:
        """An uplink that never opens, so that clients wait."""

        tunnel_name: str | None = None
        link: Link | None = None
        channel_open = Histogram()

        async def wait_link(self) -> Any:
            await asyncio.Event().wait()

        def describe(self) -> str:
            return "nowhere"

    async def burst() -> None:
        bound = socket.create_server(("127.0.0.1", 0), backlog=100)
        bound.setblocking(False)
        port = bound.getsockname()[1]
        listener = Listener(HostPort("127.0.0.1", port), [bound])
        paths = TargetIdentity(HostPort("x", 1), (NoLink(),)).paths()
        route = BackendRoute((paths[0].uplink,), lambda: list(paths), lambda _: None, 30)
        forward = Forward("b", [listener], AdmissionRules("b", per_consumer=5, max_connections=1000), route)
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(60)]
        serving = asyncio.ensure_future(forward.run(lambda: None))
        try:
            while forward.accepted < 60:
                await asyncio.sleep(0.01)
            assert (forward.active, dict(forward.rejected)) == (5, {RefusalReason.CONSUMER_QUOTA: 55})
            assert forward.consumers["127.0.0.1"].active == 5
        finally:
            serving.cancel()
            await asyncio.wait({serving})
            listener.close()
            for client in clients:
                client.close()
        assert not forward.consumers.active
        assert forward.consumers["127.0.0.1"].active == 0

    with asyncio.Runner(loop_factory=RelayEventLoop) as runner:
        runner.run(burst())
