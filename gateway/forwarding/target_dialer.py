"""Dials the targets of one route. Limits the concurrent dials and the aborted handshakes for each path.

A path leads to one target, either through one tunnel or directly.
"""

import asyncio
import time
from collections.abc import Callable

from gateway.connection_tap import Tap
from gateway.contracts.link import Link
from gateway.contracts.relay import Relay
from gateway.contracts.tracing import CHANNEL
from gateway.errors import DialError, FailureReason
from gateway.forwarding.aborted_handshake_budget import LOGIN_RESPONSES, AbortedHandshakeBudget
from gateway.forwarding.backend_route import BackendRoute
from gateway.forwarding.pending_client import PendingClient
from gateway.forwarding.target_with_uplink import TargetWithUplink
from gateway.metric_types import Histogram
from gateway.relay.dial_retry import retry_dial

MIN_DIAL = 0.05
"""Minimum time limit for a dial, in seconds. It applies even if `hold` has passed or is zero."""
_DIALS_PER_PATH = 64
"""Maximum number of concurrent dials over one path. After an outage, this limit prevents simultaneous dials for
all waiting clients."""


class TargetDialer:
    """Connects clients to targets, within the limits on concurrent dials and aborted handshakes.

    Args:
        route: The route to the targets.
    """

    def __init__(self, route: BackendRoute) -> None:
        self.route = route
        self._slots: dict[TargetWithUplink, asyncio.Semaphore] = {}

    async def join(
        self,
        client: PendingClient,
        link: Link,
        routed: TargetWithUplink,
        latency: Histogram,
        within: float,
        tap: Tap | None = None,
    ) -> Relay:
        """Connect a client to a target.

        Args:
            client: The client.
            link: The current link of the path's uplink.
            routed: The path to the target.
            latency: Records the response latencies.
            within: Time limit for the dial, in seconds.
            tap: See `gateway.contracts.link.Link.join`.

        Raises:
            DialError: The target cannot be reached, or too many handshakes with it were aborted.
            LinkLostError: The link failed during the dial.
        """
        target = routed.target
        budget = self.route.budget(routed)
        if budget is not None and not budget.allows(time.monotonic()):
            raise DialError(
                FailureReason.HOST_BLOCKED,
                f"{target}: {budget.aborted} aborted handshakes; at {budget.limit}, the server blocks the gateway",
            )
        deadline = time.monotonic() + within
        slots = self._slots.get(routed)
        if slots is None:
            slots = self._slots[routed] = asyncio.Semaphore(_DIALS_PER_PATH)
        if slots.locked():
            try:
                await asyncio.wait_for(slots.acquire(), within)
            except TimeoutError:
                raise DialError(FailureReason.TIMEOUT, f"{target}: too many concurrent dials") from None
        else:
            await slots.acquire()
        client.enter(CHANNEL)
        try:
            return await retry_dial(
                lambda left: client.join(link, target, latency, left, tap),
                lambda: self._count_aborted(routed, AbortedHandshakeBudget.record_abandoned),
                max(deadline - time.monotonic(), MIN_DIAL),
            )
        finally:
            slots.release()

    def record_end(self, routed: TargetWithUplink, relay: Relay, began: float) -> None:
        """Update the handshake budget of a path after a client's connection has ended.

        Args:
            routed: The client's path to the target.
            relay: The client's relay. Its number of responses shows whether the client logged in.
            began: Monotonic time at which the client was connected to the target.
        """
        if relay.responses < LOGIN_RESPONSES:
            self._count_aborted(routed, AbortedHandshakeBudget.record_aborted)
        elif (budget := self.route.budget(routed)) is not None:
            budget.record_login(began)

    def _count_aborted(
        self, routed: TargetWithUplink, record: Callable[[AbortedHandshakeBudget, float], None]
    ) -> None:
        """Count a handshake that was or might be aborted. If the count is high, request a check.

        The login of the check resets the count.

        Args:
            routed: The path.
            record: The method of the budget that counts the aborted handshake.
        """
        budget = self.route.budget(routed)
        if budget is not None:
            record(budget, time.monotonic())
            if budget.needs_login:
                # `on_failure` triggers a check. The login of the check resets the server's count.
                self.route.on_failure(routed)
