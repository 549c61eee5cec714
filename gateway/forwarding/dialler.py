"""The way of one client to a far side: the wait for a link, the targets in order, the dial."""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from gateway.contracts import Endpoint, Link, Relay, Stream
from gateway.errors import DialError, LinkLostError, Reason
from gateway.forwarding.aborts import LOGGED_IN, AbortBudget
from gateway.measure import Histogram
from gateway.relay.attempts import persist
from gateway.relay.readiness import GONE, readiness

_FIRST_RETRY = 0.05
_LAST_RETRY = 1.0
_RETRY_FACTOR = 2.0
_LEAST_DIAL = 0.05
"""Seconds that a dial gets even when the hold is used up, or is nothing."""
_NEXT_TARGET_AFTER = 2.0
"""Seconds that a target gets to accept a connection while there is another one to try."""
_DIALS_PER_TARGET = 64
"""At once: at the end of an outage everybody who was held comes at the same moment."""
_GIVE_UP = {Reason.CHANNEL_PROHIBITED}
"""Waiting does not help against these."""


class Path(Protocol):
    """What a forward needs of a tunnel's uplink."""

    link: Link | None
    channel_open: Histogram

    async def wait_link(self) -> Link:
        """Wait until there is a link."""


@dataclass(frozen=True)
class Route:
    """How a backend's clients get to it.

    Args:
        path: The uplink.
        targets: Gives the targets to try now, best first.
        failed: Told about each target that could not be dialled.
        hold: Seconds that a client waits while the path is down.
        budget: How many handshakes may break off at a target, where its server counts them.
        silent: Told about each target that a client has waited for too long.
    """

    path: Path
    targets: Callable[[], list[Endpoint]]
    failed: Callable[[Endpoint], None]
    hold: float
    budget: Callable[[Endpoint], AbortBudget | None] = lambda _: None
    silent: Callable[[Endpoint], None] = lambda _: None


class _HopelessError(DialError):
    """No target can be reached, and waiting does not help."""


class Arrival(NamedTuple):
    """A client that is joined, and to what."""

    target: Endpoint
    path: Path
    relay: Relay


class Dialler:
    """Joins the clients of one backend.

    Args:
        route: Where to.
    """

    def __init__(self, route: Route) -> None:
        self.route = route
        self.failing = False
        """Whether clients are reset rather than held."""
        self._rerouted = asyncio.Event()
        """Set, and replaced, when the route changes."""
        self._turns: dict[Endpoint, asyncio.Semaphore] = {}

    def hold_nobody(self, *, nobody: bool) -> None:
        """From now on, let no client wait for a path that is down, those included who wait already; or as before."""
        self.failing = nobody
        self._wake()

    def _wake(self) -> None:
        self._rerouted.set()
        self._rerouted = asyncio.Event()

    def reroute(self, route: Route) -> None:
        """Lead elsewhere from now on, those who wait too."""
        self.route = route
        self._turns = {}
        self._wake()

    async def join(self, client: Stream, vigil: "Vigil", latency: Histogram) -> Arrival:
        """Join `client` within the hold.

        Args:
            client: Who waits.
            vigil: Watches it meanwhile.
            latency: Where to count the time from a request to its answer.

        Raises:
            DialError: It could not be.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.route.hold
        pause = _FIRST_RETRY
        while True:
            route = self.route  # a reload may have put another in its place
            link = route.path.link
            if link is None and self.failing:
                raise DialError(Reason.TUNNEL, "the path is down, and clients are not held (fail)")
            if link is None:
                vigil.start()
                try:
                    async with asyncio.timeout_at(deadline):
                        link = await self._wait_link(route.path)
                except TimeoutError:
                    raise DialError(Reason.TUNNEL, f"the path was down for {route.hold:g} s (hold)") from None
                if link is None:
                    continue
            try:
                target, relay = await self._dial(_Wish(client, latency), link, route, deadline)
            except DialError as error:
                if isinstance(error, _HopelessError) or self.failing or loop.time() + pause > deadline:
                    raise
            else:
                return Arrival(target, route.path, relay)
            vigil.start()
            await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - jitter, not a secret
            pause = min(pause * _RETRY_FACTOR, _LAST_RETRY)

    async def _dial(self, wish: "_Wish", link: Link, route: Route, deadline: float) -> tuple[Endpoint, Relay]:
        """Join the first target that can be."""
        failure = DialError(Reason.ROLE, "no target is a writable primary")
        hopeless = True
        targets = route.targets()
        for target in targets:
            started = time.perf_counter()
            try:
                within = max(deadline - asyncio.get_running_loop().time(), _LEAST_DIAL)
                if target is not targets[-1]:
                    within = min(within, _NEXT_TARGET_AFTER)
                relay = await self._dial_one(wish, link, route, target, within)
            except DialError as error:
                hopeless &= error.reason in _GIVE_UP
                failure = error
                route.failed(target)
            except LinkLostError as error:
                raise DialError(Reason.TUNNEL, error.detail) from error
            else:
                route.path.channel_open.observe(time.perf_counter() - started)
                return target, relay
        if hopeless and targets:
            raise _HopelessError(failure.reason, failure.detail)
        raise failure

    async def _dial_one(self, wish: "_Wish", link: Link, route: Route, target: Endpoint, within: float) -> Relay:
        budget = route.budget(target)
        if budget is not None and not budget.admits(time.time()):
            raise DialError(
                Reason.HOST_BLOCKED,
                f"{target}: {budget.broken} handshakes were broken off, and at {budget.limit} it refuses everybody",
            )
        deadline = time.monotonic() + within
        turn = self._turns.get(target)
        if turn is None:
            turn = self._turns[target] = asyncio.Semaphore(_DIALS_PER_TARGET)
        if turn.locked():
            try:
                await asyncio.wait_for(turn.acquire(), within)
            except TimeoutError:
                raise DialError(Reason.TIMEOUT, f"{target}: too many others are being connected") from None
        else:
            await turn.acquire()
        try:
            return await persist(
                lambda left: link.join(wish.client, target, wish.latency, left),
                lambda: self._count(target, AbortBudget.given_up),
                max(deadline - time.monotonic(), _LEAST_DIAL),
            )
        finally:
            turn.release()

    def ended(self, target: Endpoint, relay: Relay, began: float) -> None:
        """A client has left that was connected at the time `began`: some servers count how."""
        if relay.answers < LOGGED_IN:
            self._count(target, AbortBudget.broke_off)
        elif (budget := self.route.budget(target)) is not None:
            budget.logged_in(began)

    def _count(self, target: Endpoint, how: Callable[[AbortBudget, float], None]) -> None:
        """A handshake was broken off, or may yet be."""
        budget = self.route.budget(target)
        if budget is not None:
            how(budget, time.time())
            if budget.worrying:
                self.route.failed(target)  # a check logs in, and the server forgets

    async def _wait_link(self, path: Path) -> Link | None:
        """The path's link, or None when a reload leads elsewhere."""
        waiting = [asyncio.ensure_future(path.wait_link()), asyncio.ensure_future(self._rerouted.wait())]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()
        return path.link


class _Wish(NamedTuple):
    """A client to be joined, and where its latency counts."""

    client: Stream
    latency: Histogram


class Vigil:
    """Cancels the current task when its client resets while it waits; reads nothing.

    Args:
        client: Whom to watch, until a relay takes the descriptor over.
    """

    def __init__(self, client: Stream) -> None:
        self.gone = False
        self._client = client
        self._watching = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Watch from now on: the wait may be long."""
        if not self._watching:
            self._watching = True
            self._task = asyncio.current_task()
            readiness().add(self._client.fileno(), self._noticed, GONE)

    def end(self) -> None:
        """Stop watching a client that was never joined."""
        if self._watching and not self.gone:
            readiness().remove(self._client.fileno())

    def _noticed(self, event: int) -> None:
        del event
        readiness().remove(self._client.fileno())
        self.gone = True
        if self._task is not None:
            self._task.cancel()
