"""Joins one client to a target: waits for the link, then dials the targets in order."""

import asyncio
import random
import time
from typing import NamedTuple

from gateway.cancel_protocol import CancelRequest, LoginTap
from gateway.contracts.link import Link, Relay
from gateway.contracts.states import CloseReason
from gateway.errors import DialError, LinkLostError, Reason
from gateway.forwarding.cancel_requests import CancelRouter, send_copy
from gateway.forwarding.pending_client import PendingClient
from gateway.forwarding.route import Route
from gateway.forwarding.routed_target import LinkSource, RoutedTarget
from gateway.forwarding.target_dialer import MIN_DIAL, TargetDialer
from gateway.measure import Histogram, TapFactory

_FIRST_RETRY = 0.05
_LAST_RETRY = 1.0
_RETRY_FACTOR = 2.0
_NEXT_TARGET_AFTER = 2.0
"""Time limit, in seconds, for a dial to a target if another target can be tried after it."""
_CANCEL_DIAL_TIMEOUT = 5.0
"""Time limit, in seconds, for a dial with a cancel request. A late request might cancel the session's next query."""
_NO_PRIMARY = "no target is a writable primary"
_PERMANENT = {Reason.CHANNEL_PROHIBITED}
"""Reasons for which a retry does not help."""


class _PermanentDialError(DialError):
    """No target can be reached, and a retry does not help."""


class JoinedClient(NamedTuple):
    """A client that was joined to a target."""

    routed: RoutedTarget
    relay: Relay
    login: LoginTap | None = None
    """Observes the login; None if this is not needed, or if the client sends a cancel request."""


class Dialer:
    """Joins the clients of one backend to targets.

    Args:
        route: The current route.
        make_tap: Creates the taps that measure latency; None if the relay measures latency by data direction.
        cancels: Routes cancel requests; None if the kind sends none on separate connections.
    """

    def __init__(self, route: Route, make_tap: TapFactory | None = None, cancels: CancelRouter | None = None) -> None:
        self.target_dialer = TargetDialer(route)
        """Dials the targets of the current route."""
        self._make_tap = make_tap
        self._cancels = cancels
        self.fail_fast = False
        """Whether clients are reset instead of held while the uplink is down."""
        self._changed = asyncio.Event()
        """Event that is set when the route or `fail_fast` changes. It is then replaced by a new event."""

    @property
    def knows_cancel_requests(self) -> bool:
        """Whether the kind sends cancel requests on separate connections."""
        return self._cancels is not None

    def set_fail_fast(self, *, enabled: bool) -> None:
        """Set whether to reset clients while the uplink is down. Also applies to clients that already wait."""
        self.fail_fast = enabled
        self._wake_waiting()

    def _wake_waiting(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def set_route(self, route: Route) -> None:
        """Replace the route. Also applies to clients that already wait."""
        self.target_dialer = TargetDialer(route)
        self._wake_waiting()

    async def read_cancel_request(self, client: PendingClient) -> None:
        """Read the client's cancel request, if it sends one. The bytes stay unread.

        Args:
            client: The client. If it sends other data, its `request` stays None.

        Raises:
            DialError: The client has disconnected.
        """
        if self._cancels is None:
            return
        route = self.target_dialer.route
        target = next(iter(route.targets()), None)
        routed = self.target_dialer.routed(target) if target is not None else None
        client.request = await self._cancels.read_cancel_request(
            client.sock, client.watcher, route.uplink.link, routed
        )

    async def join(self, client: PendingClient, latency: Histogram) -> JoinedClient:
        """Join `client` to a target within the hold time.

        Args:
            client: The client.
            latency: Records the response latencies.

        Raises:
            DialError: No target could be joined.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.target_dialer.route.hold
        pause = _FIRST_RETRY
        while True:
            dialer = self.target_dialer  # a reload might have replaced it
            route = dialer.route
            link = route.uplink.link
            if link is None and self.fail_fast:
                raise DialError(Reason.TUNNEL, "the path is down, and gateway fail has disabled the hold")
            if link is None:
                client.watcher.start()
                try:
                    async with asyncio.timeout_at(deadline):
                        link = await self._wait_link(route.uplink)
                except TimeoutError:
                    raise DialError(Reason.TUNNEL, f"the path was down for {route.hold:g} s (hold)") from None
                if link is None:
                    continue
            try:
                return await self._dial(client, dialer, link, latency, deadline)
            except DialError as error:
                permanent = isinstance(error, _PermanentDialError) or client.request is not None
                if permanent or self.fail_fast or loop.time() + pause > deadline:
                    raise
            client.watcher.start()
            await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - jitter, not a secret
            pause = min(pause * _RETRY_FACTOR, _LAST_RETRY)

    async def _dial(
        self, client: PendingClient, dialer: TargetDialer, link: Link, latency: Histogram, deadline: float
    ) -> JoinedClient:
        """Join the client to the first target that accepts it. Join a cancel request to the target of its session."""
        failure: DialError | None = None
        permanent = True
        route = dialer.route
        targets = route.targets()
        cancels = self._cancels
        if not targets and cancels and (request := await self._cancel_request(client, link, None)) is not None:
            return await self._join_cancel(client, request, dialer, link, latency, None)
        for target in targets:
            routed = dialer.routed(target)
            if cancels and (request := await self._cancel_request(client, link, routed)) is not None:
                return await self._join_cancel(client, request, dialer, link, latency, routed)
            started = time.perf_counter()
            login = cancels.login_tap() if cancels else None
            tap = login or (self._make_tap(latency.observe) if self._make_tap else None)
            try:
                within = max(deadline - asyncio.get_running_loop().time(), MIN_DIAL)
                if target is not targets[-1]:
                    within = min(within, _NEXT_TARGET_AFTER)
                relay = await dialer.join(client, link, target, latency, within, tap)
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
        self, client: PendingClient, link: Link, routed: RoutedTarget | None
    ) -> CancelRequest | None:
        """Return the client's cancel request. Read it only if its session might not be on `routed`."""
        cancels = self._cancels
        if (
            client.request is None
            and not client.classified
            and cancels is not None
            and cancels.has_sessions_elsewhere(routed)
        ):
            client.request = await cancels.read_cancel_request(client.sock, client.watcher, link, routed)
            client.classified = routed is not None
        return client.request

    async def _join_cancel(
        self,
        client: PendingClient,
        request: CancelRequest,
        dialer: TargetDialer,
        link: Link,
        latency: Histogram,
        default: RoutedTarget | None,
    ) -> JoinedClient:
        """Join a cancel request to one target, and send copies to the other targets that might have the session."""
        candidates = self._cancels.targets_for(request, default) if self._cancels else []
        if not candidates:
            raise DialError(Reason.ROLE, _NO_PRIMARY)
        chosen = default if default is not None and default in candidates else candidates[0]
        link_to_chosen = link if chosen.uplink is dialer.route.uplink else chosen.uplink.link
        if link_to_chosen is None:
            raise DialError(Reason.TUNNEL, f"the path to {chosen.target} is down, so its sessions have ended")
        copies = asyncio.gather(*(send_copy(request, each) for each in candidates if each != chosen))
        relay: Relay | None = None
        try:
            relay = await dialer.join(client, link_to_chosen, chosen.target, latency, _CANCEL_DIAL_TIMEOUT)
            await copies
        except DialError:
            dialer.route.on_failure(chosen.target)
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

    async def _wait_link(self, uplink: LinkSource) -> Link | None:
        """Wait for the uplink's link, and return it; None if the route or `fail_fast` changes first."""
        waiting = [asyncio.ensure_future(uplink.wait_link()), asyncio.ensure_future(self._changed.wait())]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()
        return uplink.link
