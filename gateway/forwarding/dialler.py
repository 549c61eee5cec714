"""The way of one client to a far side: the wait for a link, the targets in order, the dial."""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from gateway.contracts import CancelRequest, Ending, Endpoint, Link, LoginTap, Relay, Stream
from gateway.errors import DialError, LinkLostError, Reason
from gateway.forwarding.aborts import LOGGED_IN, AbortBudget
from gateway.forwarding.cancels import Cancelling, copy
from gateway.forwarding.path import Path, Place
from gateway.forwarding.vigil import Vigil
from gateway.measure import Histogram, MakeTap, Tap
from gateway.relay.attempts import retry_dial

_FIRST_RETRY = 0.05
_LAST_RETRY = 1.0
_RETRY_FACTOR = 2.0
_LEAST_DIAL = 0.05
"""Seconds that a dial gets even when the hold is used up, or is nothing."""
_NEXT_TARGET_AFTER = 2.0
"""Seconds that a target gets to accept a connection while there is another one to try."""
_DIALS_PER_TARGET = 64
"""At once: at the end of an outage everybody who was held comes at the same moment."""
_CANCEL_WITHIN = 5.0
"""Seconds for dialling on behalf of a request to cancel: later it might end the session's next query."""
_NO_PRIMARY = "no target is a writable primary"
_GIVE_UP = {Reason.CHANNEL_PROHIBITED}
"""Waiting does not help against these."""


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
    _places: dict[Endpoint, Place] = field(default_factory=dict, init=False, repr=False, compare=False)

    def place(self, target: Endpoint) -> Place:
        """`target` on this route: the same object each time, since every connection keeps it."""
        known = self._places.get(target)
        if known is None:
            known = self._places[target] = Place(self.path, target)
        return known


class _HopelessError(DialError):
    """No target can be reached, and waiting does not help."""


class Arrival(NamedTuple):
    """A client that is joined, and to what."""

    place: Place
    relay: Relay
    login: LoginTap | None = None
    """What watches it log in, where that matters; None also for a request to cancel."""


class Dialler:
    """Joins the clients of one backend.

    Args:
        route: Where to.
        make_tap: Makes what finds latency in the traffic; None: taking turns does.
        cancels: Finds what requests to cancel are for; None: they come with the session, or not at all.
    """

    def __init__(self, route: Route, make_tap: MakeTap | None = None, cancels: Cancelling | None = None) -> None:
        self.route = route
        self._make_tap = make_tap
        self._cancels = cancels
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

    async def hear(self, client: Stream, vigil: Vigil) -> CancelRequest | None:
        """The request to cancel that `client` comes with, if it is one; it stays unread.

        Raises:
            DialError: The client is gone.
        """
        route = self.route
        target = next(iter(route.targets()), None)
        place = route.place(target) if target is not None else None
        return await self._cancels.hear(client, vigil, route.path.link, place) if self._cancels else None

    async def join(
        self, client: Stream, vigil: Vigil, latency: Histogram, request: CancelRequest | None = None
    ) -> Arrival:
        """Join `client` within the hold.

        Args:
            client: Who waits.
            vigil: Watches it meanwhile.
            latency: Where to count the time from a request to its answer.
            request: What it comes with, where that is known.

        Raises:
            DialError: It could not be.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.route.hold
        wish = _Wish(client, vigil, latency, request)
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
                return await self._dial(wish, link, route, deadline)
            except DialError as error:
                hopeless = isinstance(error, _HopelessError) or wish.request is not None
                if hopeless or self.failing or loop.time() + pause > deadline:
                    raise
            vigil.start()
            await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - jitter, not a secret
            pause = min(pause * _RETRY_FACTOR, _LAST_RETRY)

    async def _dial(self, wish: "_Wish", link: Link, route: Route, deadline: float) -> Arrival:
        """Join the first target that can be, or, for a request to cancel, the one that it is for."""
        failure: DialError | None = None
        hopeless = True
        targets = route.targets()
        if not targets and (request := await self._request(wish, link, None)) is not None:
            return await self._bring(wish, request, link, route, None)
        for target in targets:
            place = route.place(target)
            if (request := await self._request(wish, link, place)) is not None:
                return await self._bring(wish, request, link, route, place)
            started = time.perf_counter()
            login = self._cancels.watch() if self._cancels else None
            tap = login or (self._make_tap(wish.latency.observe) if self._make_tap else None)
            try:
                within = max(deadline - asyncio.get_running_loop().time(), _LEAST_DIAL)
                if target is not targets[-1]:
                    within = min(within, _NEXT_TARGET_AFTER)
                relay = await self._dial_one(wish, link, route, target, within, tap)
            except DialError as error:
                hopeless &= error.reason in _GIVE_UP
                failure = error
                route.failed(target)
            except LinkLostError as error:
                raise DialError(Reason.TUNNEL, error.detail) from error
            else:
                route.path.channel_open.observe(time.perf_counter() - started)
                return Arrival(place, relay, login)
        if failure is None:
            raise DialError(Reason.ROLE, _NO_PRIMARY)
        raise _HopelessError(failure.reason, failure.detail) if hopeless else failure

    async def _request(self, wish: "_Wish", link: Link, place: Place | None) -> CancelRequest | None:
        """What the client that is about to be sent to `place` comes to cancel, if it does; looks where it matters."""
        if wish.request is None and not wish.heard and self._cancels is not None and self._cancels.elsewhere(place):
            wish.request = await self._cancels.hear(wish.client, wish.vigil, link, place)
            wish.heard = place is not None
        return wish.request

    async def _bring(
        self, wish: "_Wish", request: CancelRequest, link: Link, route: Route, usual: Place | None
    ) -> Arrival:
        """Join a client that comes to cancel; where its session may be in several places, the others get copies."""
        places = self._cancels.places(request, usual) if self._cancels else []
        if not places:
            raise DialError(Reason.ROLE, _NO_PRIMARY)
        chosen = usual if usual is not None and usual in places else places[0]
        way = link if chosen.path is route.path else chosen.path.link
        if way is None:
            raise DialError(Reason.TUNNEL, f"the path to {chosen.target} is down, and its sessions with it")
        copies = asyncio.gather(*(copy(request, place) for place in places if place != chosen))
        relay: Relay | None = None
        try:
            relay = await self._dial_one(wish, way, route, chosen.target, _CANCEL_WITHIN)
            await copies
        except DialError:
            route.failed(chosen.target)
            await copies
            raise
        except LinkLostError as error:
            await copies
            raise DialError(Reason.TUNNEL, error.detail) from error
        except BaseException:
            copies.cancel()
            if relay is not None:
                relay.abort(Ending.ABORTED)
            raise
        return Arrival(chosen, relay)

    async def _dial_one(
        self, wish: "_Wish", link: Link, route: Route, target: Endpoint, within: float, tap: Tap | None = None
    ) -> Relay:
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
            return await retry_dial(
                lambda left: link.join(wish.client, target, wish.latency, left, tap),
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


@dataclass
class _Wish:
    """A client to be joined, where its latency counts, and what it comes for, as far as that is known."""

    client: Stream
    vigil: Vigil
    latency: Histogram
    request: CancelRequest | None
    heard: bool = False
