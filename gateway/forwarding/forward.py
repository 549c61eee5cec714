"""Takes clients in, waits for a far side, joins the two, and counts."""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gateway.contracts import Ending, Endpoint, Link, Relay, Stream
from gateway.errors import DialError, LinkLostError, Reason
from gateway.forwarding.aborts import AbortBudget
from gateway.forwarding.admission import Admission
from gateway.forwarding.listener import Listener
from gateway.forwarding.shedding import Pace, first_to_go
from gateway.measure import Histogram, Tally
from gateway.relay.readiness import GONE, readiness
from gateway.relay.sockets import reset

log = logging.getLogger(__name__)

_LEFT = {Ending.FINISHED, Ending.CLIENT_RESET, Ending.ABORTED}
"""It was the client's doing, or ours."""
_FIRST_RETRY = 0.05
_LAST_RETRY = 1.0
_RETRY_FACTOR = 2.0
_LEAST_DIAL = 0.05
"""Seconds that a dial gets even when the hold is used up, or is nothing."""
_NEXT_TARGET_AFTER = 2.0
"""Seconds that a target gets to accept a connection while there is another one to try."""
_DIALS_PER_TARGET = 64
"""At once: at the end of an outage everybody who was held comes at the same moment."""
_SHED_EVERY = (0.1, 0.4)
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
    """

    path: Path
    targets: Callable[[], list[Endpoint]]
    failed: Callable[[Endpoint], None]
    hold: float
    budget: Callable[[Endpoint], AbortBudget | None] = lambda _: None


@dataclass(frozen=True)
class Joined:
    """A relay, and where it leads."""

    __slots__ = ("path", "relay", "target")
    relay: Relay
    target: Endpoint
    path: Path


class Forward:
    """The connections of one backend; a `gateway.contracts.Unit`.

    Args:
        name: The backend's name.
        listeners: Bound already; whoever bound them closes them.
        admission: Who may come in.
        route: Where to.
    """

    def __init__(self, name: str, listeners: list[Listener], admission: Admission, route: Route) -> None:
        self.name = name
        self.listeners = listeners
        self.admission = admission
        self.route = route
        self.latency = Histogram()
        self.accepted = 0
        self.resets: Tally = Tally()
        self.rejected: Tally = Tally()
        self.joined: dict[asyncio.Future[Ending], Joined] = {}
        self._on_ended = self._ended  # one bound method for all of them
        self._ended_to_backend = 0
        self._ended_from_backend = 0
        self._dialling: set[asyncio.Task[None] | None] = set()
        self._group: asyncio.TaskGroup | None = None
        self._rerouted = asyncio.Event()
        """Set, and replaced, when a reload changes the route."""
        self._turns: dict[Endpoint, asyncio.Semaphore] = {}
        self._unwanted: frozenset[Endpoint] = frozenset()
        self._shedding = False

    @property
    def active(self) -> int:
        """Clients that are joined or waiting."""
        return len(self.joined) + len(self._dialling)

    @property
    def to_backend(self) -> int:
        """Bytes sent towards the backend since the start."""
        return self._ended_to_backend + sum(each.relay.to_backend for each in self.joined.values())

    @property
    def from_backend(self) -> int:
        """Bytes sent towards clients since the start."""
        return self._ended_from_backend + sum(each.relay.from_backend for each in self.joined.values())

    async def run(self, ready: Callable[[], None]) -> None:
        """Accept until cancelled; then every client is reset. The listeners stay bound."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            self._start_accepting()
            ready()
            try:
                await asyncio.Event().wait()
            finally:
                self._group = None
                self.abort_all()

    def update(self, listeners: list[Listener], admission: Admission, route: Route) -> None:
        """Change everything for new clients; those that are joined stay as they are.

        Listeners that are left out are not closed: they may belong to another backend from now on.
        """
        self.listeners, self.admission, self.route = listeners, admission, route
        self._turns = {}
        self._rerouted.set()
        self._rerouted = asyncio.Event()
        self._start_accepting()

    def active_on(self, path: Path) -> int:
        """How many clients are joined through `path`."""
        return sum(each.path is path for each in self.joined.values())

    def abort_all(self) -> None:
        """Reset every client, joined or waiting."""
        for task in self._dialling:
            if task is not None:
                task.cancel()
        for each in list(self.joined.values()):
            each.relay.abort(Ending.ABORTED)

    def abort_idle(self, seconds: float) -> None:
        """Reset the clients that wait for nothing and have been silent for so many seconds."""
        before = time.monotonic() - seconds
        for relay in [each.relay for each in self.joined.values()]:
            if relay.last_active < before and not relay.asked:
                relay.abort(Ending.ABORTED)

    def shed(self, unwanted: frozenset[Endpoint]) -> None:
        """Let the clients of these targets go, a few at a time, so that they come to the right one."""
        self._unwanted = unwanted
        if unwanted and not self._shedding and self._group is not None:
            self._shedding = True
            self._group.create_task(self._shed())

    async def _shed(self) -> None:
        pace, clients = None, self._clients_of_unwanted()
        try:
            while clients:
                now = time.monotonic()
                pace = pace or Pace(len(clients), now)
                for relay in first_to_go(clients, pace.due(now)):
                    relay.abort(Ending.MOVED)
                await asyncio.sleep(random.uniform(*_SHED_EVERY))  # noqa: S311 - jitter, not a secret
                clients = self._clients_of_unwanted()
        finally:
            self._shedding = False

    def _clients_of_unwanted(self) -> list[Relay]:
        return [each.relay for each in self.joined.values() if each.target in self._unwanted]

    def _start_accepting(self) -> None:
        if self._group is not None:
            for listener in self.listeners:
                listener.start(self._take)

    def _take(self, client: Stream) -> None:
        refusal = self.admission.refusal(client, self.active)
        if refusal is not None:
            self.rejected[refusal] += 1
            log.debug("client refused", extra={"backend": self.name, "reason": str(refusal)})
            reset(client)
            return
        self.accepted += 1
        if self._group is None:
            reset(client)
            return
        task = self._group.create_task(self._serve(client))
        self._dialling.add(task)
        task.add_done_callback(self._dialling.discard)

    async def _serve(self, client: Stream) -> None:
        """Join one client within the hold, or reset it with a counted reason."""
        vigil = _Vigil(client)
        task = asyncio.current_task()
        relay: Relay | None = None
        try:
            target, path, relay = await self._join(client, vigil)
        except DialError as error:
            self.rejected[error.reason] += 1
            log.debug(
                "client given up",
                extra={"backend": self.name, "reason": error.reason, "detail": error.detail},
            )
            return
        except asyncio.CancelledError:
            self.resets[Ending.CLIENT_RESET if vigil.gone else Ending.ABORTED] += 1
            if not vigil.gone:
                raise
            return
        except Exception:
            # One client's misfortune must not end the others'.
            log.exception("a client could not be served", extra={"backend": self.name})
            self.rejected[Reason.PROTOCOL] += 1
            return
        finally:
            if relay is None:
                vigil.end()
                reset(client)
        self._dialling.discard(task)
        self.joined[relay.ended] = Joined(relay, target, path)
        relay.ended.add_done_callback(self._on_ended)

    def _ended(self, ended: asyncio.Future[Ending]) -> None:
        joined, ending = self.joined.pop(ended), ended.result()
        relay, target = joined.relay, joined.target
        self._ended_to_backend += relay.to_backend
        self._ended_from_backend += relay.from_backend
        if ending is not Ending.FINISHED:
            self.resets[ending] += 1
        if ending is Ending.BACKEND_RESET:
            self.route.failed(target)
        elif relay.to_backend == 0 and ending in _LEFT:
            self._broke_off(target)

    def _broke_off(self, target: Endpoint) -> None:
        budget = self.route.budget(target)
        if budget is not None:
            budget.broke_off()
            if budget.worrying:
                self.route.failed(target)  # a check logs in, and the server forgets

    async def _join(self, client: Stream, vigil: "_Vigil") -> tuple[Endpoint, Path, Relay]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.route.hold
        pause = _FIRST_RETRY
        while True:
            route = self.route  # a reload may have put another in its place
            link = route.path.link
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
                target, relay = await self._dial(client, link, route, deadline)
            except DialError as error:
                if error.reason in _GIVE_UP or loop.time() + pause > deadline:
                    raise
            else:
                return target, route.path, relay
            vigil.start()
            await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - jitter, not a secret
            pause = min(pause * _RETRY_FACTOR, _LAST_RETRY)

    async def _dial(self, client: Stream, link: Link, route: Route, deadline: float) -> tuple[Endpoint, Relay]:
        """Join the first target that can be."""
        failure = DialError(Reason.ROLE, "no target is a writable primary")
        targets = route.targets()
        for target in targets:
            started = time.perf_counter()
            try:
                within = max(deadline - asyncio.get_running_loop().time(), _LEAST_DIAL)
                if target is not targets[-1]:
                    within = min(within, _NEXT_TARGET_AFTER)
                relay = await self._dial_one(client, link, route, target, within)
            except DialError as error:
                failure = error
                route.failed(target)
            except LinkLostError as error:
                raise DialError(Reason.TUNNEL, error.detail) from error
            else:
                route.path.channel_open.observe(time.perf_counter() - started)
                return target, relay
        raise failure

    async def _dial_one(self, client: Stream, link: Link, route: Route, target: Endpoint, within: float) -> Relay:
        budget = route.budget(target)
        if budget is not None and not budget.admits(time.monotonic()):
            raise DialError(
                Reason.HOST_BLOCKED,
                f"{target}: {budget.broken} handshakes were broken off, and at {budget.limit} it refuses everybody",
            )
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
            return await link.join(client, target, self.latency, within)
        finally:
            turn.release()

    async def _wait_link(self, path: Path) -> Link | None:
        """The path's link, or None when a reload leads elsewhere."""
        waiting = [asyncio.ensure_future(path.wait_link()), asyncio.ensure_future(self._rerouted.wait())]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()
        return path.link


class _Vigil:
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
