"""Joins one client to a target: waits for the link, then dials the targets in order."""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from gateway.contracts import CancelRequest, CloseReason, Endpoint, Link, LoginTap, Relay, Stream
from gateway.errors import DialError, LinkLostError, Reason
from gateway.forwarding.cancel_requests import CancelRouter, send_copy
from gateway.forwarding.disconnect_watcher import DisconnectWatcher
from gateway.forwarding.handshake_budget import LOGIN_RESPONSES, HandshakeBudget
from gateway.forwarding.routed_target import LinkSource, RoutedTarget
from gateway.measure import Histogram, Tap, TapFactory
from gateway.relay.redial import retry_dial

_FIRST_RETRY = 0.05
_LAST_RETRY = 1.0
_RETRY_FACTOR = 2.0
_MIN_DIAL = 0.05
"""Seconds that a dial gets even if the hold time is used up or zero."""
_NEXT_TARGET_AFTER = 2.0
"""Seconds for a target to accept a connection while there is another target to try."""
_DIALS_PER_TARGET = 64
"""Concurrent dials per target. After an outage, all held clients dial at the same moment."""
_CANCEL_DIAL_TIMEOUT = 5.0
"""Seconds to dial for a cancel request. A later request might cancel the session's next query."""
_NO_PRIMARY = "no target is a writable primary"
_PERMANENT = {Reason.CHANNEL_PROHIBITED}
"""Reasons for which a retry does not help."""


@dataclass(frozen=True)
class Route:
    """How the clients of a backend reach its targets.

    Args:
        uplink: The uplink that leads to the targets.
        targets: Returns the targets to try now, best first.
        on_failure: Called with each target that cannot be dialed or that resets a connection.
        hold: Seconds that a client waits while the uplink is down.
        budget: Returns the handshake budget of a target; None if its server does not count aborted handshakes.
        on_stall: Called with each target that has not answered a request in time.
    """

    uplink: LinkSource
    targets: Callable[[], list[Endpoint]]
    on_failure: Callable[[Endpoint], None]
    hold: float
    budget: Callable[[Endpoint], HandshakeBudget | None] = lambda _: None
    on_stall: Callable[[Endpoint], None] = lambda _: None
    _routed: dict[Endpoint, RoutedTarget] = field(default_factory=dict, init=False, repr=False, compare=False)

    def routed(self, target: Endpoint) -> RoutedTarget:
        """Return `target` with the uplink; always the same object, because every connection keeps a reference."""
        existing = self._routed.get(target)
        if existing is None:
            existing = self._routed[target] = RoutedTarget(self.uplink, target)
        return existing


class _PermanentDialError(DialError):
    """No target can be reached, and a retry does not help."""


class JoinedClient(NamedTuple):
    """A client that was joined to a target."""

    routed: RoutedTarget
    relay: Relay
    login: LoginTap | None = None
    """Watches the login; None if that is not needed, or if the client sends a cancel request."""


class Dialer:
    """Joins the clients of one backend to targets.

    Args:
        route: The current route.
        make_tap: Creates the taps that measure latency; None: the relay measures it by direction.
        cancels: Routes cancel requests; None: the kind has none on connections of their own.
    """

    def __init__(self, route: Route, make_tap: TapFactory | None = None, cancels: CancelRouter | None = None) -> None:
        self.route = route
        self._make_tap = make_tap
        self._cancels = cancels
        self.fail_fast = False
        """Whether clients are reset instead of held while the uplink is down."""
        self._changed = asyncio.Event()
        """Set, and replaced, when the route or `fail_fast` changes."""
        self._dial_slots: dict[Endpoint, asyncio.Semaphore] = {}

    def set_fail_fast(self, *, enabled: bool) -> None:
        """Set whether to reset clients, including clients that wait already, while the uplink is down."""
        self.fail_fast = enabled
        self._wake_waiting()

    def _wake_waiting(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def set_route(self, route: Route) -> None:
        """Replace the route, also for clients that wait."""
        self.route = route
        self._dial_slots = {}
        self._wake_waiting()

    async def read_cancel_request(self, client: Stream, watcher: DisconnectWatcher) -> CancelRequest | None:
        """Read the client's cancel request. The bytes stay unread.

        Args:
            client: The client's socket.
            watcher: Watches the client.

        Returns:
            None if the connection is not a cancel request.

        Raises:
            DialError: The client has disconnected.
        """
        route = self.route
        target = next(iter(route.targets()), None)
        routed = route.routed(target) if target is not None else None
        if self._cancels is None:
            return None
        return await self._cancels.read_cancel_request(client, watcher, route.uplink.link, routed)

    async def join(
        self, client: Stream, watcher: DisconnectWatcher, latency: Histogram, request: CancelRequest | None = None
    ) -> JoinedClient:
        """Join `client` to a target within the hold time.

        Args:
            client: The client's socket. The relay owns it once this returns.
            watcher: Watches the client while it waits.
            latency: Receives the response latencies.
            request: The client's cancel request, if it was read already.

        Raises:
            DialError: No target could be joined.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.route.hold
        pending = _PendingClient(client, watcher, latency, request)
        pause = _FIRST_RETRY
        while True:
            route = self.route  # a reload may have replaced it
            link = route.uplink.link
            if link is None and self.fail_fast:
                raise DialError(Reason.TUNNEL, "the path is down, and clients are not held (fail)")
            if link is None:
                watcher.start()
                try:
                    async with asyncio.timeout_at(deadline):
                        link = await self._wait_link(route.uplink)
                except TimeoutError:
                    raise DialError(Reason.TUNNEL, f"the path was down for {route.hold:g} s (hold)") from None
                if link is None:
                    continue
            try:
                return await self._dial(pending, link, route, deadline)
            except DialError as error:
                permanent = isinstance(error, _PermanentDialError) or pending.request is not None
                if permanent or self.fail_fast or loop.time() + pause > deadline:
                    raise
            watcher.start()
            await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - jitter, not a secret
            pause = min(pause * _RETRY_FACTOR, _LAST_RETRY)

    async def _dial(self, pending: "_PendingClient", link: Link, route: Route, deadline: float) -> JoinedClient:
        """Join the client to the first target that accepts, or a cancel request to the target of its session."""
        failure: DialError | None = None
        permanent = True
        targets = route.targets()
        if not targets and (request := await self._cancel_request(pending, link, None)) is not None:
            return await self._join_cancel(pending, request, link, route, None)
        for target in targets:
            routed = route.routed(target)
            if (request := await self._cancel_request(pending, link, routed)) is not None:
                return await self._join_cancel(pending, request, link, route, routed)
            started = time.perf_counter()
            login = self._cancels.login_tap() if self._cancels else None
            tap = login or (self._make_tap(pending.latency.observe) if self._make_tap else None)
            try:
                within = max(deadline - asyncio.get_running_loop().time(), _MIN_DIAL)
                if target is not targets[-1]:
                    within = min(within, _NEXT_TARGET_AFTER)
                relay = await self._dial_target(pending, link, route, target, within, tap)
            except DialError as error:
                permanent &= error.reason in _PERMANENT
                failure = error
                route.on_failure(target)
            except LinkLostError as error:
                raise DialError(Reason.TUNNEL, error.detail) from error
            else:
                route.uplink.channel_open.observe(time.perf_counter() - started)
                return JoinedClient(routed, relay, login)
        if failure is None:
            raise DialError(Reason.ROLE, _NO_PRIMARY)
        raise _PermanentDialError(failure.reason, failure.detail) if permanent else failure

    async def _cancel_request(
        self, pending: "_PendingClient", link: Link, routed: RoutedTarget | None
    ) -> CancelRequest | None:
        """Return the client's cancel request; read it only if its session may be on a target other than `routed`."""
        cancels = self._cancels
        if (
            pending.request is None
            and not pending.classified
            and cancels is not None
            and cancels.has_sessions_elsewhere(routed)
        ):
            pending.request = await cancels.read_cancel_request(pending.client, pending.watcher, link, routed)
            pending.classified = routed is not None
        return pending.request

    async def _join_cancel(
        self,
        pending: "_PendingClient",
        request: CancelRequest,
        link: Link,
        route: Route,
        default: RoutedTarget | None,
    ) -> JoinedClient:
        """Join a cancel request to one target, and send copies to the other targets that may have the session."""
        candidates = self._cancels.targets_for(request, default) if self._cancels else []
        if not candidates:
            raise DialError(Reason.ROLE, _NO_PRIMARY)
        chosen = default if default is not None and default in candidates else candidates[0]
        link_to_chosen = link if chosen.uplink is route.uplink else chosen.uplink.link
        if link_to_chosen is None:
            raise DialError(Reason.TUNNEL, f"the path to {chosen.target} is down, and its sessions with it")
        copies = asyncio.gather(*(send_copy(request, each) for each in candidates if each != chosen))
        relay: Relay | None = None
        try:
            relay = await self._dial_target(pending, link_to_chosen, route, chosen.target, _CANCEL_DIAL_TIMEOUT)
            await copies
        except DialError:
            route.on_failure(chosen.target)
            await copies
            raise
        except LinkLostError as error:
            await copies
            raise DialError(Reason.TUNNEL, error.detail) from error
        except BaseException:
            copies.cancel()
            if relay is not None:
                relay.abort(CloseReason.ABORTED)
            raise
        return JoinedClient(chosen, relay)

    async def _dial_target(
        self,
        pending: "_PendingClient",
        link: Link,
        route: Route,
        target: Endpoint,
        within: float,
        tap: Tap | None = None,
    ) -> Relay:
        budget = route.budget(target)
        if budget is not None and not budget.allows(time.time()):
            raise DialError(
                Reason.HOST_BLOCKED,
                f"{target}: {budget.aborted} handshakes were aborted; at {budget.limit} it blocks all clients",
            )
        deadline = time.monotonic() + within
        slots = self._dial_slots.get(target)
        if slots is None:
            slots = self._dial_slots[target] = asyncio.Semaphore(_DIALS_PER_TARGET)
        if slots.locked():
            try:
                await asyncio.wait_for(slots.acquire(), within)
            except TimeoutError:
                raise DialError(Reason.TIMEOUT, f"{target}: too many concurrent dials") from None
        else:
            await slots.acquire()
        try:
            return await retry_dial(
                lambda left: link.join(pending.client, target, pending.latency, left, tap),
                lambda: self._count_aborted(target, HandshakeBudget.record_abandoned),
                max(deadline - time.monotonic(), _MIN_DIAL),
            )
        finally:
            slots.release()

    def record_end(self, target: Endpoint, relay: Relay, began: float) -> None:
        """Update the handshake budget of `target` after a client's connection has ended.

        Args:
            target: The client's target.
            relay: The client's relay.
            began: When the client was joined, in seconds since the epoch.
        """
        if relay.responses < LOGIN_RESPONSES:
            self._count_aborted(target, HandshakeBudget.record_aborted)
        elif (budget := self.route.budget(target)) is not None:
            budget.record_login(began)

    def _count_aborted(self, target: Endpoint, record: Callable[[HandshakeBudget, float], None]) -> None:
        """Count a handshake that was, or may still be, aborted."""
        budget = self.route.budget(target)
        if budget is not None:
            record(budget, time.time())
            if budget.needs_login:
                self.route.on_failure(target)  # this triggers a check, whose login resets the server's count

    async def _wait_link(self, uplink: LinkSource) -> Link | None:
        """Wait for the uplink's link; None if the route or `fail_fast` changes first."""
        waiting = [asyncio.ensure_future(uplink.wait_link()), asyncio.ensure_future(self._changed.wait())]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()
        return uplink.link


@dataclass
class _PendingClient:
    """A client that is being joined.

    Args:
        client: Its socket.
        watcher: Watches it while it waits.
        latency: Receives the response latencies.
        request: Its cancel request, if it was read.
        classified: Whether its first bytes need not be read again.
    """

    client: Stream
    watcher: DisconnectWatcher
    latency: Histogram
    request: CancelRequest | None
    classified: bool = False
