"""Connects a client to a target: waits for an open tunnel, dials the targets in order of preference, and retries."""

import asyncio
import random
from collections.abc import Collection, Mapping
from typing import NamedTuple

from gateway.connection_tap import TapFactory
from gateway.contracts.relay import Relay
from gateway.contracts.tracing import DIAL, HOLD
from gateway.errors import DialError, FailureReason, LinkLostError, TargetPathError
from gateway.forwarding.backend_route import BackendRoute
from gateway.forwarding.better_path_watch import (
    RECHECK_INTERVAL,
    BetterPathAvailableError,
    stop_if_another_path_is_better,
)
from gateway.forwarding.cancel_request_sender import join_cancel_request
from gateway.forwarding.pending_client import PendingClient
from gateway.forwarding.query_cancel_router import QueryCancelRouter
from gateway.forwarding.target_dialer import MIN_DIAL, TargetDialer
from gateway.forwarding.target_path import LinkProvider, TargetPath
from gateway.metric_types import Histogram
from gateway.query_cancel_parser import CancelKeyTap

_FIRST_RETRY = 0.05
_LAST_RETRY = 1.0
_RETRY_FACTOR = 2.0
_NEXT_AFTER = 2.0
"""Maximum duration of a dial, in seconds, if there is another path or target to try next."""
_REDIALS = 2
"""How often a dial is repeated over the same path after a connection of its link was lost."""
_NO_PRIMARY = "no target is a writable primary"
_PERMANENT = {FailureReason.CHANNEL_PROHIBITED}
"""Failures that a retry cannot fix."""


class _PermanentDialError(DialError):
    """No target can be reached, for reasons that a retry cannot fix."""


class DialResult(NamedTuple):
    """The result of a successful dial: the target, the uplink used, and the relay between client and target."""

    target_path: TargetPath
    relay: Relay
    login: CancelKeyTap | None = None
    """Reads the session's cancel key from the login. None if the kind has no cancel requests, or if the client sends
    a cancel request instead of a login."""


class RetryingDialer:
    """Connects each client of one backend to a target. Tries paths and targets in order, until a dial succeeds.

    Args:
        route: The current route.
        make_tap: Creates a tap that measures the latency of one connection; None if the relay itself measures the
            latency.
        cancels: Routes cancel requests; None if clients send no cancel requests on separate connections.
    """

    def __init__(
        self, route: BackendRoute, make_tap: TapFactory | None = None, cancels: QueryCancelRouter | None = None
    ) -> None:
        self.target_dialer = TargetDialer(route)
        """Dials the targets of the current route."""
        self._make_tap = make_tap
        self._cancels = cancels
        self.fail_fast = False
        """While true, a client's connection is reset immediately if all uplinks are down, or if all dials fail.
        While false, the client waits, and the dials are repeated."""
        self._changed = asyncio.Event()
        """Wakes the waiting clients when the route or `fail_fast` changes. `_wake_waiting` creates a new
        `asyncio.Event` for each change."""

    @property
    def knows_cancel_requests(self) -> bool:
        """Whether the backend's clients send cancel requests on separate connections."""
        return self._cancels is not None

    def set_fail_fast(self, *, enabled: bool) -> None:
        """Set `fail_fast`, and wake the waiting clients."""
        self.fail_fast = enabled
        self._wake_waiting()

    def _wake_waiting(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def set_route(self, route: BackendRoute) -> None:
        """Replace the route for new clients and for clients that wait for a tunnel."""
        self.target_dialer.replaced = True
        self.target_dialer = TargetDialer(route)
        self._wake_waiting()

    async def read_cancel_request(self, client: PendingClient) -> None:
        """Set `client.request` if the client sends a cancel request.

        The cancel request remains in the socket's receive buffer, so the relay still forwards it.

        Args:
            client: The client.

        Raises:
            DialError: The client has disconnected.
        """
        if self._cancels is None:
            return
        target_path = next(iter(self.target_dialer.route.paths()), None)
        target = target_path.identity if target_path is not None else None
        client.request = await self._cancels.read_cancel_request(client.sock, client.watcher, target)

    async def join(self, client: PendingClient, latency: Histogram) -> DialResult:
        """Connect `client` to a target. If no target can be reached, retry until the route's `hold` has passed.

        Args:
            client: The client.
            latency: Records the response latencies.

        Raises:
            DialError: No target could be reached within `hold`, or a dial failed with an error that a retry cannot
                fix.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.target_dialer.route.hold - client.waited
        pause = _FIRST_RETRY
        stopped: TargetPath | None = None
        while True:
            dialer = self.target_dialer  # get the dialer after each wait, because a reload can replace it
            route = dialer.route
            paths = route.paths()
            uplinks = {each.uplink for each in paths} or set(route.uplinks)
            if all(each.link is None for each in uplinks):
                cancelled = await self._join_if_cancel(client, dialer, latency, paths[0] if paths else None)
                if cancelled is not None:
                    return cancelled
                if self.fail_fast:
                    raise DialError(
                        FailureReason.TUNNEL,
                        "no tunnel is open, and `gateway fail` is in effect: clients do not wait for one",
                    )
                client.enter(HOLD)
                client.watcher.start()
                try:
                    async with asyncio.timeout_at(deadline):
                        await self._wait_link(uplinks, None if len(route.uplinks) == 1 else RECHECK_INTERVAL)
                except TimeoutError:
                    raise DialError(
                        FailureReason.TUNNEL, f"no tunnel came up within {route.hold:g} s (`hold`)"
                    ) from None
                continue
            try:
                if stopped is not None:
                    paths = sorted(paths, key=lambda each: each == stopped)
                return await self._dial(client, dialer, paths, latency, deadline)
            except BetterPathAvailableError as error:
                stopped = error.target_path
                continue
            except DialError as error:
                permanent = isinstance(error, _PermanentDialError) or client.request is not None
                if permanent or self.fail_fast or loop.time() + pause > deadline:
                    raise
            client.enter(DIAL)
            client.watcher.start()
            await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - jitter, not a secret
            pause = min(pause * _RETRY_FACTOR, _LAST_RETRY)

    async def _dial(
        self,
        client: PendingClient,
        dialer: TargetDialer,
        paths: list[TargetPath],
        latency: Histogram,
        deadline: float,
    ) -> DialResult:
        """Connect the client over the first path that succeeds. Forward cancel requests to the right target."""
        if not paths:
            if (cancelled := await self._join_if_cancel(client, dialer, latency, None)) is not None:
                return cancelled
            raise DialError(FailureReason.ROLE, _NO_PRIMARY)
        failures: dict[TargetPath, TargetPathError] = {}
        dialed = [each for each in paths if each.uplink.link is not None]
        for target_path in dialed:
            client.enter(DIAL)
            if (cancelled := await self._join_if_cancel(client, dialer, latency, target_path)) is not None:
                return cancelled
            within = max(deadline - asyncio.get_running_loop().time(), MIN_DIAL)
            try:
                if target_path is dialed[-1]:
                    async with stop_if_another_path_is_better(dialer.route, dialed, _NEXT_AFTER, deadline):
                        joined = await self._join_path(client, dialer, target_path, latency, within)
                else:
                    joined = await self._join_path(client, dialer, target_path, latency, min(within, _NEXT_AFTER))
            except BetterPathAvailableError:
                dialer.route.on_failure(target_path)
                raise
            except (DialError, LinkLostError) as error:
                failures[target_path] = error
                is_replaced = isinstance(error, LinkLostError) and dialer is not self.target_dialer
                if is_replaced or not _report_failure(dialer, target_path, error):
                    break
            else:
                _report_detours(dialer, target_path, failures)
                return joined
        raise _failure(list(failures.values()))

    async def _join_path(
        self, client: PendingClient, dialer: TargetDialer, target_path: TargetPath, latency: Histogram, within: float
    ) -> DialResult:
        """Connect the client to a target over one path. Fail if this takes longer than `within` seconds.

        A link can have several connections, such as those of an SSH pool. If only one of them is lost, dial again.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + within
        for _ in range(_REDIALS):
            try:
                return await self._dial_once(client, dialer, target_path, latency, max(end - loop.time(), MIN_DIAL))
            except LinkLostError:
                if dialer is not self.target_dialer or target_path.uplink.link is None:
                    raise
        return await self._dial_once(client, dialer, target_path, latency, max(end - loop.time(), MIN_DIAL))

    async def _dial_once(
        self, client: PendingClient, dialer: TargetDialer, target_path: TargetPath, latency: Histogram, within: float
    ) -> DialResult:
        login = self._cancels.cancel_key_tap() if self._cancels else None
        tap = login or (self._make_tap(latency.observe) if self._make_tap else None)
        if target_path.uplink.link is None:
            raise LinkLostError
        relay = await dialer.join(client, target_path.uplink.link, target_path, latency, within, tap)
        return DialResult(target_path, relay, login)

    async def _join_if_cancel(
        self, client: PendingClient, dialer: TargetDialer, latency: Histogram, default: TargetPath | None
    ) -> DialResult | None:
        """If the client sends a cancel request, connect the client to the right target. Otherwise, return None.

        If all sessions are on the target of `default`, do not read the request: a connection over `default` takes it
        to the right target. Also return None while `default` and all targets of the request have no link.
        """
        cancels = self._cancels
        if cancels is None:
            return None
        target = default.identity if default is not None else None
        if client.request is None and not client.classified and cancels.has_sessions_elsewhere(target):
            client.request = await cancels.read_cancel_request(client.sock, client.watcher, target)
            client.classified = target is not None and target.link is not None
        if client.request is None:
            return None
        candidates = cancels.targets_for(client.request, target)
        if not candidates:
            raise DialError(FailureReason.ROLE, _NO_PRIMARY)
        if default is not None and default.uplink.link is None and all(each.link is None for each in candidates):
            return None
        return DialResult(*await join_cancel_request(client, client.request, dialer, latency, candidates, default))

    async def _wait_link(self, uplinks: Collection[LinkProvider], within: float | None) -> None:
        """Wait for a link, a new route, or a change of `fail_fast`, for at most `within` seconds."""
        waiting = [asyncio.ensure_future(each.wait_link()) for each in uplinks]
        changed = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait([*waiting, changed], timeout=within, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in (*waiting, changed):
                each.cancel()


def _report_failure(dialer: TargetDialer, target_path: TargetPath, error: TargetPathError) -> bool:
    """Report a failed dial. Return whether to try the next path.

    If logins in progress use up the handshake budget, report nothing, and return False: the target works, so the
    client must wait for this path.
    """
    if _refused_by_budget(error) and dialer.has_no_room(target_path):
        return False
    if isinstance(error, DialError):
        dialer.route.on_failure(target_path)
    return True


def _report_detours(
    dialer: TargetDialer, target_path: TargetPath, failures: Mapping[TargetPath, TargetPathError]
) -> None:
    """Call `on_detour` for each failed path to the target that was then reached over `target_path`."""
    for failed, failure in failures.items():
        if failed.identity == target_path.identity and not _refused_by_budget(failure):
            dialer.route.on_detour(failed)


def _refused_by_budget(error: TargetPathError) -> bool:
    """Return whether the handshake budget refused the dial. Such an error does not indicate a faulty path."""
    return isinstance(error, DialError) and error.reason is FailureReason.HOST_BLOCKED


def _failure(errors: list[TargetPathError]) -> DialError:
    """Return the last error. It is a `_PermanentDialError` if a retry can fix none of the errors."""
    if not errors:
        return DialError(FailureReason.TUNNEL, "the link was lost")
    last = errors[-1]
    if all(isinstance(each, DialError) and each.reason in _PERMANENT for each in errors):
        return _PermanentDialError(last.reason, last.detail)
    return DialError(last.reason, last.detail)
