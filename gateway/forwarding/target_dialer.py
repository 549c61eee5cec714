"""Dials the targets of one route. Limits the concurrent dials and the aborted handshakes for each path.

A path leads to one target, either through one tunnel or directly.
"""

import asyncio
import time
from collections import defaultdict

from gateway.connection_tap import Tap
from gateway.contracts.link import Link
from gateway.contracts.relay import Relay
from gateway.contracts.tracing import CHANNEL
from gateway.errors import DialError, FailureReason, LinkLostError
from gateway.forwarding.aborted_handshake_budget import CLOSE_DELAY, AbortedHandshakeBudget
from gateway.forwarding.backend_route import BackendRoute
from gateway.forwarding.pending_client import PendingClient
from gateway.forwarding.target_path import TargetPath
from gateway.metric_types import Histogram
from gateway.relay.dial_retry import retry_dial

_ADMISSION_INTERVAL = 0.01
"""Interval, in seconds, at which the first waiting client of a path tests the handshake budget."""
_MIN_DIAL_AFTER_WAIT = 2.0
"""Minimum time limit, in seconds, for the dial of a client that had to wait for the handshake budget."""
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
        self.replaced = False
        """Whether the route has changed. Another `TargetDialer` then connects new clients."""
        self._slots: dict[TargetPath, asyncio.Semaphore] = {}
        self._queues: defaultdict[TargetPath, asyncio.Lock] = defaultdict(asyncio.Lock)
        """For each path, the queue of clients that wait until the handshake budget allows the next client."""

    async def join(
        self,
        client: PendingClient,
        link: Link,
        target_path: TargetPath,
        latency: Histogram,
        within: float,
        tap: Tap | None = None,
    ) -> Relay:
        """Connect a client to a target.

        Args:
            client: The client.
            link: The current link of the path's uplink.
            target_path: The path to the target.
            latency: Records the response latencies.
            within: Time limit for the dial, in seconds.
            tap: See `gateway.contracts.link.Link.join`.

        Raises:
            DialError: The target cannot be reached, or the path's handshake budget did not admit the client in time.
            LinkLostError: The link failed during the dial, or the route has changed before the dial.
        """
        deadline = time.monotonic() + within
        budget = self.route.budget(target_path)
        if budget is None:
            return await self._join(client, link, target_path, latency, deadline, tap)
        if await self._admit(client, link, budget, target_path, deadline):
            deadline = max(deadline, time.monotonic() + _MIN_DIAL_AFTER_WAIT)
        budget.dials += 1
        try:
            relay = await self._join(client, link, target_path, latency, deadline, tap)
        finally:
            budget.dials -= 1
        budget.add_client(relay, time.monotonic())
        return relay

    async def _admit(
        self,
        client: PendingClient,
        link: Link,
        budget: AbortedHandshakeBudget,
        target_path: TargetPath,
        deadline: float,
    ) -> bool:
        """Wait until the path's handshake budget admits the client. Clients of a path wait in order of arrival.

        Returns:
            Whether the client has waited.
        """
        queue = self._queues[target_path]
        if not queue.locked() and budget.allows(time.monotonic()):
            return False
        client.watcher.start()
        budget.waiting += 1
        try:
            budget.stop_links()
            async with asyncio.timeout(deadline - time.monotonic()), queue:
                while True:
                    if self.replaced or target_path.uplink.link is not link:
                        raise LinkLostError
                    allowed = budget.allows(time.monotonic())
                    if allowed or budget.throttled:
                        break
                    # Poll, because the native engine does not report when a client has logged in.
                    await asyncio.sleep(_ADMISSION_INTERVAL)
        except TimeoutError:
            allowed = False
        finally:
            budget.waiting -= 1
        if not allowed:
            raise DialError(
                FailureReason.HOST_BLOCKED,
                f"{target_path.target}: {budget.aborted} aborted handshakes, and {budget.unproven(time.monotonic())}"
                f" clients that have not logged in yet; at {budget.limit} aborted handshakes, the server blocks the"
                " gateway",
            )
        return True

    async def _join(
        self,
        client: PendingClient,
        link: Link,
        target_path: TargetPath,
        latency: Histogram,
        deadline: float,
        tap: Tap | None,
    ) -> Relay:
        target = target_path.target
        slots = self._slots.get(target_path)
        if slots is None:
            slots = self._slots[target_path] = asyncio.Semaphore(_DIALS_PER_PATH)
        if slots.locked():
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    await slots.acquire()
            except TimeoutError:
                raise DialError(FailureReason.TIMEOUT, f"{target}: too many concurrent dials") from None
        else:
            await slots.acquire()
        client.enter(CHANNEL)
        started = time.perf_counter()
        try:
            relay = await retry_dial(
                lambda left: client.join(link, target, latency, left, tap),
                lambda: self.record_abandoned(target_path),
                max(deadline - time.monotonic(), MIN_DIAL),
            )
        finally:
            slots.release()
        target_path.uplink.channel_open.observe(time.perf_counter() - started)
        return relay

    def record_end(self, target_path: TargetPath, relay: Relay, began: float) -> None:
        """Update the handshake budget of a path after a client's connection has ended.

        Args:
            target_path: The client's path to the target.
            relay: The client's relay. Its number of responses shows whether the client logged in.
            began: Earliest monotonic time at which the client can have logged in.
        """
        if (budget := self.route.budget(target_path)) is not None:
            aborted = budget.remove_client(relay, began, time.monotonic())
            if aborted:
                self._check_if_needed(budget, target_path)

    def has_no_room(self, target_path: TargetPath) -> bool:
        """Return whether clients that have not logged in yet use up the rest of a path's handshake budget.

        Call this method after a dial over the path has failed because of the handshake budget.
        """
        budget = self.route.budget(target_path)
        return budget is not None and not budget.throttled

    def record_abandoned(self, target_path: TargetPath) -> None:
        """Record that a link has abandoned a dial over a path. The server might count it as an aborted handshake."""
        if (budget := self.route.budget(target_path)) is not None:
            budget.record_abandoned(time.monotonic())
            self._check_if_needed(budget, target_path)

    def _check_if_needed(self, budget: AbortedHandshakeBudget, target_path: TargetPath) -> None:
        """If the count of aborted handshakes is high, request a check, whose login resets the count.

        Wait `CLOSE_DELAY` seconds before the request, so that the server counts the latest aborted handshake before
        the login.
        """
        if budget.needs_login and not budget.check_scheduled:
            budget.check_scheduled = True
            asyncio.get_running_loop().call_later(CLOSE_DELAY, self._check, budget, target_path)

    def _check(self, budget: AbortedHandshakeBudget, target_path: TargetPath) -> None:
        budget.check_scheduled = False
        if budget.needs_login:
            self.route.on_failure(target_path)
